"""`--require`: what is accepted, and when a requirement ends in exit code 3."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from edgedistil.cli import app
from edgedistil.core.errors import ClaimError, InputError
from edgedistil.core.profile_records import Claim, ProfileRecord
from edgedistil.core.records import Band, NotMeasured
from edgedistil.core.rundir import RunDir
from edgedistil.profiling.claims import (
    ClaimSetting,
    Pairing,
    PredictedRatio,
    predicted_claim,
    size_claims,
    speed_claim,
)
from edgedistil.profiling.latency import speed_ratio
from edgedistil.profiling.requirements import read_requirements, require_claims
from tests.profiling.conftest import make_artefact, make_record, make_row

SETTING = ClaimSetting(
    device="host", method="measured", threads=1, runtime="onnxruntime 9", text="11 sentence pairs"
)
SIZES = {"teacher": 1000, "student": 400}
PAIRING = Pairing("speed", "encoders", make_artefact("teacher"), make_artefact("student"))


def make_claim(ratio: float, spread: float = 0.0) -> Claim:
    processes = [[(ratio + spread * i, 1.0)] for i in range(-3, 4)]
    return speed_claim(PAIRING, speed_ratio(processes), SETTING)


def require(record: ProfileRecord, *texts: str, allow_predicted: bool = False) -> None:
    require_claims([record], read_requirements(texts), allow_predicted=allow_predicted)


def make_predicted(low: float, high: float) -> Claim:
    setting = replace(SETTING, method="predicted")
    predicted = PredictedRatio((low + high) / 2, Band(low=low, high=high), counted=1.0)
    return predicted_claim(PAIRING, predicted, setting)


def test_requirements_that_hold_raise_nothing() -> None:
    record = make_record(make_claim(1.8), rows=[make_row()])
    require(record, "speedup>=1.6", "p50_ms<=7.5", "peak_mib < 2", "speedup > 1.5")


@pytest.mark.parametrize(
    ("requirement", "message"),
    [
        ("speedup>=2", "speedup>=2 does not hold: it is 1.8"),
        ("deploy_speedup>=2", "deploy_speedup>=2 is inconclusive: the artefacts of this profile"),
        ("p50_ms<=5", "p50_ms<=5 does not hold: it is 7"),
        ("p95_ms<=7", "p95_ms<=7 is inconclusive: it is at least 6 (95%)"),
        ("p95_ms<=5", "p95_ms<=5 does not hold: it is at least 6 (95%)"),
        ("p90_ms<=5", "p90_ms<=5 is inconclusive: too few"),
        ("peak_mib<=0.5", "does not hold: it is 1"),
    ],
)
def test_a_requirement_that_fails_is_exit_code_3(requirement: str, message: str) -> None:
    record = make_record(make_claim(1.8), rows=[make_row()])
    with pytest.raises(ClaimError) as raised:
        require(record, requirement)
    assert message in raised.value.message and raised.value.exit_code == 3


def test_disturbed_processes_never_decide() -> None:
    claim = speed_claim(PAIRING, NotMeasured(not_measured="9 of 9 processes"), SETTING)
    for bound in (0.1, 1000):
        with pytest.raises(ClaimError, match="is inconclusive: the machine was disturbed: 9 of 9"):
            require(make_record(claim), f"speedup>={bound}")


def test_a_disturbed_row_never_decides() -> None:
    record = make_record(rows=[make_row(disturbed="5% stolen by the hypervisor")])
    # Neither a bound that it keeps nor one that it breaks.
    for bound in (0.1, 1000):
        with pytest.raises(ClaimError, match=r"is inconclusive: the row of .* 5% stolen"):
            require(record, f"p50_ms<={bound}")
    require(record, "peak_mib<=1")


def test_an_interval_that_contains_the_bound_is_inconclusive() -> None:
    with pytest.raises(ClaimError, match=r"speedup>=1.6 is inconclusive: it is 1\.\d+ to 1\.\d+"):
        require(make_record(make_claim(1.6, spread=0.05)), "speedup>=1.6")


def test_a_predicted_row_is_judged_by_both_ends_of_its_band() -> None:
    peak = Band(low=2**20, high=3 * 2**20)
    record = make_record(rows=[make_row(Band(low=5, high=9), peak, method="predicted")])
    require(record, "p50_ms<=9", "peak_mib<=3", allow_predicted=True)
    with pytest.raises(ClaimError, match="is inconclusive: it is 5 to 9"):
        require(record, "p50_ms<=8", allow_predicted=True)
    with pytest.raises(ClaimError, match="predicted rows have no p99_ms"):
        require(record, "p99_ms<=8")


def test_a_measured_claim_counts_before_a_predicted_one() -> None:
    require(make_record(make_predicted(1.1, 1.3), make_claim(1.8)), "speedup>=1.6")


def test_a_prediction_holds_only_where_predictions_are_allowed() -> None:
    record = make_record(make_predicted(1.7, 1.9), rows=[])
    with pytest.raises(ClaimError, match=r"it is only predicted, as 1\.7 to 1\.9; --allow"):
        require(record, "speedup>=1.6")
    require(record, "speedup>=1.6", allow_predicted=True)
    rows = make_record(rows=[make_row(Band(low=5, high=9), method="predicted")])
    with pytest.raises(ClaimError, match="only predicted, as 5 to 9"):
        require(rows, "p50_ms<=10")
    # What a prediction refutes needs no permission.
    with pytest.raises(ClaimError, match=r"does not hold: it is 1\.7 to 1\.9"):
        require(record, "speedup>=2")


def test_a_prediction_without_a_verdict_fulfils_nothing() -> None:
    """The cost model does not know how int8 scales over threads, however narrow the band."""
    predicted = PredictedRatio(1.8, Band(low=1.7, high=1.9), counted=1.0, undecided="not measured")
    claim = predicted_claim(PAIRING, predicted, replace(SETTING, method="predicted"))
    with pytest.raises(ClaimError, match=r"speedup>=1\.6 is inconclusive"):
        require(make_record(claim), "speedup>=1.6", allow_predicted=True)


def test_counted_parameters_are_not_a_prediction() -> None:
    artefacts = [make_artefact(role, parameters=p) for role, p in SIZES.items()]
    (claim,) = size_claims(artefacts, device="rpi4", method="predicted")
    require(make_record(claim), "size_saved>=0.5")


def test_every_device_and_thread_count_has_to_keep_a_requirement() -> None:
    slow = make_claim(1.2).model_copy(update={"device": "rpi4"})
    board = make_record(slow).model_copy(update={"device": "rpi4"})
    with pytest.raises(ClaimError, match=r"speedup>=1.6 does not hold: it is 1.2"):
        require_claims([make_record(make_claim(1.8)), board], read_requirements(["speedup>=1.6"]))
    with pytest.raises(ClaimError, match=r"speedup>=1.6 does not hold: it is 1.3"):
        require(make_record(make_claim(1.8), make_claim(1.3)), "speedup>=1.6")


def test_a_disturbed_row_or_claim_fulfils_nothing() -> None:
    row = make_row(disturbed="load 2.6 on two cores")
    claim = make_claim(1.8).model_copy(update={"disturbed": "load 2.6 on two cores"})
    for requirement in ("p50_ms<=99", "speedup>=1.6"):
        with pytest.raises(ClaimError, match=r"disturbed: load 2\.6 on two cores"):
            require(make_record(claim, rows=[row]), requirement)
    # Peak memory does not depend on the clock.
    require(make_record(rows=[row]), "peak_mib<=2")


def test_an_invalid_row_makes_a_requirement_inconclusive() -> None:
    record = make_record(rows=[make_row(valid=False, invalid_reason="it throttled")])
    with pytest.raises(ClaimError, match="p50_ms<=99 is inconclusive: it throttled"):
        require(record, "p50_ms<=99")


def test_a_profile_without_a_student_has_no_row_to_judge() -> None:
    with pytest.raises(ClaimError, match="the profile has no row of a student"):
        require(make_record(rows=[make_row(role="teacher")]), "p50_ms<=99")


@pytest.mark.parametrize(
    "text",
    ["speedup", "speedup=>1", "speedup>=fast", "p50_ms<=1; rm -rf /", f"speedup>={'9' * 400}"],
)
def test_a_malformed_requirement_names_the_syntax(text: str) -> None:
    with pytest.raises(InputError, match="is not a requirement: expected NAME>=NUMBER") as raised:
        read_requirements([text])
    assert raised.value.exit_code == 2
    assert "speedup, fill_mask_speedup, deploy_speedup" in str(raised.value)


def test_an_unknown_claim_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match="unknown claim 'speed_up'; did you mean 'speedup'"):
        read_requirements(["speed_up>=1.6"])
    with pytest.raises(InputError, match="unknown claim 'energy'") as raised:
        read_requirements(["energy<=1"])
    assert "expected one of speedup" in str(raised.value)


def test_the_message_lists_all_failed_requirements() -> None:
    with pytest.raises(ClaimError) as raised:
        require(make_record(make_claim(1.8), rows=[make_row()]), "speedup>=2", "p50_ms<=1")
    assert "speedup>=2" in raised.value.message and "p50_ms<=1" in raised.value.message


def test_the_command_reads_requirements_before_it_measures(exported: RunDir) -> None:
    outcome = CliRunner().invoke(app, ["profile", "--require", "speedup=>1"])
    assert isinstance(outcome.exception, InputError)
    assert "expected NAME>=NUMBER" in outcome.exception.message
    assert not exported.profile("host", "measured").exists()


def test_the_command_writes_the_record_before_it_judges(exported: RunDir) -> None:
    command = ["profile", "--device", "rpi4", "--length", "5", "--require", "p50_ms<=0"]
    outcome = CliRunner().invoke(app, command)
    assert isinstance(outcome.exception, ClaimError) and outcome.exception.exit_code == 3
    assert exported.profile("rpi4", "predicted").is_file()
