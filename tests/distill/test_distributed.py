from __future__ import annotations

import pytest
import torch

from edgedistil.core.cpu import Cpu
from edgedistil.core.errors import InputError
from edgedistil.distill import distributed as processes
from edgedistil.models import native_dtype

CPU = torch.device("cpu")


def test_world_size_has_to_divide_the_global_batch() -> None:
    processes.check_batch(global_batch=12, micro_batch=3, processes=4)
    with pytest.raises(
        InputError, match=r"world size 5 does not divide train.global_batch 12.*\n.*a multiple of 5"
    ):
        processes.check_batch(global_batch=12, micro_batch=3, processes=5)


def test_auto_is_bfloat16_only_where_the_cpu_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(native_dtype, "this_cpu", lambda: Cpu("aarch64", "a core", frozenset()))
    assert processes.chosen_precision("auto", CPU) == "float32"
    assert processes.chosen_precision("bfloat16", CPU) == "bfloat16"
    with_bfloat16 = Cpu("aarch64", "a core", frozenset({"asimd", "bf16"}))
    monkeypatch.setattr(native_dtype, "this_cpu", lambda: with_bfloat16)
    assert processes.chosen_precision("auto", CPU) == "bfloat16"


def test_float16_needs_a_gpu() -> None:
    with pytest.raises(InputError, match=r'train.precision = "float16" needs a GPU'):
        processes.chosen_precision("float16", CPU)


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.shutil, "which", lambda name: None)
    processes.check_compiler(CPU, compiled=False)
    with pytest.raises(InputError, match=r"train.compile needs a C\+\+ compiler"):
        processes.check_compiler(CPU, compiled=True)


def test_one_after_another_in_other_precisions() -> None:
    """accelerate keeps the precision of a process in a global; a second stage must get its own."""
    for precision in ("bfloat16", "float32"):
        with processes.joined() as state:
            made = processes.accelerator(
                precision, trackers=[], folder=processes.Path("."), unused_parameters=False
            )
            assert made.mixed_precision == {"bfloat16": "bf16", "float32": "no"}[precision]
            assert state.is_main_process
            assert processes.from_main(state, lambda: 7) == 7
