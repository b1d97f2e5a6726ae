"""The training trace: entries come back, and a corrupt line is named with what to do."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgedistil.core.distill_records import HeldoutMlm
from edgedistil.core.errors import RunError, StorageError
from edgedistil.core.trace import heldout_of, read_trace

TRAIN = {"kind": "train", "step": 1, "loss": 2.5, "mlm": None, "tokens": 70}
FIGURES = HeldoutMlm(
    model="student",
    step=2,
    masked_tokens=7,
    mlm_loss_nats=1.5,
    top1=0.25,
    agreement=0.5,
    kl_nats=0.75,
)
HELDOUT = {"kind": "heldout", **FIGURES.model_dump(mode="json")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps(TRAIN)}\n{json.dumps(HELDOUT)}\n")
    return path


def test_entries_come_back_with_their_lines(path: Path) -> None:
    entries = list(read_trace(path))
    assert [entry for entry, _line in entries] == [TRAIN, HELDOUT]
    assert "".join(line for _entry, line in entries) == path.read_text()
    assert heldout_of(entries[1][0]) == FIGURES


def test_a_missing_trace_and_an_incomplete_last_line_are_no_error(
    path: Path, tmp_path: Path
) -> None:
    assert list(read_trace(tmp_path / "missing.jsonl")) == []
    with path.open("ab") as file:
        file.write(b'{"kind": \0\xff')
    assert len(list(read_trace(path))) == 2


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "expected an object"),
        (b"null", "expected an object"),
        (b"{}", "expected the kind"),
        (b'{"step": "1", "kind": "train"}', "expected a step"),
        (b'{"step": -1, "kind": "train"}', "expected a step"),
        (b'{"step": 1, "kind": ["train"]}', "expected the kind train or heldout"),
        (b'{"step": 1, "kind": "train", "tokens": 7, "loss": "x"}', "expected a number for loss"),
    ],
)
def test_a_corrupt_line_is_named_with_what_to_do(path: Path, line: bytes, problem: str) -> None:
    path.write_bytes(path.read_bytes() + line + b"\n" + json.dumps(TRAIN).encode() + b"\n")
    with pytest.raises(RunError, match=rf"metrics\.jsonl, line 3 is .*{problem}") as caught:
        list(read_trace(path))
    assert "remove this line" in str(caught.value)


def test_a_trace_that_is_not_a_file_is_reported(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(StorageError, match="it is a named pipe; expected a regular file"):
        list(read_trace(tmp_path / "metrics.jsonl"))


def test_an_evaluation_without_a_figure_is_corrupt() -> None:
    with pytest.raises(RunError, match="trace is corrupt: kl_nats: Field required"):
        heldout_of({name: value for name, value in HELDOUT.items() if name != "kl_nats"})
