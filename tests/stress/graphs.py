"""ONNX files of any origin: `profile --model FILE`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from tests.stress.case import DEVICE, DONE, INPUT, Case, Prepare
from tests.stress.files import DAMAGES, both, copies, damages, flip_bits, removes, writes
from tests.stress.values import ESCAPE, LONG
from tests.stress.world import STUDENT_GRAPH, World

GROUP = "graphs"
_FOLDER = str(Path(STUDENT_GRAPH).parent.parent)
_MEASURE = ("--length", "8", "--threads", "1")
_PREDICT = ("--device", "rpi4", "--length", "8", "--threads", "1")
_NOT_ONNX: dict[str, bytes] = {
    "empty": b"",
    "text": b"this is a text\n" * 50,
    "zeros": bytes(4096),
    "one byte": b"\x08",
    "huge length": b"\x0a\xff\xff\xff\xff\x7f",
    "random": bytes((i * 7919) % 256 for i in range(4096)),
    "zip": b"PK\x03\x04" + bytes(100),
    "ort": b"\x00\x00\x00\x00ORTM" + bytes(200),
    "pickle": b"\x80\x04\x95\x00\x00\x00\x00.",
    "deep": b"\x3a\x04" * 2000,
}
Edit = Callable[[Any], None]


def cases(world: World, random: Random) -> Iterator[Case]:
    """Yields the cases of this group."""
    package = copies(world, _FOLDER)

    def case(
        name: str,
        *steps: Prepare,
        file: str = STUDENT_GRAPH,
        codes: tuple[int, ...] = (INPUT,),
        how: tuple[str, ...] = _PREDICT,
    ) -> Case:
        return Case(GROUP, name, ("profile", "--model", file, *how), codes, both(package, *steps))

    for name, content in _NOT_ONNX.items():
        yield case(f"not ONNX: {name}", writes({STUDENT_GRAPH: content}))
    for name, edit in _EDITS.items():
        # A graph that loads and fails is the device's to report.
        for how_name, how in (("measured", _MEASURE), ("predicted", _PREDICT)):
            codes = (DONE, INPUT, DEVICE) if name in _LENIENT else (INPUT, DEVICE)
            step = _edits_graph(STUDENT_GRAPH, edit)
            yield case(f"{name} ({how_name})", step, codes=codes, how=how)
    for number in range(8):
        step = damages(STUDENT_GRAPH, flip_bits(3))
        yield case(f"bits {number}", step, codes=(DONE, INPUT, DEVICE))
    for name in ("cut", "noise"):
        for number in range(3):
            step = damages(STUDENT_GRAPH, DAMAGES[name])
            yield case(f"{name} {number}", step, codes=(DONE, INPUT, DEVICE))
    data = f"{STUDENT_GRAPH}_data"
    for name, damage in DAMAGES.items():
        # A user's own file may have any weights.
        codes = (INPUT, DEVICE) if name in ("cut", "empty") else (DONE, INPUT, DEVICE)
        yield case(f"external data {name}", damages(data, damage), codes=codes)
    yield case("external data missing", removes(data))
    yield case("external data is a pipe", removes(data), lambda w, _r: os.mkfifo(w / data))
    # Without one, any token ids are used.
    missing = removes(f"{_FOLDER}/tokenizer.json")
    yield case("no tokenizer", missing, codes=(DONE, INPUT))
    for name, content in (("list", b"[]"), ("empty", b""), ("deep", b"[" * 100_000)):
        step = writes({f"{_FOLDER}/tokenizer.json": content})
        yield case(f"tokenizer {name}", step)
        step = writes({f"{_FOLDER}/config.json": content})
        yield case(f"config {name}", step, codes=(DONE, INPUT))
    for name, argument in {
        "missing": "nope.onnx",
        "folder": _FOLDER,
        "device": "/dev/zero",
        "empty": "",
        "long": LONG,
        "escape": ESCAPE,
        "lines": "a\nb.onnx",
    }.items():
        yield case(f"path {name}", file=argument)
    pipe = f"{_FOLDER}/pipe.onnx"
    yield case("path a pipe", lambda w, _r: os.mkfifo(w / pipe), file=pipe)
    for name, file in (
        ("escape", "x\x1b[31my.onnx"),
        ("markup", "[red]x[nope].onnx"),
        ("shell", "$(touch pwned).onnx"),
        ("240 letters", "m" * 240 + ".onnx"),
    ):
        target = f"{_FOLDER}/onnx/{file}"
        step = _edits_graph(STUDENT_GRAPH, _do_nothing, target)
        yield case(f"file named {name}", step, file=target, codes=(DONE, INPUT), how=_MEASURE)


def _edits_graph(name: str, edit: Edit, target: str | None = None) -> Prepare:
    """Returns a step that changes an ONNX file."""

    def prepare(work: Path, _random: Random) -> None:
        import onnx

        model = onnx.load(str(work / name), load_external_data=False)
        edit(model)
        (work / (target or name)).write_bytes(model.SerializeToString())

    return prepare


def _do_nothing(_model: Any) -> None:
    pass


def _external(key: str, value: str) -> Edit:
    def edit(model: Any) -> None:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == key:
                    entry.value = value

    return edit


def _replace_graph(builder: str) -> Edit:
    """Returns an edit that replaces the model by one of the fixtures' hostile graphs."""

    def edit(model: Any) -> None:
        from tests.fixtures import hostile_graphs

        model.CopyFrom(getattr(hostile_graphs, builder)())

    return edit


def _input_type(model: Any) -> None:
    for value in model.graph.input:
        value.type.tensor_type.elem_type = 8


def _rename_inputs(model: Any) -> None:
    for number, value in enumerate(model.graph.input):
        value.name = f"other_{number}"


def _no_inputs(model: Any) -> None:
    del model.graph.input[:]


def _no_outputs(model: Any) -> None:
    del model.graph.output[:]


def _no_nodes(model: Any) -> None:
    del model.graph.node[:]


def _unknown_operator(model: Any) -> None:
    model.graph.node[0].op_type = "Nope"


def _own_domain(model: Any) -> None:
    model.graph.node[0].domain = "evil.example"


def _cycle(model: Any) -> None:
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]


def _opset(version: int) -> Edit:
    def edit(model: Any) -> None:
        for opset in model.opset_import:
            opset.version = version

    return edit


def _ir_version(model: Any) -> None:
    model.ir_version = 99


def _no_opset(model: Any) -> None:
    del model.opset_import[:]


def _fixed_shape(length: int) -> Edit:
    def edit(model: Any) -> None:
        for value in model.graph.input:
            value.type.tensor_type.shape.dim[1].dim_value = length

    return edit


def _huge_tensor(model: Any) -> None:
    tensor = model.graph.initializer[0]
    del tensor.dims[:]
    tensor.dims.extend([2**40, 2**20])


def _negative_tensor(model: Any) -> None:
    tensor = model.graph.initializer[0]
    del tensor.dims[:]
    tensor.dims.extend([-5, 3])


def _hostile_names(model: Any) -> None:
    for node in model.graph.node:
        node.name = f"\x1b[31m{node.name}</script>"


def _long_names(model: Any) -> None:
    model.graph.name = LONG * 20
    model.producer_name = ESCAPE


def _hostile_output(model: Any) -> None:
    old = model.graph.output[0].name
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == old:
                node.output[index] = "\x1b[31m[/nope]\n"
    model.graph.output[0].name = "\x1b[31m[/nope]\n"


_EDITS: dict[str, Edit] = {
    "endless loop": _replace_graph("endless_graph"),
    "gigabytes": _replace_graph("hungry_graph"),
    "texts as inputs": _input_type,
    "other input names": _rename_inputs,
    "no inputs": _no_inputs,
    "no outputs": _no_outputs,
    "no nodes": _no_nodes,
    "unknown operator": _unknown_operator,
    "unknown domain": _own_domain,
    "cycle": _cycle,
    "opset 0": _opset(0),
    "opset 999": _opset(999),
    "IR version 99": _ir_version,
    "no opset": _no_opset,
    "fixed length 13": _fixed_shape(13),
    "fixed length 10^9": _fixed_shape(10**9),
    "huge tensor": _huge_tensor,
    "negative tensor": _negative_tensor,
    "names with escapes": _hostile_names,
    "long names": _long_names,
    "output with escapes": _hostile_output,
    "data outside": _external("location", "../../../../../etc/passwd"),
    "data absolute": _external("location", "/etc/passwd"),
    "data location long": _external("location", LONG),
    "data location NUL": _external("location", "a\0b"),
    "data location empty": _external("location", ""),
    "data offset text": _external("offset", "abc"),
    "data offset negative": _external("offset", "-8"),
    "data offset beyond": _external("offset", str(10**15)),
    "data length text": _external("length", "abc"),
    "data length huge": _external("length", str(2**62)),
}
# These may be sound for onnxruntime, or can be profiled with other inputs.
_LENIENT = {
    "endless loop",
    "gigabytes",
    "other input names",
    "fixed length 13",
    "names with escapes",
    "long names",
    "output with escapes",
    "data length huge",
    "no nodes",
    "no inputs",
}
