"""Time and memory of a run: measured on this machine, predicted for well-known GPUs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from edgedistil.core.assets import find_asset
from edgedistil.core.distill_records import PlannedDevice, PlannedModel
from edgedistil.core.errors import CorpusError, InputError
from edgedistil.core.recipe import Loss, SourceSpec
from edgedistil.core.records import Band, Count, NotMeasured, this_host
from edgedistil.data.batches import micro_batch_rows
from edgedistil.data.sources import is_url, source_files
from edgedistil.data.text_files import text_bytes
from edgedistil.distill.batches import HELDOUT_BATCH_ROWS
from edgedistil.distill.distributed import precision_of
from edgedistil.distill.plan.flops import ModelShape, flops_per_token, gpu_memory_bytes
from edgedistil.distill.plan.presets import BYTES_PER_TOKEN, GPUS, Gpu, known_text
from edgedistil.distill.plan.timing import Evaluation, TimedObjective, time_steps
from edgedistil.distill.schedule import RunLength

# Shares of a GPU's peak that training is assumed to reach; not measured, and plans say so.
ASSUMED_UTILISATION = (0.15, 0.45)
# Writing, syncing and hashing a checkpoint on an ordinary disk; assumed.
_CHECKPOINT_BYTES_PER_S = 300e6
# Float32 weights and two moments of each parameter.
_CHECKPOINT_BYTES_PER_PARAMETER = 12
# Longest and shortest time in which a GPU launches the kernels of a micro-batch, for which a small
# model waits. Assumed.
_LAUNCH_S = (0.04, 0.01)
# Numbers of GPUs that a run is planned on, besides the recipe's own number of processes.
_GPU_COUNTS = (1, 8)


class UnknownSizeError(InputError):
    """A size is unknown without a download: of a data set, of a URL, of a counted vocabulary."""


@dataclass(frozen=True)
class RunWorkload:
    """Work of a run, on whichever device.

    Attributes:
        length: Steps and tokens of the run.
        block_length: Tokens of a row.
        global_batch: Rows of a step.
        micro_batch: Rows of a forward pass.
        masked_share: Share of masked tokens.
        heldout_tokens: Tokens of a held-out evaluation.
        evaluations: Number of held-out evaluations.
        checkpoint_every_s: Seconds between two checkpoints.
        max_micro_batch_s: Longest micro-batch that is timed, about; None: 20 seconds.
    """

    length: RunLength
    block_length: int
    global_batch: int
    micro_batch: int
    masked_share: float
    heldout_tokens: int
    evaluations: int
    checkpoint_every_s: float
    max_micro_batch_s: float | None = None


def planned_model(model: PreTrainedModel, *, name: str, how: str) -> PlannedModel:
    """Returns the record of a model that a plan is about."""
    shape = ModelShape.of(model)
    return PlannedModel(
        name=name,
        layers=shape.layers,
        hidden=shape.hidden,
        vocabulary=shape.vocabulary,
        parameters=shape.parameters,
        how=how,
    )


# --- tokens of a corpus --------------------------------------------------------------------------


def estimate_tokens(sources: Sequence[SourceSpec], *, heldout_share: float) -> tuple[int, str]:
    """Estimates the training tokens of sources from their sizes.

    Returns:
        Tokens, and how they were estimated.
    Raises:
        UnknownSizeError: The size of a hub data set or of a URL is unknown.
        CorpusError: A file is missing, damaged or of an unknown format, or there is no text.
        InputError: An asset is unknown.
    """
    # English text: other languages have other numbers of bytes per token.
    total, explanations = 0, []
    for spec in sources:
        text_bytes, explanation = _text_size(spec)
        total += text_bytes
        explanations.append(f"{spec.hub or spec.asset or spec.files}: {explanation}")
    tokens = int(total / BYTES_PER_TOKEN * (1 - heldout_share))
    if tokens == 0:
        raise CorpusError(
            f"the corpus has {total} bytes of text: {'; '.join(explanations)}; expected at least "
            "a token for training",
            hint="check the files and `field` of the recipe's corpus sources",
        )
    return tokens, f"estimated at {BYTES_PER_TOKEN} bytes a token; {'; '.join(explanations)}"


def _text_size(spec: SourceSpec) -> tuple[int, str]:
    """Bytes of a source, and where the number comes from."""
    if spec.hub is not None:
        text = known_text(spec.hub, spec.config, spec.split)
        if text is None:
            # One data set may have a configuration for each language.
            name = f"{spec.hub}, {spec.config}" if spec.config else spec.hub
            raise _unknown_size(f"data set '{name}'")
        return text.text_bytes, text.source
    if spec.asset is not None:
        return find_asset(spec.asset).bytes, "its package's size"
    assert spec.files is not None
    if is_url(spec.files):
        raise _unknown_size(f"'{spec.files}'")
    return _files_size(source_files(spec.files))


def _unknown_size(source: str) -> UnknownSizeError:
    return UnknownSizeError(
        f"the size of {source} is unknown, and a plan does not download it",
        hint="plan with train.tokens or train.steps, with files or assets, or run `distill` "
        "itself: it counts the tokens before it starts",
    )


def _files_size(paths: Sequence[Path]) -> tuple[int, str]:
    """Bytes of the text in files, and how they are known."""
    sizes = [text_bytes(path) for path in paths]
    explanation = f"{len(paths)} {'file' if len(paths) == 1 else 'files'}"
    scaled = sum(size.is_scaled for size in sizes)
    if scaled:
        explanation += f", {scaled} of them scaled from the ratio of their first 8 MiB"
    return sum(size.bytes for size in sizes), explanation


# --- this machine --------------------------------------------------------------------------------


def plan_here(
    timed: TimedObjective,
    evaluation: Evaluation,
    workload: RunWorkload,
    *,
    accelerator: Accelerator,
) -> PlannedDevice:
    """Plans the run on this machine with one process, from a few timed steps.

    Args:
        timed: Losses of the run.
        evaluation: How the run evaluates its student.
        workload: The work.
        accelerator: Supplies device and precision.
    """
    timing = time_steps(
        timed.objective,
        evaluation,
        accelerator=accelerator,
        micro_batch=workload.micro_batch,
        length=workload.block_length,
        masked_share=workload.masked_share,
        max_micro_batch_s=workload.max_micro_batch_s,
        teaching=timed.teach,
    )

    # Training, held-out evaluations, and checkpoints.
    micro_batches = workload.global_batch // workload.micro_batch
    micro_batch_s = timing.micro_batch_s - (1 - timed.teacher_share) * timing.teacher_s
    step_s = micro_batches * micro_batch_s + timing.update_s
    training_s = workload.length.steps * step_s
    heldout_batches = workload.heldout_tokens / (HELDOUT_BATCH_ROWS * workload.block_length)
    evaluation_s = heldout_batches * workload.evaluations * timing.evaluation_batch_s
    parameters = sum(parameter.numel() for parameter in timed.objective.student.parameters())
    checkpoints = 1 + int(training_s / workload.checkpoint_every_s)
    checkpoint_bytes = _CHECKPOINT_BYTES_PER_PARAMETER * parameters
    saving_s = checkpoints * checkpoint_bytes / _CHECKPOINT_BYTES_PER_S
    seconds = training_s + evaluation_s + saving_s

    # Say so if the times are extrapolated.
    scaled = ""
    if timing.rows < workload.micro_batch:
        scaled = f", {timing.rows} rows of it"
    return PlannedDevice(
        device=_device_name(accelerator.device),
        method="measured",
        processes=1,
        micro_batch=workload.micro_batch,
        tokens_per_s=workload.length.tokens / training_s,
        seconds=seconds,
        memory_bytes=timing.peak_bytes,
        device_memory_bytes=_device_memory(accelerator.device),
        how=f"median of a few timed steps in {precision_of(accelerator)}{scaled}; "
        f"{evaluation_s / seconds:.0%} of the time is held-out evaluation, "
        f"{saving_s / seconds:.0%} checkpoints",
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"this machine: {torch.cuda.get_device_name(device)}"
    return f"this machine: {this_host().cpu}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def _device_memory(device: torch.device) -> Count:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "cpu":
        return this_host().memory_bytes
    return NotMeasured(not_measured=f"not available for a device of type {device.type}")


# --- well-known GPUs -----------------------------------------------------------------------------


def gpu_counts(processes: int, *, global_batch: int) -> list[int]:
    """Returns the numbers of GPUs to plan a run on: one, eight, and the recipe's own.

    Args:
        processes: Processes that the recipe is meant for.
        global_batch: Rows of a step; all processes take the same number of them.
    """
    # Other numbers are refused when a run starts, so they are not planned.
    counts = sorted({*_GPU_COUNTS, processes})
    return [count for count in counts if global_batch % count == 0]


def plan_gpus(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    workload: RunWorkload,
    loss: Loss | None,
    *,
    processes: int,
    teacher_share: float = 1.0,
    has_original: bool = False,
) -> list[PlannedDevice]:
    """Plans the run on well-known GPUs: FLOPs over an assumed band of shares of their peak.

    Several GPUs are taken to be as fast as so many single ones.

    Args:
        teacher: The teacher.
        student: The student.
        workload: The work.
        loss: Recipe section [loss]; None for an objective without MLM heads.
        processes: Number of GPUs.
        teacher_share: Share of the micro-batches that the teacher computes.
        has_original: Whether the cosine loss reads another copy of the teacher.
    """
    teacher_shape, student_shape = ModelShape.of(teacher), ModelShape.of(student)
    per_token = flops_per_token(
        teacher_shape,
        student_shape,
        length=workload.block_length,
        masked_share=workload.masked_share,
        loss=loss,
        teacher_share=teacher_share,
        has_original=has_original,
    )
    micro_batch = micro_batch_rows(
        global_batch=workload.global_batch, micro_batch=workload.micro_batch, processes=processes
    )
    memory_bytes = gpu_memory_bytes(
        teacher_shape,
        student_shape,
        micro_batch=micro_batch,
        length=workload.block_length,
        teachers=2 if has_original else 1,
        has_head=loss is not None,
    )
    step = _GpuStep(per_token, memory_bytes, micro_batch, processes)
    return [_plan_gpu(gpu, step, workload) for gpu in GPUS]


@dataclass(frozen=True)
class _GpuStep:
    """Costs of a micro-batch on any GPU, and how many GPUs there are."""

    flops_per_token: float
    memory_bytes: int
    micro_batch: int
    processes: int


def _plan_gpu(gpu: Gpu, step: _GpuStep, workload: RunWorkload) -> PlannedDevice:
    # Compute time of a micro-batch, unless launching its kernels takes longer.
    tokens = step.micro_batch * workload.block_length
    # The slower end of both assumptions first, then the faster one.
    rates, is_launch_bound = [], False
    for utilisation, launch_s in zip(ASSUMED_UTILISATION, _LAUNCH_S, strict=True):
        compute_s = tokens * step.flops_per_token / (gpu.peak_tflop_per_s * 1e12 * utilisation)
        is_launch_bound |= compute_s < launch_s
        rates.append(step.processes * tokens / max(compute_s, launch_s))
    bound = "; launches of kernels" if is_launch_bound else ""
    dtype = "bfloat16" if gpu.bfloat16 else "float16"
    low, high = ASSUMED_UTILISATION
    return PlannedDevice(
        device=gpu.name,
        method="predicted",
        processes=step.processes,
        micro_batch=step.micro_batch,
        tokens_per_s=Band(low=min(rates), high=max(rates)),
        seconds=Band(
            low=workload.length.tokens / max(rates), high=workload.length.tokens / min(rates)
        ),
        memory_bytes=step.memory_bytes,
        device_memory_bytes=gpu.memory_gib << 30,
        how=f"assumed {low:.0%} to {high:.0%} of {gpu.peak_tflop_per_s:g} TFLOP/s, {dtype}{bound}",
    )
