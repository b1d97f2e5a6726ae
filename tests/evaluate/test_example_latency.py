"""Latency of dev examples: the profiler's turns, its warm-up, and its marks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgedistil.core.format import DISTURBED
from edgedistil.evaluate import example_latency
from edgedistil.evaluate.example_latency import ExampleLatency, _measure
from edgedistil.report.evaluation_tables import artefact_score_table
from tests.report.conftest import artefact_score


def test_models_take_turns_in_blocks_on_the_same_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example_latency, "_WARM_UP_CALLS", 0)
    monkeypatch.setattr(example_latency, "_WARM_UP_SECONDS", 0)
    calls: list[tuple[str, Any]] = []

    def model(name: str) -> Any:
        return lambda ids, mask, types: calls.append((name, ids))

    batches: Any = [(n, None, None) for n in range(8)]
    latencies, is_disturbed = _measure([model("fp32"), model("int8")], batches)
    timed = [call for index, call in enumerate(calls) if index % 3]
    assert [name for name, _ in timed[::2]] == ["fp32", "int8", "int8", "fp32"] * 2
    for name in ("fp32", "int8"):
        assert [ids for model_name, ids in timed if model_name == name] == list(range(8))
    assert len(latencies) == 2 and all(latency.p50_ms > 0 for latency in latencies)
    assert is_disturbed == (latencies[0].disturbed is not None)


@pytest.mark.parametrize(("signs", "runs"), [([None], 1), (["steal", None], 2), (["x", "y"], 2)])
def test_a_disturbed_series_is_measured_once_more(
    signs: list[str | None], runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the seam to the timed calls: only what happens with their signs is looked at."""
    measured: list[ExampleLatency] = []

    def measure(_forwards: Any, _batches: Any) -> tuple[list[ExampleLatency], bool]:
        measured.append(ExampleLatency(7.0, signs[len(measured)]))
        return [measured[-1]], measured[-1].disturbed is not None

    class Kind:
        def first_sequences(self, *_: Any) -> list[Any]:
            return []

    class Spec:
        task_kind = Kind()
        training = type("Training", (), {"max_length": 8})

    spec: Any = Spec()
    monkeypatch.setattr(example_latency, "_measure", measure)
    tokenizer: Any = None
    result = example_latency.example_latencies([], tokenizer, [], spec)
    assert len(measured) == runs and result == [measured[-1]]


def test_a_disturbed_latency_has_a_mark_and_its_reason_in_the_table() -> None:
    calm = artefact_score("int8", 0.8, 0.01, latency_ms=1.9)
    disturbed = calm.model_copy(update={"artefact": "fp32", "disturbed": "2% stolen"})
    record: Any = type("Record", (), {"artefacts": [calm, disturbed]})
    table = artefact_score_table(record)
    assert [cells[-1] for cells in table.rows] == ["1.9", f"1.9{DISTURBED}"]
    assert [note for note in table.notes if "2% stolen" in note] == [
        f"† {calm.task} {calm.model} fp32: disturbed: 2% stolen"
    ]


def test_the_conditions_are_those_of_the_code() -> None:
    assert f"{example_latency._BLOCKS} blocks" in example_latency.CONDITIONS
    assert Path(str(example_latency.RUNNER)).name == "runner.py", "the profiler's own calls"
