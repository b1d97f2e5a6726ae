"""Precision, batch and compiler are checked; stages of one process do not affect each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from edgedistil.core.cpu import Cpu
from edgedistil.core.errors import InputError
from edgedistil.core.recipe import Recipe
from edgedistil.core.rundir import RunDir
from edgedistil.distill import distributed, setup
from edgedistil.distill.initialize import prepare_run
from edgedistil.distill.plan.plan import plan
from edgedistil.models import native_dtype

CPU = torch.device("cpu")


def test_the_world_size_has_to_divide_the_global_batch() -> None:
    distributed.check_batch(global_batch=12, micro_batch=3, processes=4)
    with pytest.raises(
        InputError, match=r"world size 5 does not divide train.global_batch 12.*\n.*a multiple of 5"
    ):
        distributed.check_batch(global_batch=12, micro_batch=3, processes=5)


def test_a_micro_batch_larger_than_a_process_gets_is_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    distributed.check_batch(global_batch=12, micro_batch=6, processes=4)
    assert "micro-batches have 3 sequences instead of 6" in capsys.readouterr().err


def test_a_micro_batch_that_does_not_divide_a_process_s_rows_is_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    distributed.check_batch(global_batch=20, micro_batch=4, processes=2)
    message = capsys.readouterr().err
    assert "micro-batches have 2 sequences instead of 4, which does not divide the 10" in message
    distributed.check_batch(global_batch=24, micro_batch=4, processes=2)
    assert capsys.readouterr().err == ""


def test_a_similarity_needs_three_texts_in_the_micro_batches_of_each_process() -> None:
    """Four sequences of 20 divide them, but not the ten of each of two processes."""
    sizes = {"global_batch": 20, "micro_batch": 4, "processes": 2}
    with pytest.raises(InputError, match=r"two others(.|\n)*micro-batches of 2") as error:
        distributed.check_batch(**sizes, compares_texts=True)
    assert "a multiple of 8" in str(error.value.hint)
    distributed.check_batch(**{**sizes, "global_batch": 24}, compares_texts=True)


def test_a_run_with_too_few_texts_to_compare_is_refused_before_it_is_prepared(
    tiny_recipe: Callable[..., Recipe], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "load_recipe_teacher", lambda section: pytest.fail("prepared"))
    recipe = tiny_recipe(
        objective={"similarity": 1.0}, train={"global_batch": 20, "micro_batch": 4}, world_size=2
    )
    with pytest.raises(InputError, match="micro-batches of 2"):
        plan(recipe)
    processes = SimpleNamespace(device=CPU, num_processes=2, is_main_process=True)
    monkeypatch.setattr(distributed, "run_on_main", lambda state, work: work())
    with pytest.raises(InputError, match="micro-batches of 2"):
        prepare_run(recipe, RunDir(runs / "small"), processes)  # type: ignore[arg-type]


def test_auto_is_bfloat16_only_where_the_cpu_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(native_dtype, "this_cpu", lambda: Cpu("aarch64", "a core", frozenset()))
    assert distributed.resolve_precision("auto", CPU) == "float32"
    assert distributed.resolve_precision("bfloat16", CPU) == "bfloat16"
    with_bfloat16 = Cpu("aarch64", "a core", frozenset({"asimd", "bf16"}))
    monkeypatch.setattr(native_dtype, "this_cpu", lambda: with_bfloat16)
    assert distributed.resolve_precision("auto", CPU) == "bfloat16"


def test_float16_needs_a_gpu() -> None:
    with pytest.raises(InputError, match=r'train.precision = "float16" needs a GPU'):
        distributed.resolve_precision("float16", CPU)


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed.shutil, "which", lambda name: None)
    distributed.check_compiler(CPU, compiled=False)
    with pytest.raises(InputError, match=r"train.compile needs a C\+\+ compiler"):
        distributed.check_compiler(CPU, compiled=True)


def test_stages_of_one_process_may_have_different_precisions() -> None:
    """accelerate keeps the precision of a process in a global; a second stage must get its own."""
    for precision in ("bfloat16", "float32"):
        with distributed.process_group() as state:
            accelerator = distributed.build_accelerator(
                precision, trackers=[], folder=Path(), unused_parameters=False
            )
            assert accelerator.mixed_precision == {"bfloat16": "bf16", "float32": "no"}[precision]
            assert distributed.precision_of(accelerator) == precision
            assert state.is_main_process
            assert distributed.run_on_main(state, lambda: 7) == 7
