"""Tokenization is timed for each length and shown with its share of a call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from edgedistil.core.records import NotMeasured
from edgedistil.profiling import tokenization
from edgedistil.profiling.tokenization import add_tokenization
from edgedistil.profiling.workload import PAIRS, Workloads, build_workloads
from edgedistil.report.profile_tables import latency_table, profile_table
from tests.profiling.conftest import make_artefact, make_record, make_row

LINES = ["the boat left the harbour before sunrise and the road was long"] * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with a token for each word of the text."""
    path = tmp_path_factory.mktemp("tokenizer")
    words = ["[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(LINES[0].split())]
    backend = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]")
    )
    backend.add_special_tokens(words[:3])
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    backend.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture
def workloads(folder: Path) -> Workloads:
    return build_workloads([folder], LINES, source="a test", lengths=[6, 11], pairs=2)


class Clock:
    """Time that passes at each call: 2 ms for a text of four words, 3 ms for a longer one."""

    def __init__(self) -> None:
        self.now, self.texts = 0, set[str]()

    def encode(self, text: str) -> None:
        self.texts.add(text)
        self.now += 2_000_000 if len(text.split()) == 4 else 3_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Replaces time, and the encoding of a text."""
    fake = Clock()
    read = tokenization.read_tokenizer

    class Backend:
        encode = fake.encode

        def __init__(self, backend: Tokenizer) -> None:
            self.decode = backend.decode

    def read_slow(path: Path) -> object:
        return replace(read(path), backend=Backend(read(path).backend))

    monkeypatch.setattr(tokenization, "read_tokenizer", read_slow)
    monkeypatch.setattr(tokenization.time, "perf_counter_ns", lambda: fake.now)
    yield fake


def test_each_length_has_the_time_of_its_texts(
    folder: Path, workloads: Workloads, clock: Clock
) -> None:
    artefact = replace(make_artefact("student"), tokenizer=folder)
    rows = [make_row(length=6), make_row(length=11), make_row(length=PAIRS)]
    short, long, pairs = add_tokenization(rows, [artefact], workloads)
    assert (short.tokenization_ms, long.tokenization_ms) == (2.0, 3.0)
    assert short.tokenization_share == pytest.approx(2 / (2 + 7))
    assert isinstance(pairs.tokenization_ms, NotMeasured)
    assert pairs.tokenization_share is None
    # Several texts of each length, without special tokens.
    assert len(clock.texts) > 6
    assert {len(text.split()) for text in clock.texts} == {4, 9}
    assert not any("[CLS]" in text for text in clock.texts)


def test_a_real_tokenizer_takes_some_time(folder: Path, workloads: Workloads) -> None:
    artefact = replace(make_artefact("student"), tokenizer=folder)
    [row] = add_tokenization([make_row(length=6)], [artefact], workloads)
    assert isinstance(row.tokenization_ms, float)
    assert 0 < row.tokenization_ms < 1000


def test_tables_show_the_time_and_its_share() -> None:
    rows = [
        make_row(length=64, tokenization_ms=0.25),
        make_row(length=128, tokenization_ms=0.5, precision="int8", latency_ms=4.5),
        make_row(length=128, tokenization_ms=0.5, latency_ms=9.5),
    ]
    notes = latency_table(make_record(rows=rows)).notes
    assert (
        "tokenization of 128 tokens in Python: 0.50 ms, which the calls exclude; its share from "
        "text to output: student feature-extraction int8 10.0%, "
        "student feature-extraction fp32 5.0%"
    ) in notes
    table = profile_table(make_record(rows=[*rows, make_row(length=32)]))
    column = table.columns.index("tokenization ms")
    assert [cells[column] for cells in table.rows] == ["0.25", "0.50", "0.50", "–"]
    assert not [n for n in latency_table(make_record(rows=[make_row()])).notes if "tokeniz" in n]
