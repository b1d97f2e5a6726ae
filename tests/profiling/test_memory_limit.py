"""Memory limits: one that fits, one that kills, and the sizes that a user may write."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgedistil.core.errors import ClaimError, InputError
from edgedistil.core.records import MemoryFit, ProfileRecord, read_record
from edgedistil.core.rundir import RunDir
from edgedistil.profiling import claims, stage
from edgedistil.profiling import memory_limit as fit
from edgedistil.profiling.artefacts import run_artefacts
from edgedistil.profiling.workload import build
from edgedistil.report.load import load_results


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
    assert fit.parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "M", "-5M", "512X", "1e9", "16M", "512M; rm -rf /"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="--memory-limit"):
        fit.parse_bytes(text)


def tried(run: RunDir, limit: int) -> MemoryFit:
    lines = run.heldout_text.read_text(encoding="utf-8").splitlines()
    student = [a for a in run_artefacts(run) if a.role == "student" and a.precision == "fp32"]
    work = build(student[0].tokenizer, lines, source="test", lengths=[13], pairs=1)
    record = fit.fit_within(limit, student, work, threads=1)
    assert record.rows == [], "nothing is timed under a limit"
    assert fit.tell_fit(record.fits[0]) in record.notes
    return record.fits[0]


def test_what_fits_is_told_with_its_peak(exported: RunDir) -> None:
    found = tried(exported, 2**30)
    assert found.fits and found.ended is None and found.limit_bytes == 2**30 and found.length == 13
    assert isinstance(found.peak_memory_bytes, int) and 2**24 < found.peak_memory_bytes < 2**30
    assert "fits in 1024 MiB: peak" in fit.tell_fit(found)


def test_a_limit_that_kills(exported: RunDir) -> None:
    with fit.fence(36 * 2**20) as fence:
        in_a_group = fence.group is not None
    found = tried(exported, 36 * 2**20)
    assert not found.fits and found.ended is not None
    assert "does not fit in 36 MiB" in fit.tell_fit(found)
    if in_a_group:
        assert "the kernel killed it (out of memory)" in found.ended
    else:
        assert "RLIMIT_AS" in found.enforced_by


def test_without_a_cgroup_it_is_an_address_limit(
    exported: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "_GROUPS", Path("/nonexistent"))
    found = tried(exported, 36 * 2**20)
    assert not found.fits
    assert "RLIMIT_AS" in found.enforced_by


def test_the_outcome_lies_in_the_run_and_on_its_page(
    exported: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgedistil.report import terminal
    from edgedistil.report.sections import profile_section

    asked = {"lengths": [5], "threads": [1], "sentence_pairs": 3}
    _, (host,) = stage.profile("latest", **asked)  # type: ignore[arg-type]
    run, (record,) = stage.profile("latest", memory_limit="900M", **asked)  # type: ignore[arg-type]
    assert run is not None
    assert read_record(run.profile_within("host", 900 * 2**20), ProfileRecord) == record
    assert read_record(run.profile("host", "measured"), ProfileRecord) == host, (
        "figures without a limit stay"
    )
    assert {each.precision for each in record.fits} == {"fp32", "int8"} and all(
        each.fits for each in record.fits
    )
    terminal.show_profiles(run, [record])
    shown = capsys.readouterr().out
    assert (
        "memory limit" in shown
        and "900" in shown
        and record.fits[0].enforced_by.split()[0] in shown
    )
    assert "milliseconds per call" not in shown
    section = profile_section(load_results(run))
    assert [table.title for table in section.tables].count("host: memory limit") == 1
    claims.require([record], ["peak_mib<=900"])


def test_a_model_that_does_not_fit_fails_a_requirement(exported: RunDir) -> None:
    _, (record,) = stage.profile(
        "latest", lengths=[5], threads=[1], sentence_pairs=3, memory_limit="36M"
    )
    assert not any(each.fits for each in record.fits)
    with pytest.raises(
        ClaimError, match=r"peak_mib<=900 is inconclusive: .*does not fit in 36 MiB"
    ):
        claims.require([record], ["peak_mib<=900"])


# --- cgroup v2, where this kernel gives its memory controller to v1 -----------------------------------------


def unified_tree(folder: Path, *, controllers: str = "memory pids") -> Path:
    """A unified hierarchy as the kernel shows it: a directory below makes its interface files, as mkdir does there."""
    own = folder / "user.slice" / "app.scope"
    own.mkdir(parents=True)
    for group in (folder, folder / "user.slice", own):
        (group / "cgroup.controllers").write_text(f"{controllers}\n")
        (group / "cgroup.procs").write_text("")
    return own


def test_unified_groups_get_their_limit_and_no_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the seam only: `_made` writes into a tree of plain files; the kernel's own answer is not in it."""
    own = unified_tree(tmp_path)
    monkeypatch.setattr(fit, "_GROUPS", tmp_path)
    monkeypatch.setattr(
        fit, "_own_group", lambda controller: "/user.slice/app.scope" if controller == "" else None
    )
    made: list[Path] = []

    def like_the_kernel(prefix: str, dir: Path) -> str:
        group = dir / f"{prefix}x{len(made)}"
        group.mkdir()
        made.append(group)
        for name in ("cgroup.procs", "memory.swap.max"):
            (group / name).write_text("max")
        if (
            dir == own
        ):  # processes live in `own`: its children get no controller, and no file can be made there
            (group / "memory.max").mkdir()
        else:
            (group / "memory.max").write_text("max")
        (group / "memory.events").write_text(
            "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n"
        )
        return str(group)

    monkeypatch.setattr(fit.tempfile, "mkdtemp", like_the_kernel)
    monkeypatch.setattr(
        Path, "rmdir", lambda group: shutil.rmtree(group)
    )  # the kernel removes interface files along
    found = fit._cgroup_v2(123 * 2**20)
    assert found is not None and found.group is not None and found.how == "cgroup v2"
    assert found.group.parent == tmp_path / "user.slice", (
        "its own group has processes: the one above it is asked"
    )
    assert len(made) == 2 and not made[0].exists()
    assert (found.group / "memory.max").read_text() == str(123 * 2**20)
    assert (found.group / "memory.swap.max").read_text() == "0"
    assert found.kills() == 2, "oom_kill, not oom_group_kill or oom"
    assert found.prefix[-1] == str(found.group / "cgroup.procs")


def test_the_group_is_gone_afterwards() -> None:
    with fit.fence(2**29) as fence:
        group = fence.group
        if group is None:
            pytest.skip("no cgroup can be made here")
        assert group.is_dir()
    assert not group.exists()
