"""Real text at exact lengths, pairs as long as STS-B's, the same ids for the same seed."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from edgedistil.core.errors import CorpusError, InputError, ModelError
from edgedistil.core.rundir import RunDir
from edgedistil.profiling import measured as measure
from edgedistil.profiling.sample_text import SAMPLE_TEXT
from edgedistil.profiling.workload import (
    Workload,
    build,
    checked_lengths,
    read_lines,
    sentence_pairs,
)


def small(run: RunDir, *, seed: int = 56, pairs: int = 13) -> Workload:
    lines = run.heldout_text.read_text(encoding="utf-8").splitlines()
    tokenizer = run.export("student", "feature-extraction") / "tokenizer.json"
    return build(tokenizer, lines, source="test", lengths=[7, 29], pairs=pairs, seed=seed)


def test_lengths_are_exact_and_framed(exported: RunDir) -> None:
    work = small(exported)
    for length, keys in work.lengths.items():
        for key in keys:
            ids = work.inputs[key]["input_ids"]
            assert ids.shape == (1, length)
            assert (ids[0, 0], ids[0, -1]) == (2, 3)
            assert work.inputs[key]["attention_mask"].tolist() == [[1] * length]
    different = {work.inputs[key]["input_ids"].tobytes() for key in work.lengths[29]}
    assert len(different) > 1, "one text cannot stand for all"


def test_pairs_have_segments_and_no_padding(exported: RunDir) -> None:
    work = small(exported)
    assert len(work.pairs) == 13
    for key in work.pairs:
        types = work.inputs[key]["token_type_ids"][0].tolist()
        assert set(types) == {0, 1} and types == sorted(types)
        assert work.inputs[key]["attention_mask"].all()


def test_the_same_seed_gives_the_same_ids(exported: RunDir) -> None:
    one, again, other = small(exported), small(exported), small(exported, seed=57)
    assert all(
        np.array_equal(one.inputs[k]["input_ids"], again.inputs[k]["input_ids"]) for k in one.inputs
    )
    assert any(
        not np.array_equal(one.inputs[k]["input_ids"], other.inputs[k]["input_ids"])
        for k in one.pairs
    )


def test_pair_lengths_follow_the_distribution() -> None:
    pairs = sentence_pairs(SAMPLE_TEXT.splitlines(), 1500, seed=56, source="test")
    words = np.array([len(sentence.split()) for pair in pairs for sentence in pair])
    assert len(words) == 3000
    assert np.quantile(words, [0.05, 0.5, 0.95]).tolist() == pytest.approx([5, 10, 25], abs=1)
    assert words.max() <= 55 and words.min() >= 3


def test_the_runner_reads_what_is_saved(exported: RunDir, tmp_path: Path) -> None:
    work = small(exported)
    work.save(tmp_path / "inputs.npz")
    runner = runpy.run_path(str(Path(measure.__file__).with_name("runner.py")), run_name="runner")
    with np.load(tmp_path / "inputs.npz") as stored:
        feeds = runner["read_feeds"](stored)
    assert list(feeds) == list(work.inputs)
    for key, wanted in work.inputs.items():
        assert list(feeds[key]) == list(wanted)
        for name, array in wanted.items():
            np.testing.assert_array_equal(feeds[key][name], array, strict=True)


def test_a_claim_takes_the_first_of_the_pairs(exported: RunDir) -> None:
    assert small(exported).claim_pairs == small(exported).pairs
    work = small(exported, pairs=61)
    assert (len(work.pairs), work.claim_pairs) == (61, work.pairs[:60])


@pytest.mark.parametrize(
    ("data", "told"), [(b"", "is empty"), (b" \n\n", "is empty"), (b"\xff\xfe", "not UTF-8")]
)
def test_a_text_file_that_is_none(data: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=told):
        read_lines(path)


def test_a_missing_text_file(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="No such file"):
        read_lines(tmp_path / "none.txt")


def test_a_tokenizer_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot read the tokenizer"):
        build(tmp_path / "tokenizer.json", ["some text"], source="test")


def test_lengths_beyond_the_models_positions() -> None:
    assert checked_lengths(None, 100) == [16, 32, 64]
    assert checked_lengths([64, 16, 64], None) == [16, 64]
    with pytest.raises(InputError, match="has positions for 64"):
        checked_lengths([128], 64)
    with pytest.raises(InputError, match="expected 3 or more"):
        checked_lengths([2], 64)
