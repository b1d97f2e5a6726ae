"""The run directory before the first step: lock, and hints to resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedistil.core.errors import Interrupted, StorageError
from edgedistil.core.rundir import RunDir
from edgedistil.distill.distributed import process_group
from edgedistil.distill.initialize import lock_run, with_resume_hint


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "small")
    run.path.mkdir()
    return run


def test_an_interrupted_run_has_the_command_to_resume(run: RunDir) -> None:
    with pytest.raises(Interrupted) as caught, with_resume_hint(run, processes=1):
        raise Interrupted("interrupted after step 5 of 7")
    assert caught.value.message == "interrupted after step 5 of 7"
    assert caught.value.hint == f"resume with: edgedistil distill {run.recipe} --run small --resume"


def test_several_processes_resume_with_torchrun(run: RunDir) -> None:
    with pytest.raises(Interrupted) as caught, with_resume_hint(run, processes=2):
        raise Interrupted("interrupted")
    assert f"torchrun … -m -- edgedistil distill {run.recipe}" in (caught.value.hint or "")


@pytest.mark.parametrize("initialized", [True, False])
def test_ctrl_c_before_the_loop_and_in_it(run: RunDir, initialized: bool) -> None:
    if initialized:
        run.recipe.write_text("")
    with pytest.raises(Interrupted) as caught, with_resume_hint(run, processes=1):
        raise KeyboardInterrupt
    expected = "run the same command again; it continues with what is in the cache"
    if initialized:
        expected = "resume from the last checkpoint with: edgedistil distill"
    assert (caught.value.hint or "").startswith(expected)


def test_a_full_disk_has_a_hint_only_if_resuming_helps(run: RunDir) -> None:
    with pytest.raises(StorageError) as caught, with_resume_hint(run, processes=1):
        raise StorageError("cannot write x", hint="free some space")
    assert caught.value.hint == "free some space"
    run.recipe.write_text("")
    with pytest.raises(StorageError, match="then resume with"), with_resume_hint(run, processes=1):
        raise StorageError("cannot write x", hint="free some space")
    with pytest.raises(StorageError) as caught, with_resume_hint(run, processes=1):
        raise StorageError("cannot read x")
    assert caught.value.hint is None


@pytest.mark.parametrize("initialized", [True, False])
def test_an_empty_directory_is_removed_with_its_lock(run: RunDir, initialized: bool) -> None:
    if initialized:
        run.recipe.write_text("")
    with process_group() as state, lock_run(run, state):
        pass
    assert run.path.exists() == initialized
