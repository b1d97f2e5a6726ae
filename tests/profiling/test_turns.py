"""Disturbed processes are run once more, and a comparison needs enough undisturbed ones."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from edgedistil.core.records import NotMeasured
from edgedistil.profiling.latency import Ratio
from edgedistil.profiling.turns import compare_in_turns
from edgedistil.runtime.protocol import Reply
from tests.profiling.conftest import make_reply


def make_turns(name: str, *, switches: int = 0) -> dict[str, Any]:
    """Four blocks of one call each, in which the first model takes 1.5 times as long."""
    return {
        "name": name,
        "first": "a",
        "second": "b",
        "blocks": [{"first_ns": [3_000_000], "second_ns": [2_000_000]}] * 4,
        "wall_ns": 20_000_000,
        "cpu_ns": 20_000_000,
        "interference": {"involuntary_switches": switches},
    }


class Machine:
    """Runs processes; those whose attempt is listed are disturbed."""

    def __init__(self, disturbed: Collection[int], only: str = "") -> None:
        self.disturbed, self.only = disturbed, only
        self.runs: list[tuple[int, tuple[str, ...]]] = []

    def run(self, number: int, names: Collection[str]) -> Reply:
        attempt = len(self.runs)
        self.runs.append((number, tuple(names)))
        turns = []
        for name in names:
            hit = attempt in self.disturbed and self.only in name
            turns.append(make_turns(name, switches=99 if hit else 0))
        return make_reply("a", alternation=turns)

    def compare(self, *names: str) -> dict[str, Ratio | NotMeasured]:
        comparisons = compare_in_turns(self.run, names, processes=3, threads=1)
        return {name: comparison.ratio(3) for name, comparison in comparisons.items()}


def test_undisturbed_processes_run_once() -> None:
    machine = Machine([])
    ratio = machine.compare("speed")["speed"]
    assert machine.runs == [(0, ("speed",)), (1, ("speed",)), (2, ("speed",))]
    assert isinstance(ratio, Ratio)
    assert (ratio.value, ratio.processes) == (pytest.approx(1.5), 3)


def test_a_disturbed_comparison_is_repeated_alone() -> None:
    machine = Machine([1], only="deploy")
    ratios = machine.compare("speed", "deploy")
    assert machine.runs[-1] == (0, ("deploy",)) and len(machine.runs) == 4
    assert all(isinstance(ratio, Ratio) and ratio.processes == 3 for ratio in ratios.values())


def test_too_few_undisturbed_processes_give_no_ratio() -> None:
    machine = Machine([0, 1, 2, 3])
    ratio = machine.compare("speed")["speed"]
    assert len(machine.runs) == 4, "two more could not be enough"
    assert ratio == NotMeasured(
        not_measured="4 of 4 processes, and 3 undisturbed ones are needed: "
        "12.4 involuntary context switches a call"
    )


@pytest.mark.parametrize(
    ("before", "after", "is_throttled"),
    [(0, 0, False), (0x50000, 0x50000, False), (0, 0x40000, True), (0x4, 0x40004, True)],
)
def test_processes_of_a_machine_that_throttled_do_not_count(
    before: int, after: int, is_throttled: bool
) -> None:
    def run(_number: int, names: Collection[str]) -> Reply:
        return make_reply(
            "a",
            alternation=[make_turns(name) for name in names],
            before={"throttled_bits": before},
            after={"throttled_bits": after},
        )

    comparison = compare_in_turns(run, ["speed"], processes=3, threads=1)["speed"]
    ratio = comparison.ratio(3)
    assert isinstance(ratio, NotMeasured) == is_throttled
    if isinstance(ratio, NotMeasured):
        assert "throttl" in ratio.not_measured


def test_one_undisturbed_process_too_few_is_not_enough() -> None:
    assert isinstance(Machine([0, 1, 2]).compare("speed")["speed"], Ratio)
    assert isinstance(Machine([0, 2, 3, 4]).compare("speed")["speed"], NotMeasured)
