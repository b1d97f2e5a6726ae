"""Verdicts from intervals, the sentences of claims, and which artefacts claims compare."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgedistil.core.profile_records import Claim
from edgedistil.core.records import Band, NotMeasured
from edgedistil.profiling.claims import (
    ClaimSetting,
    Pairing,
    PredictedRatio,
    SpeedKind,
    pairings,
    predicted_claim,
    size_claims,
    speed_claim,
)
from edgedistil.profiling.latency import speed_ratio
from tests.profiling.conftest import make_artefact

SETTING = ClaimSetting(
    device="host", method="measured", threads=1, runtime="onnxruntime 9", text="11 sentence pairs"
)


def make_pairing(kind: SpeedKind) -> Pairing:
    student = make_artefact("student", "fp32" if kind == "speed" else "int8")
    return Pairing(kind, "encoders", make_artefact("teacher"), student)


def make_speed_claim(ratio: float, spread: float = 0.0, kind: SpeedKind = "speed") -> Claim:
    processes = [[(ratio + spread * i, 1.0)] for i in range(-3, 4)]
    return speed_claim(make_pairing(kind), speed_ratio(processes), SETTING)


def test_a_speed_claim_is_a_sentence_next_to_the_papers_figure() -> None:
    claim = make_speed_claim(1.8)
    assert claim.verdict == "holds" and claim.value == pytest.approx(1.8)
    assert claim.sentence.startswith(
        '"60% faster" holds for the encoders on host with 1 thread: '
        "the student is 1.80 times as fast"
    )
    assert "668 s" in claim.paper
    assert "onnxruntime 9, 1 thread, 11 sentence pairs;" in claim.conditions
    assert claim.figure == "speed ratio, encoders, 1 thread"
    assert make_speed_claim(1.5).verdict == "does not hold"
    assert make_speed_claim(1.6, spread=0.05).verdict == "inconclusive"


@pytest.mark.parametrize("kind", ["speed", "deploy", "int8-pays"])
def test_disturbed_processes_decide_nothing(kind: SpeedKind) -> None:
    reason = NotMeasured(not_measured="9 of 9 processes")
    claim = speed_claim(make_pairing(kind), reason, SETTING)
    assert claim.verdict == "inconclusive"
    assert claim.value == claim.low == claim.high == reason
    assert "is inconclusive" in claim.sentence
    assert claim.sentence.endswith(": the machine was disturbed: 9 of 9 processes.")
    assert claim.disturbed == "9 of 9 processes"
    assert claim.figure == make_speed_claim(1.8, kind=kind).figure, "requirements find it"


def test_sessions_that_take_turns_stop_spinning_and_the_claim_says_so() -> None:
    ratio = speed_ratio([[(1.8, 1.0)]] * 6)
    one, two = (
        speed_claim(make_pairing("speed"), ratio, replace(SETTING, threads=threads))
        for threads in (1, 2)
    )
    assert "force_spinning_stop" in two.conditions and "spinning" not in one.conditions


def test_deploy_compares_with_the_fp32_teacher() -> None:
    claim = make_speed_claim(4.0, kind="deploy")
    assert claim.sentence.startswith(
        "That the int8 student is faster than the fp32 teacher on host with 1 thread holds: "
        "it is 4.00 times as fast"
    )
    assert (claim.threshold, claim.paper) == (1.0, "not in the paper")


@pytest.mark.parametrize("kind", ["deploy", "int8-pays"])
def test_claims_that_are_not_the_papers_do_not_use_its_words(kind: SpeedKind) -> None:
    for ratio in (4.0, 0.9):
        assert "60%" not in make_speed_claim(ratio, kind=kind).sentence
    disturbed = NotMeasured(not_measured="9 of 9 processes")
    assert "60%" not in speed_claim(make_pairing(kind), disturbed, SETTING).sentence
    assert "60%" in make_speed_claim(4.0).sentence


def test_int8_pays_from_a_ratio_of_one() -> None:
    claim = make_speed_claim(0.9, kind="int8-pays")
    assert (claim.threshold, claim.verdict) == (1.0, "does not hold")
    assert claim.sentence.startswith(
        "That int8 pays on host with 1 thread does not hold: it is 0.90 times"
    )


def test_a_prediction_with_a_wide_band_is_inconclusive() -> None:
    setting = ClaimSetting(
        device="rpi4", method="predicted", threads=4, runtime="onnxruntime", text="29 tokens"
    )
    predicted = PredictedRatio(1.8, Band(low=1.4, high=2.2), counted=2.0)
    claim = predicted_claim(make_pairing("speed"), predicted, setting)
    assert (claim.verdict, claim.method, claim.device) == ("inconclusive", "predicted", "rpi4")
    assert (claim.value, claim.low, claim.high) == (1.8, 1.4, 2.2)
    assert claim.sentence.startswith(
        'Predicted, not measured: "60% faster" is inconclusive for the encoders on rpi4 '
        "with 4 threads: "
    )
    assert claim.sentence.endswith("; counting multiply-adds alone: 2.00.")
    assert claim.conditions.endswith("onnxruntime, 4 threads, 29 tokens")


def test_a_prediction_without_a_measured_scaling_has_no_verdict() -> None:
    setting = ClaimSetting(
        device="rpi4", method="predicted", threads=4, runtime="onnxruntime", text="29 tokens"
    )
    band = Band(low=1.2, high=3.4)
    decided = predicted_claim(
        make_pairing("int8-pays"), PredictedRatio(2.0, band, counted=4.0), setting
    )
    assert decided.verdict == "holds"
    unknown = PredictedRatio(2.0, band, counted=4.0, undecided="never measured there")
    claim = predicted_claim(make_pairing("int8-pays"), unknown, setting)
    assert claim.verdict == "inconclusive" and "is inconclusive" in claim.sentence
    assert claim.conditions.endswith("no verdict: never measured there")


def test_size_is_counted_on_the_encoders() -> None:
    def claim_of(student: int) -> Claim:
        teacher = make_artefact("teacher", parameters=1000)
        both = [teacher, make_artefact("student", parameters=student)]
        return size_claims(both, device="host", method="measured")[0]

    assert claim_of(605).verdict == "holds"
    assert claim_of(770).verdict == "does not hold" and "23.0% fewer" in claim_of(770).sentence
    assert size_claims([make_artefact("student")], device="host", method="measured") == []


def test_the_papers_own_pair_reaches_its_threshold() -> None:
    # Encoders without pooler, counted on models with random weights.
    bert, distilbert = 108_891_648, 66_362_880
    both = [
        make_artefact("teacher", parameters=bert),
        make_artefact("student", parameters=distilbert),
    ]
    assert size_claims(both, device="host", method="measured")[0].verdict == "holds"


def test_pairings_of_a_complete_run() -> None:
    artefacts = [
        make_artefact(role, task=task)
        for role in ("teacher", "student")
        for task in ("feature-extraction", "fill-mask")
    ]
    pairs = pairings([*artefacts, make_artefact("student", "int8")])
    assert [pairing.name for pairing in pairs] == [
        "speed encoders",
        "speed fill-mask models",
        "deploy encoders",
        "int8-pays encoders",
    ]
    assert (pairs[2].first.role, pairs[2].second.precision) == ("teacher", "int8")
    assert (pairs[3].first.role, pairs[3].first.precision) == ("student", "fp32")


def test_claims_of_missing_artefacts_are_left_out() -> None:
    assert pairings([make_artefact("student")]) == []
    small = pairings([make_artefact("student"), make_artefact("student", "uint8")])
    assert [(pairing.kind, pairing.second.precision) for pairing in small] == [
        ("int8-pays", "uint8")
    ]
