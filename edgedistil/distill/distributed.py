"""Processes of a run: which one is the main process, on which device, in which precision."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list

from edgedistil.core import console
from edgedistil.core.errors import EdgeDistilError, InputError
from edgedistil.core.recipe_objective import LEAST_COMPARED_TEXTS
from edgedistil.data.batches import micro_batch_rows
from edgedistil.models.native_dtype import bfloat16_is_native

T = TypeVar("T")
Precision = Literal["float32", "bfloat16", "float16"]
TORCH_DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# Names that accelerate has for the precisions.
_MIXED_PRECISION: dict[Precision, str] = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
# Number of processes, as torchrun and the MPI launchers of `accelerate launch` pass it.
_WORLD_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
# Other processes wait while the main one tokenizes a corpus or fits a head: hours, for a large one.
_TIMEOUT = timedelta(hours=24)


@contextmanager
def process_group() -> Iterator[PartialState]:
    """Joins the processes of a run; yields the state of this one.

    torchrun and `accelerate launch` start several. Only the main process prints.
    """
    was_initialized = torch.distributed.is_initialized()
    with warnings.catch_warnings():
        # accelerate recommends setting the threads; PyTorch's default is what we want.
        warnings.filterwarnings("ignore", message="OMP_NUM_THREADS/MKL_NUM_THREADS unset")
        state = _partial_state()
    if not state.is_main_process:
        # Until the process ends: the command has nothing to add after the stage, either.
        console.err.quiet = console.out.quiet = True
    try:
        yield state
    finally:
        # accelerate keeps the precision in a global; the next stage may need another one.
        AcceleratorState._reset_state()
        if torch.distributed.is_initialized() and not was_initialized:
            torch.distributed.destroy_process_group()
            PartialState._reset_state()


def _partial_state() -> PartialState:
    # A single process accepts no timeout.
    if not _has_several_processes():
        return PartialState()
    # Without a GPU accelerate needs cpu=True: else every process is its own main process
    # (docs/log.md#torchrun-without-a-gpu).
    return PartialState(cpu=_all_on_cpu(), timeout=_TIMEOUT)


def run_on_main(state: PartialState, work: Callable[[], T]) -> T:
    """Runs `work` in the main process; returns its result in every process.

    The other processes wait. If `work` fails they exit with its exit code, silently: the main
    process reports the error.
    """
    # [exit code of the failure or None, result]
    message: list[Any] = [None, None]
    if state.is_main_process:
        try:
            message[1] = work()
        except EdgeDistilError as error:
            broadcast_object_list([error.exit_code, None])
            raise
    broadcast_object_list(message)
    exit_code, result = message
    if exit_code is not None:
        raise SystemExit(exit_code)
    value: T = result
    return value


def build_accelerator(
    precision: Precision, *, trackers: list[str], folder: Path, unused_parameters: bool
) -> Accelerator:
    """Builds the accelerator of the loop.

    Args:
        precision: Precision of the forward passes.
        trackers, folder: Names of accelerate's trackers, and the folder that they write to.
        unused_parameters: Whether parameters of the student get no gradient; DDP has to know.
    """
    # The precision is a global of accelerate, and fine-tuning may have left another one.
    AcceleratorState._reset_state()
    # Without gradient accumulation: the loop itself decides when gradients are all-reduced.
    ddp = DistributedDataParallelKwargs(find_unused_parameters=unused_parameters)
    accelerator = Accelerator(
        cpu=_all_on_cpu(),
        mixed_precision=_MIXED_PRECISION[precision],
        log_with=trackers or None,
        project_dir=folder,
        kwargs_handlers=[ddp],
    )
    if trackers:
        accelerator.init_trackers(folder.name)
    return accelerator


def precision_of(accelerator: Accelerator) -> Precision:
    """Returns the precision that an accelerator was built with."""
    names = {mixed: precision for precision, mixed in _MIXED_PRECISION.items()}
    return names[accelerator.mixed_precision]


def resolve_precision(
    requested: Literal["float32", "bfloat16", "float16", "auto"], device: torch.device
) -> Precision:
    """Returns the requested precision; for `auto`, bfloat16 if it is native, else float32.

    Raises:
        InputError: float16 without a GPU: it needs a loss scaler, and CPUs gain nothing from it.
    """
    if requested == "auto":
        return "bfloat16" if bfloat16_is_native(device) else "float32"
    if requested == "float16" and device.type == "cpu":
        raise InputError(
            'train.precision = "float16" needs a GPU; this run is on the CPU',
            hint='use "auto": bfloat16 where the CPU computes it, else float32',
        )
    return requested


# --- checks of the settings ----------------------------------------------------------------------


def check_trackers(trackers: list[str]) -> None:
    """Raises InputError if a tracker is unknown, or its package is not installed."""
    installed = [str(tracker) for tracker in get_available_trackers()]
    for tracker in trackers:
        if tracker not in LOGGER_TYPE_TO_CLASS:
            raise InputError(
                f"unknown tracker '{tracker}'",
                hint=f"expected one of: {', '.join(LOGGER_TYPE_TO_CLASS)}",
            )
        if tracker not in installed:
            raise InputError(f"tracker '{tracker}' is not installed", hint=f"pip install {tracker}")


def check_compiler(device: torch.device, *, compiled: bool) -> None:
    """Raises InputError if torch.compile is requested on a CPU without a C++ compiler."""
    # On a CPU torch.compile generates C++; on a GPU it brings its own compiler.
    if not compiled or device.type != "cpu":
        return
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        raise InputError(
            "train.compile needs a C++ compiler on a CPU; none is on the path",
            hint="install g++, or set train.compile = false",
        )


def check_batch(
    *, global_batch: int, micro_batch: int, processes: int, compares_texts: bool = False
) -> None:
    """Checks that the processes can take equal parts; prints the size of other micro-batches.

    Args:
        global_batch: Recipe key train.global_batch.
        micro_batch: Recipe key train.micro_batch.
        processes: Number of processes.
        compares_texts: Whether a loss compares the texts of a micro-batch (objective.similarity).
    Raises:
        InputError: The processes do not divide the global batch, or a micro-batch has too few
            texts to compare.
    """
    if global_batch % processes:
        raise InputError(
            f"world size {processes} does not divide train.global_batch {global_batch}: "
            "every process takes the same number of sequences",
            hint=f"set train.global_batch to a multiple of {processes}, "
            "or start another number of processes",
        )
    rows = micro_batch_rows(global_batch=global_batch, micro_batch=micro_batch, processes=processes)
    if compares_texts and rows < LEAST_COMPARED_TEXTS:
        raise InputError(
            "objective.similarity compares a text with at least two others of its micro-batch; "
            f"train.global_batch {global_batch} over {processes} processes gives micro-batches of "
            f"{rows}",
            hint=f"set train.global_batch to a multiple of {processes * micro_batch}, "
            "or start another number of processes",
        )
    if rows < micro_batch:
        console.say(
            f"micro-batches have {rows} sequences instead of {micro_batch}, "
            f"which does not divide the {global_batch // processes} of each process"
        )


def _has_several_processes() -> bool:
    return any(int(os.environ.get(name, "1")) > 1 for name in _WORLD_SIZES)


def _all_on_cpu() -> bool:
    return _has_several_processes() and not (torch.cuda.is_available() or torch.xpu.is_available())
