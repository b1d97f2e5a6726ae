"""Memory limits: one that fits, one that kills, and the sizes that a user may write."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedistil.errors import InputError
from edgedistil.profiling import fit
from edgedistil.profiling.artefacts import run_artefacts
from edgedistil.profiling.workload import build
from edgedistil.records import NotMeasured, ProfileRecord
from edgedistil.rundir import RunDir


@pytest.mark.parametrize(
    ("text", "expected"),
    [("512M", 2**29), ("512m", 2**29), ("512MiB", 2**29), ("1.5G", 3 * 2**29), ("536870912", 2**29)],
)
def test_sizes(text: str, expected: int) -> None:
    assert fit.parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "M", "-5M", "512X", "1e9", "16M", "512M; rm -rf /"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="--memory-limit"):
        fit.parse_bytes(text)


def tried(run: RunDir, limit: int) -> ProfileRecord:
    lines = run.heldout_text.read_text(encoding="utf-8").splitlines()
    student = [a for a in run_artefacts(run) if a.role == "student" and a.precision == "fp32"]
    work = build(student[0].tokenizer, lines, source="test", lengths=[13], pairs=1)
    return fit.fit_within(limit, student, work, threads=1)


def test_what_fits_is_told_with_its_peak(exported: RunDir) -> None:
    record = tried(exported, 2**30)
    assert record.rows[0].valid and isinstance(record.rows[0].peak_memory_bytes, int)
    assert "fits in 1024 MiB: peak" in record.notes[0]
    assert "memory limit" in record.rows[0].conditions


def test_a_limit_that_kills(exported: RunDir) -> None:
    with fit.fence(36 * 2**20) as fence:
        in_a_group = fence.group is not None
    record = tried(exported, 36 * 2**20)
    row = record.rows[0]
    assert not row.valid and row.invalid_reason is not None
    assert isinstance(row.latency_ms, NotMeasured)
    assert "does not fit in 36 MiB" in row.invalid_reason
    if in_a_group:
        assert "the kernel killed it (out of memory)" in row.invalid_reason
    else:
        assert "RLIMIT_AS" in row.conditions["memory limit"]


def test_without_a_cgroup_it_is_an_address_limit(exported: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "_GROUPS", Path("/nonexistent"))
    record = tried(exported, 36 * 2**20)
    assert not record.rows[0].valid
    assert "RLIMIT_AS" in record.rows[0].conditions["memory limit"]


def test_the_group_is_gone_afterwards() -> None:
    with fit.fence(2**29) as fence:
        group = fence.group
        if group is None:
            pytest.skip("no cgroup can be made here")
        assert group.is_dir()
    assert not group.exists()
