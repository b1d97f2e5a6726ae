"""Memory limits: one that fits, one that kills, and the sizes that a user may write."""

from __future__ import annotations

import ctypes
import mmap
import shutil
from pathlib import Path

import pytest

from edgedistil.core.device import HOST
from edgedistil.core.errors import ClaimError, InputError
from edgedistil.core.profile_records import MemoryFit, ProfileRecord
from edgedistil.core.records import NotMeasured, read_record
from edgedistil.core.rundir import RunDir
from edgedistil.profiling import memory_limit
from edgedistil.profiling.artefacts import run_artefacts
from edgedistil.profiling.memory_limit import (
    FitSetting,
    describe_fit,
    measure_fits,
    memory_fit,
    parse_bytes,
)
from edgedistil.profiling.requirements import read_requirements, require_claims
from edgedistil.profiling.workload import build_workloads
from edgedistil.report import terminal
from edgedistil.report.load import load_results
from edgedistil.report.profile_tables import memory_limit_table
from edgedistil.report.sections import profile_section
from tests.profiling.conftest import make_artefact, make_record, make_reply, profile_latest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512M", 2**29),
        ("512m", 2**29),
        ("512MiB", 2**29),
        ("1.5G", 3 * 2**29),
        ("536870912", 2**29),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "M", "-5M", "512X", "1e9", "9" * 400, "512M; rm -rf /"])
def test_a_text_that_is_not_a_size_is_an_error(text: str) -> None:
    with pytest.raises(InputError, match=r"--memory-limit .*: expected a size such as 512M"):
        parse_bytes(text)


def test_a_limit_below_python_itself_is_an_error() -> None:
    with pytest.raises(InputError, match="--memory-limit 16M: expected at least 32M"):
        parse_bytes("16M")


# --- artefacts under a limit ---------------------------------------------------------------------


def run_student(run: RunDir, limit: int) -> MemoryFit:
    """Runs the student's fp32 artefact under a limit."""
    lines = run.heldout_text.read_text(encoding="utf-8").splitlines()
    student = [a for a in run_artefacts(run) if a.role == "student" and a.precision == "fp32"]
    folders = [artefact.tokenizer for artefact in student]
    workloads = build_workloads(folders, lines, source="test", lengths=[13], pairs=1)
    record = measure_fits(limit, student, workloads, threads=1)
    assert record.rows == [], "nothing is timed under a limit"
    assert describe_fit(record.fits[0]) in record.notes
    return record.fits[0]


def test_an_artefact_that_fits_has_a_peak(exported: RunDir) -> None:
    fit = run_student(exported, 2**30)
    assert fit.fits and fit.ended is None and fit.limit_bytes == 2**30 and fit.length == 13
    assert isinstance(fit.peak_memory_bytes, int) and 2**24 < fit.peak_memory_bytes < 2**30
    if "cgroup" in fit.enforced_by and "RLIMIT" not in fit.enforced_by:
        assert isinstance(fit.needed_bytes, int) and 2**24 < fit.needed_bytes < 2**30
    assert "student feature-extraction fp32 fits in 1024 MiB: peak" in describe_fit(fit)


def test_a_limit_below_the_peak_is_met_by_dropping_file_pages() -> None:
    student = make_artefact("student")
    setting = FitSetting(HOST, 60 * 2**20, "cgroup v2", length=13)
    fit = memory_fit(student, make_reply(student.label), setting, ended=None)
    above = fit.model_copy(update={"needed_bytes": 83 * 2**20})
    assert above.dropped_bytes == 23 * 2**20
    assert describe_fit(above) == (
        "student feature-extraction fp32 fits in 60 MiB, by dropping 23 MiB of file pages: "
        "without a limit it has a peak of 83 MiB at 13 tokens (cgroup v2)"
    )
    record = make_record().model_copy(update={"fits": [above]})
    assert "fits, by dropping 23 MiB of file pages" in memory_limit_table(record).rows[0]
    # A requirement is about what it needs.
    require_claims([record], read_requirements(["peak_mib<=83"]))
    with pytest.raises(ClaimError, match="peak_mib<=82 does not hold: it is 83"):
        require_claims([record], read_requirements(["peak_mib<=82"]))
    below = fit.model_copy(update={"needed_bytes": 59 * 2**20})
    assert below.dropped_bytes == fit.dropped_bytes == 0
    assert "dropping" not in describe_fit(below)
    killed = above.model_copy(update={"fits": False, "ended": "killed"})
    assert killed.dropped_bytes == 0


def test_copies_are_not_in_the_page_cache(tmp_path: Path) -> None:
    """`mincore` of a mapping says which of its pages are there."""
    path = tmp_path / "weights"
    path.write_bytes(b"x" * 40 * mmap.PAGESIZE)
    assert resident_pages(path) == 40
    memory_limit._drop_pages(path)
    if resident_pages(path) == 40:
        pytest.skip("the file system keeps its files in memory")
    assert resident_pages(path) == 0


def resident_pages(path: Path) -> int:
    """Pages of a file in the page cache."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        pages = len(view) // mmap.PAGESIZE
        states = (ctypes.c_ubyte * pages)()
        address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(view)))
        result = ctypes.CDLL(None).mincore(address, ctypes.c_size_t(len(view)), states)
        assert result == 0
        return sum(state & 1 for state in states)


def test_an_artefact_above_its_limit_is_killed(exported: RunDir) -> None:
    with memory_limit.memory_limit(36 * 2**20) as limit:
        has_cgroup = limit.group is not None
    fit = run_student(exported, 36 * 2**20)
    assert not fit.fits and fit.ended is not None
    assert "does not fit in 36 MiB" in describe_fit(fit)
    if has_cgroup:
        assert "the kernel killed it (out of memory)" in fit.ended
    else:
        assert "RLIMIT_AS" in fit.enforced_by


def test_without_cgroups_the_limit_is_on_addresses(
    exported: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_limit, "_CGROUP_ROOT", Path("/nonexistent"))
    fit = run_student(exported, 36 * 2**20)
    assert not fit.fits
    assert "RLIMIT_AS" in fit.enforced_by


def test_a_peak_that_is_not_reported_has_a_reason() -> None:
    student = make_artefact("student")
    setting = FitSetting(device="rpi4", limit_bytes=2**29, enforced_by="a watch", length=13)
    reply = make_reply(student.label, models={})
    fits = memory_fit(student, reply, setting, ended=None)
    assert describe_fit(fits) == (
        "student feature-extraction fp32 fits in 512 MiB: "
        "peak not reported by this machine at 13 tokens (a watch)"
    )
    ended = memory_fit(student, reply, setting, ended="it died of SIGKILL")
    assert ended.peak_memory_bytes == NotMeasured(not_measured="it died of SIGKILL")
    assert not ended.fits and ended.ended == "it died of SIGKILL"


def test_the_outcome_is_in_the_run_and_on_its_page(
    exported: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    _, (host,) = profile_latest(lengths=[5], sentence_pairs=3)
    run, (record,) = profile_latest(lengths=[5], sentence_pairs=3, memory_limit="900M")
    assert run is not None
    assert read_record(run.profile_within("host", 900 * 2**20), ProfileRecord) == record
    unlimited = read_record(run.profile("host", "measured"), ProfileRecord)
    assert unlimited == host, "figures without a limit remain"
    assert {fit.precision for fit in record.fits} == {"fp32", "int8"}
    assert all(fit.fits for fit in record.fits)

    terminal.show_profiles(run, [record])
    printed = capsys.readouterr().out
    assert "memory limit" in printed
    assert "900" in printed and record.fits[0].enforced_by.split()[0] in printed
    assert "milliseconds per call" not in printed
    titles = [table.title for table in profile_section(load_results(run)).tables]
    assert titles.count("host: memory limit") == 1
    require_claims([record], read_requirements(["peak_mib<=900"]))


def test_a_model_that_does_not_fit_fails_a_requirement(exported: RunDir) -> None:
    _, (record,) = profile_latest(lengths=[5], sentence_pairs=3, memory_limit="36M")
    assert not any(fit.fits for fit in record.fits)
    with pytest.raises(
        ClaimError, match=r"peak_mib<=900 is inconclusive: .*does not fit in 36 MiB"
    ):
        require_claims([record], read_requirements(["peak_mib<=900"]))


# --- cgroup v2, where this kernel gives its memory controller to v1 ------------------------------


def make_unified_tree(folder: Path) -> Path:
    """A unified hierarchy as the kernel shows it; returns the process's own group."""
    own = folder / "user.slice" / "app.scope"
    own.mkdir(parents=True)
    for group in (folder, folder / "user.slice", own):
        (group / "cgroup.controllers").write_text("memory pids\n")
        (group / "cgroup.procs").write_text("")
    return own


def test_unified_groups_get_their_limit_and_no_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the seam only: a tree of plain files takes the place of the kernel's."""
    own = make_unified_tree(tmp_path)
    monkeypatch.setattr(memory_limit, "_CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(
        memory_limit,
        "_own_cgroup",
        lambda controller: "/user.slice/app.scope" if controller == "" else None,
    )
    groups: list[Path] = []

    def mkdtemp_like_the_kernel(prefix: str, dir: Path) -> str:
        group = dir / f"{prefix}x{len(groups)}"
        group.mkdir()
        groups.append(group)
        for name in ("cgroup.procs", "memory.swap.max"):
            (group / name).write_text("max")
        if dir == own:
            # A group with processes gives its children no controller: the file cannot be written.
            (group / "memory.max").mkdir()
        else:
            (group / "memory.max").write_text("max")
        (group / "memory.events").write_text(
            "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n"
        )
        return str(group)

    monkeypatch.setattr(memory_limit.tempfile, "mkdtemp", mkdtemp_like_the_kernel)
    # The kernel removes interface files together with the group.
    monkeypatch.setattr(Path, "rmdir", lambda group: shutil.rmtree(group))
    limit = memory_limit._limit_with_cgroup_v2(123 * 2**20)
    assert limit is not None and limit.group is not None and limit.mechanism == "cgroup v2"
    assert limit.group.parent == tmp_path / "user.slice", "the own group has processes"
    assert len(groups) == 2 and not groups[0].exists()
    assert (limit.group / "memory.max").read_text() == str(123 * 2**20)
    assert (limit.group / "memory.swap.max").read_text() == "0"
    assert limit.count_kills() == 2, "oom_kill, not oom_group_kill or oom"
    assert limit.prefix[-1] == str(limit.group / "cgroup.procs")


def test_the_group_is_removed_at_the_end() -> None:
    with memory_limit.memory_limit(2**29) as limit:
        group = limit.group
        if group is None:
            pytest.skip("cgroups are not available here")
        assert group.is_dir()
    assert not group.exists()
