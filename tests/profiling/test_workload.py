"""Text at exact lengths, pairs as long as STS-B's, and the same ids for the same seed."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from edgedistil.core.errors import CorpusError, InputError, ModelError
from edgedistil.core.rundir import RunDir
from edgedistil.core.text import read_lines
from edgedistil.profiling.workload import (
    SAMPLE_TEXT,
    Workload,
    build_workload,
    select_lengths,
    sentence_pairs,
)
from edgedistil.runtime.protocol import RUNNER


def small_workload(run: RunDir, *, seed: int = 56, pairs: int = 13) -> Workload:
    lines = run.heldout_text.read_text(encoding="utf-8").splitlines()
    tokenizer = run.export("student", "feature-extraction") / "tokenizer.json"
    return build_workload(tokenizer, lines, source="test", lengths=[7, 29], pairs=pairs, seed=seed)


def test_lengths_are_exact_with_special_tokens(exported: RunDir) -> None:
    workload = small_workload(exported)
    for length, keys in workload.lengths.items():
        for key in keys:
            ids = workload.inputs[key]["input_ids"]
            assert ids.shape == (1, length)
            assert (ids[0, 0], ids[0, -1]) == (2, 3)
            assert workload.inputs[key]["attention_mask"].tolist() == [[1] * length]
    texts = {workload.inputs[key]["input_ids"].tobytes() for key in workload.lengths[29]}
    assert len(texts) > 1, "figures must not depend on one text"


def test_pairs_have_segments_and_no_padding(exported: RunDir) -> None:
    workload = small_workload(exported)
    assert len(workload.pairs) == 13
    for key in workload.pairs:
        types = workload.inputs[key]["token_type_ids"][0].tolist()
        assert set(types) == {0, 1} and types == sorted(types)
        assert workload.inputs[key]["attention_mask"].all()


def test_the_same_seed_gives_the_same_ids(exported: RunDir) -> None:
    one, same, other = (small_workload(exported, seed=seed) for seed in (56, 56, 57))
    for key, feeds in one.inputs.items():
        np.testing.assert_array_equal(feeds["input_ids"], same.inputs[key]["input_ids"])
    assert any(
        not np.array_equal(one.inputs[key]["input_ids"], other.inputs[key]["input_ids"])
        for key in one.pairs
    )


def test_pair_lengths_follow_the_distribution() -> None:
    pairs = sentence_pairs(read_lines(SAMPLE_TEXT), 1500, seed=56, source="test")
    words = np.array([len(sentence.split()) for pair in pairs for sentence in pair])
    assert len(words) == 3000
    assert np.quantile(words, [0.05, 0.5, 0.95]).tolist() == pytest.approx([5, 10, 25], abs=1)
    assert words.max() <= 55 and words.min() >= 3


def test_a_text_without_sentences_is_an_error() -> None:
    with pytest.raises(CorpusError, match="the file has no sentence of 3 words or more"):
        sentence_pairs(["two words"], 1, seed=56, source="the file")


def test_the_runner_reads_what_is_saved(exported: RunDir, tmp_path: Path) -> None:
    workload = small_workload(exported)
    workload.save(tmp_path / "inputs.npz")
    runner = runpy.run_path(str(RUNNER), run_name="runner")
    with np.load(tmp_path / "inputs.npz") as stored:
        feeds = runner["read_feeds"](stored)
    assert list(feeds) == list(workload.inputs)
    for key, expected in workload.inputs.items():
        assert list(feeds[key]) == list(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(feeds[key][name], array, strict=True)


def test_claims_use_the_first_of_the_pairs(exported: RunDir) -> None:
    assert small_workload(exported).claim_pairs == small_workload(exported).pairs
    workload = small_workload(exported, pairs=61)
    assert (len(workload.pairs), workload.claim_pairs) == (61, workload.pairs[:60])


def test_a_text_of_blank_lines_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="test has no text: expected one sequence per line"):
        build_workload(tmp_path / "tokenizer.json", ["", "  "], source="test")


def test_a_file_that_is_not_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot read the tokenizer"):
        build_workload(tmp_path / "tokenizer.json", ["some text"], source="test")


def test_lengths_are_bounded_by_the_models_positions() -> None:
    assert select_lengths(None, 100) == [16, 32, 64]
    assert select_lengths([64, 16, 64], None) == [16, 64]
    with pytest.raises(InputError, match="--length 128: the model has positions for 64"):
        select_lengths([128], 64)
    with pytest.raises(InputError, match="--length 2: expected 3 or more"):
        select_lengths([2], 64)
