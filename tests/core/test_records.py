"""Records: strict, complete, and absent figures have reasons."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from edgedistil.core.distill_records import CorpusRecord, HeldoutMlm
from edgedistil.core.errors import StorageError
from edgedistil.core.records import Band, NotMeasured, provenance, read_record, write_record

HELDOUT = {"model": "student", "step": 3, "masked_tokens": 7, "mlm_loss_nats": 2.5, "top1": 0.5}
ABSENT = NotMeasured(not_measured="not measured here")


def test_round_trip_keeps_absence_and_its_reason(tmp_path: Path) -> None:
    record = HeldoutMlm(**HELDOUT, agreement=0.25, kl_nats=ABSENT)
    write_record(tmp_path / "x.json", record)
    again = read_record(tmp_path / "x.json", HeldoutMlm)
    assert again == record
    assert again.kl_nats == ABSENT


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_is_refused(value: float) -> None:
    with pytest.raises(ValidationError):
        HeldoutMlm(**{**HELDOUT, "top1": value}, agreement=0.25, kl_nats=0.1)


def test_an_absence_needs_a_reason() -> None:
    with pytest.raises(ValidationError):
        NotMeasured(not_measured="")


def test_a_record_is_frozen_and_strict() -> None:
    band = Band(low=2.0, high=3.0)
    with pytest.raises(ValidationError, match="frozen"):
        band.low = 1.0  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Band(low=2.0, high=3.0, middle=2.5)  # type: ignore[call-arg]


def test_another_kind_of_record_is_reported(tmp_path: Path) -> None:
    write_record(tmp_path / "x.json", Band(low=2.0, high=3.0))
    with pytest.raises(StorageError, match=r"x.json is not a valid CorpusRecord: sources"):
        read_record(tmp_path / "x.json", CorpusRecord)


def test_a_truncated_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"low": 2.0, "hi')
    with pytest.raises(StorageError, match=r"cannot read .*x.json"):
        read_record(tmp_path / "x.json", Band)


def test_provenance_has_command_time_versions_and_machine() -> None:
    record = provenance("edgedistil distill x")
    assert record.command == "edgedistil distill x"
    assert record.created_utc.endswith("Z")
    assert {"edgedistil", "torch", "onnxruntime", "numpy"} <= set(record.versions)
    assert record.host.cores >= 1
