"""A device that is not there is predicted, and every row says so."""

from __future__ import annotations

import pytest

from edgedistil.core.device import load_device
from edgedistil.core.profile_records import Claim
from edgedistil.core.records import Band, NotMeasured
from edgedistil.core.rundir import RunDir
from edgedistil.profiling.artefacts import run_artefacts
from edgedistil.profiling.predicted import predict
from tests.profiling.conftest import profile_latest


def test_a_board_without_ssh_is_predicted_and_every_row_says_so(exported: RunDir) -> None:
    run, (record,) = profile_latest(device="rpi4", threads=None)
    assert run is not None and run.profile("rpi4", "predicted").is_file()
    assert {row.threads for row in record.rows} == {1, 4}
    for row in record.rows:
        assert (row.device, row.method) == ("rpi4", "predicted")
        assert isinstance(row.latency_ms, Band) and isinstance(row.peak_memory_bytes, Band)
        for absent in (row.latency, row.load_ms, row.first_call_ms, row.start_to_first_result_ms):
            assert isinstance(absent, NotMeasured), "no time of the host under a board's name"
        assert set(row.conditions) >= {"runtime", "clock", "threads", "calibration"}
        assert "uncalibrated" in row.conditions["calibration"]
    assert all(claim.method == "predicted" and claim.device == "rpi4" for claim in record.claims)
    assert record.notes[0].startswith("predicted, not measured: ")
    assert "leave one device out" in record.notes[1]
    ratios = [claim for claim in record.claims if claim.claim != "size"]
    assert all("counting multiply-adds alone: " in claim.sentence for claim in ratios)
    # It was never measured what int8 gains from four threads of a Cortex-A72.
    int8 = [claim for claim in ratios if claim.claim != "speed" and "4 threads" in claim.figure]
    assert int8 and all(claim.verdict == "inconclusive" for claim in int8)
    assert all("no verdict: the gain of int8" in claim.conditions for claim in int8)
    assert not run.profile("host", "measured").exists()


def test_the_sentence_pairs_are_interpolated_between_lengths(exported: RunDir) -> None:
    artefacts = run_artefacts(exported)[:1]
    tokens = {artefact.label: [11, 23, 17] for artefact in artefacts}
    record = predict(
        load_device("rpi4"), artefacts, lengths=[11, 23], pair_lengths=tokens, threads=[1]
    )
    short, long, pairs = (row.latency_ms for row in record.rows)
    assert isinstance(short, Band) and isinstance(long, Band) and isinstance(pairs, Band)
    assert short.low < pairs.low < long.low
    # The median of the pairs is at 17 tokens, halfway in tokens and almost in time.
    assert pairs.low == pytest.approx((short.low + long.low) / 2, rel=0.05)
    assert pairs.high / pairs.low == pytest.approx(short.high / short.low)


def test_a_text_has_as_many_tokens_as_each_model_needs(exported: RunDir) -> None:
    artefacts = [a for a in run_artefacts(exported) if a.precision == "fp32"]
    tokens = {a.label: [30, 40] if a.role == "student" else [15, 20] for a in artefacts}
    device = load_device("rpi4")

    def claim_of(pair_lengths: dict[str, list[int]]) -> Claim:
        record = predict(device, artefacts, lengths=[11], pair_lengths=pair_lengths, threads=[1])
        by_role = {row.role: row.tokens_per_pair for row in record.rows if row.length != 11}
        assert by_role == {a.role: sum(pair_lengths[a.label]) / 2 for a in artefacts}
        assert all(row.tokens_per_pair is None for row in record.rows if row.length == 11)
        return next(claim for claim in record.claims if claim.claim == "speed")

    longer, equal = claim_of(tokens), claim_of({a.label: [15, 20] for a in artefacts})
    # The student computes twice the tokens, so its advantage is smaller.
    assert isinstance(longer.value, float) and isinstance(equal.value, float)
    assert longer.value < 0.7 * equal.value
    assert "18 and 35 tokens for the same texts" in longer.conditions
    assert "18 tokens;" in equal.conditions


def test_without_sentence_pairs_there_are_no_speed_claims(exported: RunDir) -> None:
    record = predict(
        load_device("rpi4"), run_artefacts(exported), lengths=[11], pair_lengths={}, threads=[1]
    )
    assert {row.length for row in record.rows} == {11}
    assert [claim.claim for claim in record.claims] == ["size"]


def test_an_artefact_that_may_not_fit_has_a_condition(exported: RunDir) -> None:
    spec = load_device("rpi4")
    size = spec.memory.size_gib.model_copy(update={"value": 0.01})
    small = spec.model_copy(update={"memory": spec.memory.model_copy(update={"size_gib": size})})
    artefacts = run_artefacts(exported)[:1]
    record = predict(small, artefacts, lengths=[11], pair_lengths={}, threads=[1])
    assert record.rows[0].conditions["memory"] == "may not fit: the device has 0.01 GiB"
    roomy = predict(spec, artefacts, lengths=[11], pair_lengths={}, threads=[1])
    assert "memory" not in roomy.rows[0].conditions
