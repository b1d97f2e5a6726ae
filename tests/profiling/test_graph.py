"""Graphs of other exporters: names, types and shapes of inputs, and the sizes of tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedistil.core.errors import InputError, ModelError
from edgedistil.profiling.graph import GraphFacts, read_graph_facts
from tests.fixtures.tiny_model import TinyModel, tiny_encoder
from tests.profiling.conftest import profile_latest

INT64, INT32, FLOAT = TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT
FREE = ["batch", "sequence"]


def value(name: str, kind: int = INT64, shape: Sequence[Any] | None = tuple(FREE)) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def facts(*inputs: Any) -> GraphFacts:
    graph = helper.make_graph([], "graph", list(inputs), [])
    return read_graph_facts(graph, Path("m.onnx"))


@pytest.mark.parametrize(
    "names",
    [
        ("input_ids", "attention_mask", "token_type_ids"),
        ("input_word_ids", "input_mask", "input_type_ids"),
        ("bert/input_ids:0", "bert/input_mask:0", "bert/segment_ids:0"),
        ("serving_default_input_ids:0", "serving_default_attention_mask:0", "segment_ids_1"),
        ("tokens", "mask", "segments"),
        ("Input_Ids", "Attention_Mask", "Token_Type_Ids"),
    ],
)
def test_inputs_are_known_by_the_names_of_several_exporters(names: tuple[str, ...]) -> None:
    inputs = facts(*(value(name) for name in names)).inputs
    assert list(inputs) == list(names)
    assert list(inputs.values()) == ["input_ids", "attention_mask", "token_type_ids"]


def test_the_squad_model_of_the_model_zoo_is_known() -> None:
    shape = ["unk", 256]
    names = ("segment_ids:0", "input_mask:0", "input_ids:0")
    graph = facts(
        value("unique_ids_raw_output___9:0", INT64, ["unk"]),
        *(value(name, INT64, shape) for name in names),
    )
    assert graph.length == 256
    assert list(graph.inputs.values()) == [
        "row_ids",
        "token_type_ids",
        "attention_mask",
        "input_ids",
    ]


def test_a_single_input_is_the_ids() -> None:
    assert facts(value("x.1", INT32)).inputs == {"x.1": "input_ids"}


def test_shapes_may_be_fixed_or_absent() -> None:
    graph = facts(value("input_ids", INT64, [1, 128]), value("attention_mask", INT64, [1, 128]))
    assert (graph.batch, graph.length) == (1, 128)
    graph = facts(value("input_ids", INT64, [8, "sequence"]))
    assert (graph.batch, graph.length) == (8, None)
    graph = facts(value("input_ids", INT64, None))
    assert (graph.batch, graph.length) == (1, None)


def test_choices_are_the_sequences_of_a_call() -> None:
    shape = ["batch", "choices", "sequence"]
    graph = facts(value("input_ids", INT64, shape), value("attention_mask", INT64, shape))
    assert (graph.batch, graph.length) == (4, None)
    graph = facts(value("input_ids", INT64, [1, 5, 64]))
    assert (graph.batch, graph.length) == (5, 64)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], r"\(none\): none of them takes token ids"),
        ([value("input_ids"), value("x")], r"x \(int64, batch × sequence\): x is unknown"),
        ([value("a"), value("b")], "a is unknown"),
        ([value("attention_mask")], "none of them takes token ids"),
        ([value("input_ids"), value("ids")], "two of them take the same"),
        ([value("input_ids", FLOAT)], r"input_ids \(float, .*input_ids does not take integers"),
        (
            [value("pixel_values", FLOAT, [1, 3, 224, 224])],
            r"pixel_values \(float, 1 × 3 × 224 × 224\)",
        ),
        (
            [value("input_ids"), value("attention_mask", INT64, [1, 1, 1, 8])],
            "attention_mask has 4 dimensions",
        ),
        (
            [value("input_ids", INT64, [1, 4, 8]), value("attention_mask")],
            "only some of them have an axis of choices",
        ),
        ([value("input_ids", INT64, [2, 4, 8])], "a call has several questions"),
        (
            [value("input_ids", INT64, [1, 8]), value("attention_mask", INT64, [1, 16])],
            "their fixed sizes contradict each other",
        ),
        ([value("input_ids", INT64, [1, 2**40])], "a call would have over 1,048,576 tokens"),
    ],
)
def test_inputs_that_text_cannot_provide_are_listed(inputs: list[Any], message: str) -> None:
    with pytest.raises(ModelError, match=f"m.onnx has the inputs .*{message}") as error:
        facts(*inputs)
    assert "expected input_ids, optionally attention_mask" in error.value.message
    assert error.value.exit_code == 2


def test_tables_are_found_through_casts_and_scales() -> None:
    tables = [
        numpy_helper.from_array(np.zeros((53, 4), np.int8), "words"),
        numpy_helper.from_array(np.zeros((17, 4), np.float32), "e.position_embeddings.weight"),
        numpy_helper.from_array(np.zeros((2, 4), np.float32), "segments"),
        numpy_helper.from_array(np.zeros((1, 17), np.int64), "e.position_ids.embedded"),
    ]
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=INT64),
        helper.make_node("DequantizeLinear", ["words", "scale"], ["words32"]),
        helper.make_node("Gather", ["words32", "ids"], ["x"]),
        helper.make_node("Gather", ["segments", "token_type_ids"], ["y"]),
    ]
    inputs = [value("input_ids", INT32), value("token_type_ids")]
    graph = read_graph_facts(helper.make_graph(nodes, "g", inputs, [], tables), Path("m.onnx"))
    assert (graph.vocabulary, graph.positions, graph.segments) == (53, 17, 2)


def test_fused_embeddings_have_their_tables_as_inputs() -> None:
    tables = [
        numpy_helper.from_array(np.zeros((rows, 4), np.float32), name)
        for name, rows in (("a", 53), ("b", 17), ("c", 2))
    ]
    node = helper.make_node(
        "EmbedLayerNormalization", ["input_ids", "token_type_ids", "a", "b", "c"], ["x"]
    )
    inputs = [value("input_ids", INT32), value("token_type_ids", INT32)]
    graph = read_graph_facts(helper.make_graph([node], "g", inputs, [], tables), Path("m.onnx"))
    assert (graph.vocabulary, graph.positions, graph.segments) == (53, 17, 2)


# --- profiles of such graphs ---------------------------------------------------------------------


def changed_graph(folder: Path, tiny_folder: Path, names: dict[str, str], shape: list[Any]) -> Path:
    """The tiny encoder with int32 inputs of other names and shapes, next to its tokenizer."""
    model = tiny_encoder()
    casts = []
    for item in model.graph.input:
        old = item.name
        item.CopyFrom(value(names[old], INT32, shape))
        casts.append(helper.make_node("Cast", [names[old]], [old], to=INT64))
    for node in reversed(casts):
        model.graph.node.insert(0, node)
    onnx.save(model, folder / "other.onnx")
    (folder / "tokenizer.json").write_bytes((tiny_folder / "tokenizer.json").read_bytes())
    return folder / "other.onnx"


@pytest.mark.parametrize("device", ["host", "rpi4"])
def test_a_graph_of_another_exporter_is_profiled(
    tiny_model_folder: Path, tmp_path: Path, device: str
) -> None:
    names = {"input_ids": "bert/ids:0", "attention_mask": "input_mask"}
    model = changed_graph(tmp_path, tiny_model_folder, names, [2, 24])
    _, (record,) = profile_latest(model=model, device=device, lengths=None, sentence_pairs=3)
    assert {(row.length, row.batch) for row in record.rows} == {(24, 2), ("sentence-pairs", 2)}
    assert all(row.valid for row in record.rows)


def test_ids_beyond_the_vocabulary_are_found_before_anything_runs(
    tiny: TinyModel, tiny_model_folder: Path, tmp_path: Path
) -> None:
    model = tiny_encoder()
    (words,) = (tensor for tensor in model.graph.initializer if tensor.name == "embeddings")
    words.CopyFrom(numpy_helper.from_array(np.zeros((13, 32), np.float32), "embeddings"))
    onnx.save(model, tmp_path / "small.onnx")
    (tmp_path / "tokenizer.json").write_bytes((tiny_model_folder / "tokenizer.json").read_bytes())
    with pytest.raises(ModelError, match=r"gives the token id \d+, but .* vocabulary of 13 tokens"):
        profile_latest(model=tmp_path / "small.onnx")


def test_a_file_that_the_runtime_refuses_is_named(tiny_model_folder: Path, tmp_path: Path) -> None:
    node = helper.make_node("NoSuchOperator", ["input_ids"], ["y"])
    graph = helper.make_graph([node], "g", [value("input_ids")], [value("y")])
    onnx.save(helper.make_model(graph, ir_version=9), tmp_path / "odd.onnx")
    (tmp_path / "tokenizer.json").write_bytes((tiny_model_folder / "tokenizer.json").read_bytes())
    with pytest.raises(ModelError, match=r"odd\.onnx: onnxruntime .* cannot run it .*NoSuch"):
        profile_latest(model=tmp_path / "odd.onnx")


def test_a_model_with_fewer_positions_than_it_says_is_named(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    table = numpy_helper.from_array(np.zeros(11, np.float32), "table")
    one = numpy_helper.from_array(np.array(1, np.int64), "one")
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["shape"]),
        helper.make_node("Expand", ["one", "shape"], ["ones"]),
        helper.make_node("CumSum", ["ones", "one"], ["positions"]),
        helper.make_node("Gather", ["table", "positions"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [value("input_ids")], [value("y", FLOAT, FREE)], [table, one]
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=opsets), tmp_path / "short.onnx")
    (tmp_path / "tokenizer.json").write_bytes((tiny_model_folder / "tokenizer.json").read_bytes())
    with pytest.raises(ModelError, match=r"in the phase 'steady .* 17'") as error:
        profile_latest(model=tmp_path / "short.onnx")
    assert "it may have fewer positions" in str(error.value)


def test_too_many_threads_are_an_error(tiny_model_folder: Path) -> None:
    with pytest.raises(InputError, match="--threads is 100000: expected 1 to 1024"):
        profile_latest(model=tiny_model_folder / "model.onnx", threads=[100_000])
