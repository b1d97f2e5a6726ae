"""Work of the benchmark's encoders, counted on this host and stored for the fits and their test.

    python benchmarks/cost_model_work.py

Exports the encoders of cost_model_shapes.py that do not exist yet, runs each of them once per
length under onnxruntime's profiler, and writes benchmarks/results/cost_model_work.json. Equal nodes
of one call are stored once, with their number. Counts do not depend on the load of the machine.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from page import RESULTS, argument_parser

from edgedistil.core import console
from edgedistil.core.rundir import read_json, write_text
from edgedistil.costmodel.workload import NodeWork

WORK = RESULTS / "cost_model_work.json"
LENGTHS = (16, 32, 64, 128, 256)
PRECISIONS = ("fp32", "int8")
# Names differ from layer to layer and cost nothing.
_COLUMNS = [field.name for field in fields(NodeWork) if field.name != "name"]


def main() -> None:
    argument_parser(__doc__).parse_args()
    # Imported here: reading the stored counts needs neither torch nor exported graphs.
    from cost_model_shapes import FITTED, JUDGED_ENCODERS, export_all, shapes_folder

    from edgedistil.profiling.counting import count_work

    export_all(shapes_folder())
    calls = {}
    for encoder in (*FITTED, *JUDGED_ENCODERS):
        for precision in PRECISIONS:
            counted = count_work(encoder.graph(shapes_folder(), precision), LENGTHS)
            for tokens, work in counted.items():
                calls[f"{encoder.name} {precision} {tokens}"] = pack(work)
    # One call a line: a changed graph is a readable difference.
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(nodes)}" for key, nodes in calls.items())
    columns = json.dumps([*_COLUMNS, "count"])
    write_text(WORK, f'{{"columns": {columns},\n"calls": {{\n{lines}\n}}}}\n')
    console.result(f"{WORK}: {len(calls)} calls")


def record_path(device: str) -> Path:
    """File of cost_model_host.py's measurements of a machine that matches a device file."""
    return RESULTS / f"cost_model_host.{device}.json"


def pack(work: Sequence[NodeWork]) -> list[list[Any]]:
    """Returns the distinct nodes of a call, each with its number."""
    counts = Counter(astuple(replace(node, name=""))[1:] for node in work)
    return [[*node, count] for node, count in counts.items()]


def unpack(nodes: Sequence[Sequence[Any]]) -> list[NodeWork]:
    """Returns the nodes of a call from its distinct ones; their order is lost."""
    work = []
    for *values, count in nodes:
        work += [NodeWork("", *values)] * count
    return work


@cache
def stored_work(shape: str, precision: str, tokens: int) -> list[NodeWork]:
    """Nodes of one call of an encoder, from the stored counts."""
    return unpack(_stored()["calls"][f"{shape} {precision} {tokens}"])


@cache
def _stored() -> Any:
    content = read_json(WORK)
    if content["columns"] != [*_COLUMNS, "count"]:
        raise ValueError(f"{WORK} has other columns than NodeWork; run cost_model_work.py")
    return content


if __name__ == "__main__":
    main()
