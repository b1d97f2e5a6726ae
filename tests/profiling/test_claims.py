"""Verdicts from intervals, sentences in words, requirements that end in exit code 3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgedistil.core.errors import ClaimError, InputError
from edgedistil.core.records import (
    Band,
    Claim,
    LatencyStats,
    MemoryStats,
    NotMeasured,
    ProfileRecord,
    ProfileRow,
    provenance,
)
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.claims import (
    Kind,
    predicted_claim,
    require,
    size_claims,
    speed_claim,
    verdict,
)
from edgedistil.profiling.pairing import pairings
from edgedistil.runtime.protocol import Block


def artefact(
    role: Any, precision: Any = "fp32", parameters: int = 100, task: str = "feature-extraction"
) -> Artefact:
    path = Path("model.onnx")
    return Artefact(
        role,
        role,
        task,
        precision,
        path,
        (),
        5_000_000,
        parameters,
        "ab",
        path,
        ("input_ids",),
        None,
    )


def blocks(ratio: float, count: int = 7, spread: float = 0.0) -> list[list[Block]]:
    return [
        [
            Block(first_ns=[int(1e6 * (ratio + spread * i))] * 3, second_ns=[10**6] * 3)
            for i in range(-count, count)
        ]
    ]


def speed(ratio: float, spread: float = 0.0, kind: Kind = "speed") -> Claim:
    return speed_claim(
        kind,
        "encoders",
        artefact("teacher"),
        artefact("student", "int8" if kind != "speed" else "fp32"),
        blocks(ratio, spread=spread),
        device="host",
        method="measured",
        threads=1,
        runtime="onnxruntime 9",
        text="11 sentence pairs",
    )


def record(*claims: Claim, rows: list[ProfileRow] | None = None) -> ProfileRecord:
    return ProfileRecord(
        device="host",
        method="measured",
        rows=rows or [],
        claims=list(claims),
        provenance=provenance("test"),
    )


def row(p50: float | Band = 7.0, peak: int | Band = 2**20, **changes: Any) -> ProfileRow:
    stats = LatencyStats(
        calls=3,
        p50_ms=p50 if isinstance(p50, float) else 1.0,
        p90_ms=NotMeasured(not_measured="too few"),
        p95_ms=NotMeasured(not_measured="p95 needs 20 samples, there are 3"),
        p99_ms=NotMeasured(not_measured="too few"),
        min_ms=1,
        mean_ms=1,
        drift=0.0,
        samples_ms=[1],
    )
    absent = NotMeasured(not_measured="predicted")
    standard: dict[str, Any] = {
        "model": "student",
        "role": "student",
        "task": "feature-extraction",
        "precision": "fp32",
        "file_bytes": 1,
        "parameters": 1,
        "artefact_sha256": "ab",
        "device": "host",
        "method": "measured",
        "runtime": "x",
        "threads": 1,
        "batch": 1,
        "length": 16,
        "latency_ms": p50,
        "latency": stats if isinstance(p50, float) else absent,
        "load_ms": 1.0,
        "first_call_ms": 1.0,
        "start_to_first_result_ms": 1.0,
        "memory": MemoryStats(
            after_import_bytes=1, after_load_bytes=1, after_run_bytes=1, peak_bytes=1
        ),
        "peak_memory_bytes": peak,
        "valid": True,
        "conditions": {},
    }
    return ProfileRow(**{**standard, **changes})


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (1.6, 1.7, "holds"),
        (1.5, 1.59, "does not hold"),
        (1.59, 1.61, "inconclusive"),
        (1.5, 1.6, "inconclusive"),
    ],
)
def test_the_verdict_of_an_interval(low: float, high: float, told: str) -> None:
    assert verdict(low, high, 1.6) == told


def test_a_speed_claim_says_it_in_words_next_to_the_paper() -> None:
    claim = speed(1.8)
    assert claim.verdict == "holds" and claim.value == pytest.approx(1.8)
    assert claim.sentence.startswith(
        '"60% faster" holds for the encoders on host: the student is 1.80 times as fast'
    )
    assert "668 s" in claim.paper and "onnxruntime 9, 1 thread," in claim.conditions
    assert speed(1.5).verdict == "does not hold"
    assert speed(1.6, spread=0.05).verdict == "inconclusive"


def test_what_would_be_deployed_and_whether_int8_pays() -> None:
    deploy, pays = speed(4.0, kind="deploy"), speed(0.9, kind="int8-pays")
    assert "the int8 student is 4.00 times as fast" in deploy.sentence
    assert (pays.threshold, pays.verdict) == (1.0, "does not hold")


def test_size_is_counted_on_the_encoders() -> None:
    def claimed(student: int) -> Claim:
        both = [artefact("teacher", parameters=1000), artefact("student", parameters=student)]
        return size_claims(both, device="host", method="measured")[0]

    assert claimed(605).verdict == "holds"
    assert claimed(770).verdict == "does not hold" and "23.0% fewer" in claimed(770).sentence
    assert size_claims([artefact("student")], device="host", method="measured") == []


def test_the_papers_own_pair_is_smaller_by_its_own_threshold() -> None:
    bert, distilbert = 108_891_648, 66_362_880  # encoders without pooler, counted on random weights
    both = [artefact("teacher", parameters=bert), artefact("student", parameters=distilbert)]
    assert size_claims(both, device="host", method="measured")[0].verdict == "holds"


def test_fill_mask_is_a_second_row_with_a_name() -> None:
    both = [
        artefact(role, task=task)
        for role in ("teacher", "student")
        for task in ("feature-extraction", "fill-mask")
    ]
    found = [(each.kind, each.name) for each in pairings([*both, artefact("student", "int8")])]
    assert found == [
        ("speed", "encoders"),
        ("speed", "fill-mask models"),
        ("deploy", "encoders"),
        ("int8-pays", "encoders"),
    ]


def test_a_wide_prediction_cannot_be_told() -> None:
    claim = predicted_claim(
        "speed",
        "encoders",
        artefact("teacher"),
        artefact("student"),
        1.8,
        Band(low=1.4, high=2.2),
        device="rpi4",
        conditions="x",
        threads=1,
    )
    assert (claim.verdict, claim.method) == ("inconclusive", "predicted")
    assert claim.sentence.startswith("Predicted, not measured:")


def test_requirements_that_hold_pass() -> None:
    require(
        [record(speed(1.8), rows=[row()])],
        ["speedup>=1.6", "p50_ms<=7.5", "peak_mib < 2", "speedup > 1.5"],
    )


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("speedup>=2", "speedup>=2 does not hold: it is 1.8"),
        ("deploy_speedup>=2", "deploy_speedup>=2 is inconclusive: no artefacts"),
        ("p50_ms<=5", "p50_ms<=5 does not hold: it is 7"),
        ("p95_ms<=5", "p95_ms<=5 is inconclusive: p95 needs 20 samples"),
        ("peak_mib<=0.5", "does not hold: it is 1"),
    ],
)
def test_a_requirement_that_does_not_hold_is_exit_code_3(asked: str, told: str) -> None:
    with pytest.raises(ClaimError) as error:
        require([record(speed(1.8), rows=[row()])], [asked])
    assert told in error.value.message and error.value.exit_code == 3


def test_an_interval_that_spans_the_bound_is_not_a_yes() -> None:
    with pytest.raises(ClaimError, match=r"speedup>=1.6 is inconclusive: it is 1\.\d+ to 1\.\d+"):
        require([record(speed(1.6, spread=0.05))], ["speedup>=1.6"])


def test_a_predicted_row_is_judged_by_its_whole_band() -> None:
    predicted = row(Band(low=5, high=9), Band(low=2**20, high=3 * 2**20), method="predicted")
    require([record(rows=[predicted])], ["p50_ms<=9", "peak_mib<=3"])
    with pytest.raises(ClaimError, match="is inconclusive: it is 5 to 9"):
        require([record(rows=[predicted])], ["p50_ms<=8"])


def test_an_invalid_row_answers_nothing() -> None:
    with pytest.raises(ClaimError, match="throttled"):
        require([record(rows=[row(valid=False, invalid_reason="it throttled")])], ["p50_ms<=99"])


@pytest.mark.parametrize(
    "text", ["speedup", "speed>=1.6", "speedup=>1", "speedup>=fast", "p50_ms<=1; rm -rf /"]
)
def test_a_requirement_that_is_none(text: str) -> None:
    with pytest.raises(InputError, match="expected NAME>=FIGURE"):
        require([record(speed(1.8))], [text])


def test_all_failed_requirements_are_told() -> None:
    with pytest.raises(ClaimError) as error:
        require([record(speed(1.8), rows=[row()])], ["speedup>=2", "p50_ms<=1"])
    assert "speedup>=2" in error.value.message and "p50_ms<=1" in error.value.message
