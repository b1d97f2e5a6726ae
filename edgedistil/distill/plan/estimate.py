"""What a run would take: here from timed steps, on well-known GPUs from FLOPs and an assumed utilisation."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from transformers import BertForMaskedLM, DistilBertForMaskedLM

from edgedistil.core.assets import find_asset
from edgedistil.core.errors import InputError
from edgedistil.core.family import FAMILIES
from edgedistil.core.recipe import SourceSpec
from edgedistil.core.records import Count, NotMeasured, PlannedDevice, PlannedModel, this_host
from edgedistil.distill.plan.flops import Shape, flops_per_token, gpu_memory_bytes
from edgedistil.distill.plan.presets import BYTES_PER_TOKEN, GPUS, Gpu, known_text
from edgedistil.distill.plan.timing import JUDGED_ROWS, timed_steps
from edgedistil.distill.schedule import RunLength
from edgedistil.distill.train import Objective

ASSUMED_UTILISATION = 0.30
_CHECKPOINT_BYTES_PER_S = 300e6  # written, synced and hashed, on a plain disk
_LEAST_MICRO_BATCH_S = 0.02  # on a GPU: a small model waits for its kernels to be launched


@dataclass(frozen=True)
class Work:
    """What is to be done, whatever does it."""

    length: RunLength
    block_length: int
    global_batch: int
    micro_batch: int
    masked_share: float
    positions: Literal["all", "masked"]
    heldout_tokens: int
    evaluations: int
    checkpoint_every_s: float


def planned_model(
    model: BertForMaskedLM | DistilBertForMaskedLM, *, name: str, how: str
) -> PlannedModel:
    return PlannedModel(
        name=name,
        layers=model.config.num_hidden_layers,
        hidden=model.config.hidden_size,
        vocabulary=model.config.vocab_size,
        parameters=sum(p.numel() for p in model.parameters()),
        how=how,
    )


def estimated_tokens(sources: Sequence[SourceSpec], *, heldout_share: float) -> tuple[int, str]:
    """Training tokens of sources that are not all at hand, and how that was estimated.

    Raises:
        InputError: The size of a hub data set is not known here.
    """
    told, total = [], 0
    for spec in sources:
        if spec.hub is not None:
            known = known_text(spec.hub, spec.config)
            if known is None:
                raise InputError(
                    f"the size of data set '{spec.hub}' is not known here, and a plan does not fetch it",
                    hint="plan with files or assets, or run `distill` itself: it counts the tokens before it starts",
                )
            size, how = known.text_bytes, known.source
        elif spec.asset is not None:
            size, how = find_asset(spec.asset).bytes, "its package's size"
        else:
            found = [Path(p) for p in glob.glob(spec.files or "", recursive=True)]  # noqa: PTH207 - a user's pattern
            size, how = sum(p.stat().st_size for p in found), f"{len(found)} files"
        total += size
        told.append(f"{spec.hub or spec.asset or spec.files}: {how}")
    return int(total / BYTES_PER_TOKEN * (1 - heldout_share)), (
        f"estimated at {BYTES_PER_TOKEN} bytes a token; {'; '.join(told)}"
    )


def plan_here(
    objective: Objective, work: Work, *, accelerator: Accelerator, precision: str
) -> PlannedDevice:
    """This machine, with one process: a few steps timed."""
    timed = timed_steps(
        objective,
        accelerator=accelerator,
        micro_batch=work.micro_batch,
        length=work.block_length,
        masked_share=work.masked_share,
    )
    micro_batches = work.global_batch // work.micro_batch
    training = work.length.steps * (micro_batches * timed.micro_batch_s + timed.update_s)
    judged = work.heldout_tokens / (JUDGED_ROWS * work.block_length)
    judging = judged * work.evaluations * timed.judged_batch_s
    checkpoints = 1 + int(training / work.checkpoint_every_s)
    parameters = sum(p.numel() for p in objective.student.parameters())
    saving = checkpoints * 12 * parameters / _CHECKPOINT_BYTES_PER_S  # weights and two moments
    seconds = training + judging + saving
    scaled = f", {timed.rows} rows of it" if timed.rows < work.micro_batch else ""
    host = this_host()
    return PlannedDevice(
        device=_here(accelerator.device),
        method="measured",
        processes=1,
        micro_batch=work.micro_batch,
        tokens_per_s=work.length.tokens / training,
        seconds=seconds,
        memory_bytes=timed.peak_bytes,
        device_memory_bytes=_device_memory(accelerator.device, host.memory_bytes),
        how=f"median of a few timed steps in {precision}{scaled}; {_share(judging, seconds)} of the time is "
        f"held-out evaluation, {_share(saving, seconds)} checkpoints",
    )


def plan_gpus(
    teacher: BertForMaskedLM,
    student: DistilBertForMaskedLM,
    work: Work,
    *,
    processes: int,
    soft_target: float,
    mlm: float,
    cosine: float,
) -> list[PlannedDevice]:
    """Known GPUs: FLOPs over an assumed share of their peak."""
    shapes = _shape(teacher), _shape(student)
    per_token = flops_per_token(
        *shapes,
        length=work.block_length,
        masked_share=work.masked_share,
        positions=work.positions,
        soft_target=soft_target,
        mlm=mlm,
        cosine=cosine,
    )
    micro_batch = min(work.micro_batch, max(1, work.global_batch // processes))
    needed = gpu_memory_bytes(*shapes, micro_batch=micro_batch, length=work.block_length)
    return [_plan_gpu(gpu, per_token, needed, micro_batch, work, processes) for gpu in GPUS]


def _plan_gpu(
    gpu: Gpu, flops_per_token: float, needed: int, micro_batch: int, work: Work, processes: int
) -> PlannedDevice:
    tokens = micro_batch * work.block_length
    computing_s = tokens * flops_per_token / (gpu.peak_tflop_per_s * 1e12 * ASSUMED_UTILISATION)
    rate = processes * tokens / max(computing_s, _LEAST_MICRO_BATCH_S)
    bound = ", bound by kernel launches" if computing_s < _LEAST_MICRO_BATCH_S else ""
    return PlannedDevice(
        device=gpu.name,
        method="predicted",
        processes=processes,
        micro_batch=micro_batch,
        tokens_per_s=rate,
        seconds=work.length.tokens / rate,
        memory_bytes=needed,
        device_memory_bytes=gpu.memory_gib << 30,
        how=f"{flops_per_token / 1e6:,.0f} MFLOP a token at {ASSUMED_UTILISATION:.0%} (assumed) of the data sheet's "
        f"{gpu.peak_tflop_per_s:g} TFLOP/s in {'bfloat16' if gpu.bfloat16 else 'float16'}{bound}",
    )


def objective_on(
    teacher: BertForMaskedLM,
    student: DistilBertForMaskedLM,
    *,
    device: torch.device,
    soft_target: float,
    mlm: float,
    cosine: float,
    temperature: float,
    positions: Literal["all", "masked"],
) -> Objective:
    """The objective of the run, as the loop has it; `teacher` is frozen."""
    return Objective(
        student.to(device),
        teacher.to(device),
        soft_target=soft_target,
        mlm=mlm,
        cosine=cosine,
        temperature=temperature,
        positions=positions,
    )


def _shape(model: BertForMaskedLM | DistilBertForMaskedLM) -> Shape:
    config = model.config
    inner = getattr(config, FAMILIES[config.model_type].keys.intermediate)
    return Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=inner,
        vocabulary=config.vocab_size,
        parameters=sum(p.numel() for p in model.parameters()),
    )


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}"


def _here(device: torch.device) -> str:
    if device.type == "cuda":
        return f"this machine: {torch.cuda.get_device_name(device)}"
    return f"this machine: {this_host().cpu}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def _device_memory(device: torch.device, host_bytes: Count) -> Count:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "cpu":
        return host_bytes
    return NotMeasured(not_measured=f"no figure for a device of type {device.type}")
