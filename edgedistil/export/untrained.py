"""Graphs of a model without trained weights: trace, passes, plan and storage are the export's.

Nothing is compared with PyTorch, so only sizes and times of these graphs mean something.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from edgedistil.core.precision import Precision
from edgedistil.core.task import Task
from edgedistil.export.calibrate import Feeds, collect_rows
from edgedistil.export.input_scales import InputScale, select_scales
from edgedistil.export.int8_arithmetic import Int8Plan
from edgedistil.export.passes import run_standard_passes
from edgedistil.export.quantization_target import advise_int8
from edgedistil.export.quantize import group_by_input, quantizable_linears, quantize_dynamic
from edgedistil.export.quantize_invariant import quantize_invariant
from edgedistil.export.storage import save_graph
from edgedistil.export.target import find_target
from edgedistil.export.trace import trace_model

# Calls of random tokens, where no text is given.
RANDOM_CALLS, RANDOM_LENGTH, RANDOM_TOKENS = 4, 64, 400


def save_precisions(
    model: torch.nn.Module,
    files: dict[Precision, Path],
    *,
    task: Task,
    feeds: Sequence[Feeds] | None = None,
    target: str | None = None,
) -> None:
    """Exports a model with external weights.

    Args:
        model: The model.
        files: Precision → file; fp32, int8 and int8-dynamic are known, fp32 is needed.
        task: Its task.
        feeds: Text that int8 is calibrated on; random tokens if None, enough for speed.
        target: Device that int8 is made for; None: this host.
    Raises:
        DeviceFileError: The device is unknown.
    """
    graph = trace_model(model, task=task)
    run_standard_passes(graph, model.config)
    save_graph(graph, files["fp32"], external=True)
    plan = advise_int8(find_target(target), signed=True).plan
    if "int8-dynamic" in files:
        dynamic = graph.clone()
        quantize_dynamic(dynamic, plan)
        save_graph(dynamic, files["int8-dynamic"], external=True)
    if "int8" in files:
        scales = _input_scales(graph, files["fp32"], plan, feeds or _random_feeds(graph))
        quantize_invariant(graph, plan, scales)
        save_graph(graph, files["int8"], external=True)


def _input_scales(
    graph: ir.Model, float_file: Path, plan: Int8Plan, feeds: Sequence[Feeds]
) -> dict[str, InputScale]:
    linears = quantizable_linears(graph, plan)
    names = [value.name or "" for value in group_by_input(linears)]
    inputs = [value.name or "" for value in graph.graph.inputs]
    # Texts without a second segment: zeros, as every client sends.
    complete = [{name: feed.get(name, feed["input_ids"] * 0) for name in inputs} for feed in feeds]
    return select_scales(linears, collect_rows(float_file, names, complete), plan)


def _random_feeds(graph: ir.Model) -> list[Feeds]:
    rng = np.random.default_rng(0)
    shape = (1, RANDOM_LENGTH)
    known = {
        "attention_mask": np.ones(shape, np.int64),
        "token_type_ids": np.zeros(shape, np.int64),
    }
    names = [value.name or "" for value in graph.graph.inputs]
    return [
        {name: known.get(name, rng.integers(5, RANDOM_TOKENS, shape)) for name in names}
        for _ in range(RANDOM_CALLS)
    ]
