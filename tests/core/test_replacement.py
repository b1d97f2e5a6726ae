"""No signal, error or kill in the middle of a replacement loses the earlier version."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from edgedistil.core import replacement, rundir
from edgedistil.core.errors import StorageError
from edgedistil.core.replacement import exchange, recover, recover_below, without_scratch
from edgedistil.core.rundir import create_run, open_run, replacing, run_names, write_text
from edgedistil.core.scratch import lock_folder

TRACED_FILES = {replacement.__file__, rundir.__file__}
# More steps than a replacement has: the loop below ends at the first number that is not reached.
MAX_STEPS = 5000


# --- what is replaced ----------------------------------------------------------------------------


def write_folder(path: Path, content: str) -> None:
    (path / "onnx").mkdir(parents=True)
    (path / "config.json").write_text(content)
    (path / "onnx" / "model").write_text(content)


def read_folder(path: Path) -> str:
    """The content, if both files have the same."""
    config, model = (path / "config.json").read_text(), (path / "onnx" / "model").read_text()
    assert config == model
    return config


def write_file(path: Path, content: str) -> None:
    path.write_text(content)


def read_file(path: Path) -> str:
    return path.read_text()


KINDS: dict[str, tuple[Callable[[Path, str], None], Callable[[Path], str]]] = {
    "file": (write_file, read_file),
    "folder": (write_folder, read_folder),
}


@pytest.fixture(params=["in one step", "in two steps"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the kernel's exchange, and as on a file system without it."""
    if request.param == "in two steps":
        monkeypatch.setattr(replacement, "exchange", lambda first, second: False)
    return str(request.param)


def replace_with(path: Path, kind: str, content: str) -> None:
    write, _read = KINDS[kind]
    with replacing(path) as unfinished:
        write(unfinished, content)


# --- an event at one step ------------------------------------------------------------------------


@contextmanager
def calling_at_step(number: int, event: Callable[[], None]) -> Iterator[list[int]]:
    """Calls `event` before the instruction of this number in the traced files.

    Yields a list whose length is the number of instructions that were reached.
    """
    reached: list[int] = []

    def trace(frame: FrameType, kind: str, _argument: Any) -> Any:
        if frame.f_code.co_filename not in TRACED_FILES:
            return None
        frame.f_trace_opcodes = frame.f_code.co_filename == replacement.__file__
        if kind in ("line", "opcode"):
            reached.append(frame.f_lineno)
            if len(reached) == number:
                event()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield reached
    finally:
        sys.settrace(before)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise_interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def replaced_in_a_child(target: Path, kind: str, number: int, event: Callable[[], None]) -> bool:
    """Replaces in a process of its own, with an event at one step; whether the step was reached."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, _raise_interrupt)
        with suppress(KeyboardInterrupt), calling_at_step(number, event) as reached:
            replace_with(target, kind, "new")
        os._exit(int(len(reached) >= number))
    _pid, status = os.waitpid(child, 0)
    return status != 0


@pytest.mark.parametrize(("event", "stride"), [(interrupt, 5), (kill, 11)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_at_any_step_leaves_the_old_or_the_new_version(
    tmp_path: Path, kind: str, how: str, event: Callable[[], None], stride: int
) -> None:
    write, read = KINDS[kind]
    contents = []
    for number in range(1, MAX_STEPS, stride):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        target = folder / "target"
        write(target, "old")
        was_reached = replaced_in_a_child(target, kind, number, event)
        # After a kill, the next opening may have to put the earlier version back.
        if event is interrupt:
            read(target)
        recover(folder)
        contents.append(read(target))
        assert names_in(folder) == ["target"], how
        if not was_reached:
            break
    assert set(contents) == {"old", "new"}
    assert len(contents) > 10


@pytest.mark.parametrize("failing", ["rename", "replace", "fsync"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_at_any_call_leaves_the_old_version(
    tmp_path: Path, kind: str, how: str, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, read = KINDS[kind]
    owner: Any = os if failing == "fsync" else Path
    original = getattr(owner, failing)
    for number in range(1, 20):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        target = folder / "target"
        write(target, "old")
        calls = []

        def call(*args: Any, calls: list[int] = calls, number: int = number) -> Any:
            calls.append(1)
            if len(calls) == number:
                raise OSError(errno.EIO, "Input/output error")
            return original(*args)

        monkeypatch.setattr(owner, failing, call)
        failed = False
        try:
            replace_with(target, kind, "new")
        except StorageError:
            failed = True
        monkeypatch.setattr(owner, failing, original)
        # Only the folder's own entry is synced after the new version has its name.
        expected = {"old"} if failed else {"new"}
        if failing == "fsync":
            expected.add("new")
        assert read(target) in expected
        assert names_in(folder) == ["target"] or not failed, how
        if len(calls) < number:
            assert not failed
            return
    pytest.fail("the replacement never came to its end")


def test_an_error_while_putting_back_keeps_the_old_version_for_the_next_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacement, "exchange", lambda first, second: False)
    target = tmp_path / "target"
    write_folder(target, "old")
    original = Path.rename

    def replace(self: Path, to: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def rename(self: Path, to: Path) -> Any:
        if to == target:
            raise OSError(errno.EIO, "Input/output error")
        return original(self, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        patch.setattr(Path, "rename", rename)
        with pytest.raises(StorageError, match="Input/output error"):
            replace_with(target, "folder", "new")
    assert not target.exists()
    recover(tmp_path)
    assert read_folder(target) == "old"
    assert names_in(tmp_path) == ["target"]


# --- exchange ------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is a call of Linux")
def test_two_names_are_exchanged(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", "1")
    write_file(tmp_path / "b", "2")
    assert exchange(tmp_path / "a", tmp_path / "b")
    assert read_file(tmp_path / "a") == "2"
    assert read_folder(tmp_path / "b") == "1"


def test_what_cannot_be_exchanged_is_reported(tmp_path: Path) -> None:
    assert not exchange(tmp_path / "missing", tmp_path / "also-missing")


@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("old", ["file", "folder", "link", "nothing"])
def test_any_kind_replaces_any_other(tmp_path: Path, old: str, new: str, how: str) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    write_folder(elsewhere, "untouched")
    if old == "link":
        target.symlink_to(elsewhere)
    elif old != "nothing":
        KINDS[old][0](target, "old")
    replace_with(target, new, "new")
    assert KINDS[new][1](target) == "new", how
    assert not target.is_symlink()
    assert read_folder(elsewhere) == "untouched"
    assert names_in(tmp_path) == ["elsewhere", "target"]


# --- after a kill --------------------------------------------------------------------------------


def orphan(folder: Path, name: str) -> Path:
    """A folder whose process was killed between the two renames."""
    scratch = folder / f".{name}.abcd123_"
    write_folder(scratch / "old", "old")
    write_folder(scratch / name, "half of the new")
    return scratch


def test_opening_a_run_puts_an_earlier_export_back(runs: Path) -> None:
    run = create_run("mine")
    scratch = orphan(run.exports, "student-fill-mask")
    assert read_folder(open_run("mine").export("student", "fill-mask")) == "old"
    assert not scratch.exists()


def test_continuing_a_run_puts_an_earlier_model_back(runs: Path) -> None:
    run = create_run("mine")
    write_text(run.recipe, "x")
    orphan(run.path, "teacher")
    assert read_folder(create_run("mine", resume=True).teacher) == "old"


def test_an_earlier_version_does_not_replace_a_later_one(tmp_path: Path) -> None:
    scratch = orphan(tmp_path, "target")
    write_folder(tmp_path / "target", "new")
    recover(tmp_path)
    assert read_folder(tmp_path / "target") == "new"
    assert not scratch.exists()


def test_replacing_removes_what_killed_processes_left_in_the_folder(tmp_path: Path) -> None:
    for name in ("target", "target.v2", "other"):
        write_file(tmp_path / name, "old")
        scratch = tmp_path / f".{name}.abcd1234"
        scratch.mkdir()
        write_file(scratch / name, "half")
    (tmp_path / ".empty.abcd1234").mkdir()
    write_text(tmp_path / "target", "new")
    assert names_in(tmp_path) == ["other", "target", "target.v2"]
    assert read_file(tmp_path / "other") == "old"


def test_the_scratch_folder_of_a_live_process_stays(tmp_path: Path) -> None:
    scratch = orphan(tmp_path, "target")
    descriptor = lock_folder(scratch)
    recover(tmp_path)
    assert (scratch / "old").exists()
    assert not (tmp_path / "target").exists()
    os.close(descriptor)
    recover(tmp_path)
    assert read_folder(tmp_path / "target") == "old"


def test_two_writers_of_one_name_do_not_disturb_each_other(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with replacing(target) as first, replacing(target) as second:
        write_folder(first, "first")
        write_folder(second, "second")
    assert read_folder(target) == "first"
    assert names_in(tmp_path) == ["target"]


def test_a_hidden_folder_of_the_user_is_not_a_scratch_folder(tmp_path: Path) -> None:
    mine = tmp_path / ".target.backup01"
    mine.mkdir()
    write_file(mine / "notes.txt", "precious")
    write_text(tmp_path / "target", "new")
    recover_below(tmp_path)
    assert read_file(mine / "notes.txt") == "precious"


def test_scratch_folders_are_not_runs(runs: Path) -> None:
    create_run("mine")
    (runs / ".latest.abcd1234").mkdir()
    assert run_names() == ["mine"]


# --- messages ------------------------------------------------------------------------------------


def test_a_message_names_the_path_of_the_user_and_not_the_scratch_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    with (
        pytest.raises(StorageError, match=re.escape(f"cannot write {target}/state.json: No space")),
        replacing(target) as unfinished,
        rundir.storage_errors(unfinished / "state.json"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_only_scratch_folders_leave_a_path() -> None:
    path = Path("runs/.a.b/other/.hidden.abcd1234/x/.step-1.abcd1234/step-1/state.json")
    assert without_scratch(path) == Path("runs/.a.b/other/.hidden.abcd1234/x/step-1/state.json")
