"""The processes of a run: who is the main one, on which device, in which precision."""

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
from accelerate.utils import broadcast_object_list

from edgedistil.core import console
from edgedistil.core.errors import EdgeDistilError, InputError
from edgedistil.models.native_dtype import bfloat16_is_native

T = TypeVar("T")
Precision = Literal["float32", "bfloat16", "float16"]
TORCH_DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_ACCELERATE = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
# What torchrun and the MPI launchers of `accelerate launch` tell their processes.
_WORLD_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
# Other processes wait while the main one tokenizes a corpus or fits a head: hours, with a large one.
_PATIENCE = timedelta(hours=24)


@contextmanager
def joined() -> Iterator[PartialState]:
    """This process among the others (torchrun and `accelerate launch` start several); only the main one speaks."""
    grouped_before = torch.distributed.is_initialized()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="OMP_NUM_THREADS/MKL_NUM_THREADS unset"
        )  # its default is ours too
        # A single process takes no timeout: it has no one to wait for. Several without a GPU each: gloo, when told so.
        state = PartialState(cpu=_all_on_cpu(), timeout=_PATIENCE) if _several() else PartialState()
    if not state.is_main_process:
        console.err.quiet = console.out.quiet = (
            True  # to the end of this process: its command has nothing to add
        )
    try:
        yield state
    finally:
        # accelerate keeps the precision of the process in a global: the next stage may want another one.
        AcceleratorState._reset_state()
        if torch.distributed.is_initialized() and not grouped_before:
            torch.distributed.destroy_process_group()
            PartialState._reset_state()


def from_main(state: PartialState, work: Callable[[], T]) -> T:
    """What `work` returns in the main process, in every process. The others wait, and end with it when it fails."""
    said: list[Any] = [None, None]
    if state.is_main_process:
        try:
            said[1] = work()
        except EdgeDistilError as error:
            broadcast_object_list([error.exit_code, None])
            raise
    broadcast_object_list(said)
    if said[0] is not None:
        raise SystemExit(said[0])  # the main process tells why
    result: T = said[1]
    return result


def accelerator(
    precision: Precision, *, trackers: list[str], folder: Path, unused_parameters: bool
) -> Accelerator:
    """An accelerator for the loop; trackers write below `folder`."""
    from accelerate.utils import DistributedDataParallelKwargs

    # The precision of a process is a global of accelerate's, and a fine-tuning before us may have left another one.
    AcceleratorState._reset_state()
    # The loop itself says when gradients are all-reduced and when a step is due, so accelerate counts nothing.
    ddp = DistributedDataParallelKwargs(find_unused_parameters=unused_parameters)
    made = Accelerator(
        cpu=_all_on_cpu(),
        mixed_precision=_ACCELERATE[precision],
        log_with=trackers or None,
        project_dir=folder,
        kwargs_handlers=[ddp],
    )
    if trackers:
        made.init_trackers(folder.name)
    return made


def chosen_precision(
    wanted: Literal["float32", "bfloat16", "float16", "auto"], device: torch.device
) -> Precision:
    """`wanted`, or for `auto` bfloat16 where the device computes it natively and else float32.

    Raises:
        InputError: float16 without a GPU: it needs a loss scaler, and CPUs gain nothing from it.
    """
    if wanted == "auto":
        return "bfloat16" if bfloat16_is_native(device) else "float32"
    if wanted == "float16" and device.type == "cpu":
        raise InputError(
            'train.precision = "float16" needs a GPU; this run is on the CPU',
            hint='use "auto": bfloat16 where the CPU computes it, else float32',
        )
    return wanted


def check_trackers(trackers: list[str]) -> None:
    """
    Raises:
        InputError: One is unknown, or its package is not installed.
    """
    installed = [str(tracker) for tracker in get_available_trackers()]
    for tracker in trackers:
        if tracker not in LOGGER_TYPE_TO_CLASS:
            raise InputError(
                f"no tracker '{tracker}'",
                hint=f"accelerate knows {', '.join(LOGGER_TYPE_TO_CLASS)}",
            )
        if tracker not in installed:
            raise InputError(f"tracker '{tracker}' is not installed", hint=f"pip install {tracker}")


def check_compiler(device: torch.device, *, compiled: bool) -> None:
    """
    Raises:
        InputError: torch.compile writes C++ for a CPU, and there is no compiler.
    """
    if (
        compiled
        and device.type == "cpu"
        and not any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    ):
        raise InputError(
            "train.compile needs a C++ compiler on a CPU, and there is none on the path",
            hint="install g++, or set train.compile = false",
        )


def check_batch(*, global_batch: int, micro_batch: int, processes: int) -> None:
    """
    Raises:
        InputError: The processes cannot take equal parts of the global batch.
    """
    if global_batch % processes:
        raise InputError(
            f"world size {processes} does not divide train.global_batch {global_batch}: "
            "every process takes the same number of sequences",
            hint=f"set train.global_batch to a multiple of {processes}, or start another number of processes",
        )
    if micro_batch > global_batch // processes:
        console.say(
            f"micro-batches of {global_batch // processes} sequences: the global batch gives a process no more"
        )


def _several() -> bool:
    return any(int(os.environ.get(name, "1")) > 1 for name in _WORLD_SIZES)


def _all_on_cpu() -> bool:
    return _several() and not (torch.cuda.is_available() or torch.xpu.is_available())
