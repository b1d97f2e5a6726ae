"""Graphs of a model as `edgedistil export` builds them: same trace, passes, plan and storage."""

from __future__ import annotations

from pathlib import Path

import torch

from edgedistil.core.task import Task
from edgedistil.export.passes import run_standard_passes
from edgedistil.export.quantization_target import advise_int8
from edgedistil.export.quantize import quantize_dynamic
from edgedistil.export.storage import save_graph
from edgedistil.export.target import find_target
from edgedistil.export.trace import trace_model


def save_fp32_and_int8(
    model: torch.nn.Module, *, task: Task, fp32_file: Path, int8_file: Path
) -> None:
    """Exports a model for this host in both precisions, with external weights."""
    graph = trace_model(model, task=task)
    run_standard_passes(graph, model.config)
    save_graph(graph, fp32_file, external=True)
    # Quantizes the graph in place, so the fp32 file is written first.
    quantize_dynamic(graph, advise_int8(find_target(None), signed=True).plan)
    save_graph(graph, int8_file, external=True)
