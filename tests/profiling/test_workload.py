"""Text at exact lengths, pairs as long as STS-B's, and the same ids for the same seed."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedistil.core.errors import CorpusError, InputError, ModelError
from edgedistil.core.rundir import RunDir
from edgedistil.profiling.encoder import InputShape
from edgedistil.profiling.workload import (
    Workload,
    build_workload,
    select_lengths,
)
from edgedistil.runtime.protocol import RUNNER


def small_workload(run: RunDir, **changes: Any) -> Workload:
    lines = run.heldout_text.read_text(encoding="utf-8").splitlines()
    tokenizer = run.export("student", "feature-extraction")
    options = {"lines": lines, "source": "test", "lengths": [7, 29], "pairs": 13, **changes}
    return build_workload(tokenizer, **options)


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


def test_text_that_the_vocabulary_lacks_is_warned_of(
    exported: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    small_workload(exported, source="English")
    assert "unknown" not in capsys.readouterr().err
    small_workload(exported, lines=["日本語 の 文章 です"] * 40, source="Japanese")
    message = " ".join(capsys.readouterr().err.split())
    assert "of the tokens of Japanese are unknown to the model's vocabulary" in message


def test_the_same_seed_gives_the_same_ids(exported: RunDir) -> None:
    one, same, other = (small_workload(exported, seed=seed) for seed in (56, 56, 57))
    for key, feeds in one.inputs.items():
        np.testing.assert_array_equal(feeds["input_ids"], same.inputs[key]["input_ids"])
    assert any(
        not np.array_equal(one.inputs[key]["input_ids"], other.inputs[key]["input_ids"])
        for key in one.pairs
    )


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
        build_workload(tmp_path, ["", "  "], source="test")


def test_a_file_that_is_not_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "X"}}', encoding="utf-8")
    with pytest.raises(ModelError, match="cannot read the tokenizer in"):
        build_workload(tmp_path, ["some text"], source="test")


def test_lengths_are_bounded_by_the_models_positions() -> None:
    assert select_lengths(None, InputShape(max_length=100)) == [16, 32, 64]
    assert select_lengths(None, InputShape(max_length=11)) == [11]
    assert select_lengths([64, 16, 64], InputShape()) == [16, 64]
    with pytest.raises(InputError, match="--length 128: the model has positions for 64"):
        select_lengths([128], InputShape(max_length=64))
    with pytest.raises(InputError, match="--length 2: expected 3 or more"):
        select_lengths([2], InputShape(max_length=64))
    with pytest.raises(InputError, match="expected at most 8192 tokens for a model whose number"):
        select_lengths([10**9], InputShape())


def test_a_fixed_shape_has_one_length() -> None:
    fixed = InputShape(fixed_length=37)
    assert select_lengths(None, fixed) == select_lengths([37], fixed) == [37]
    with pytest.raises(InputError, match="--length 16: the graph has a fixed shape and takes 37"):
        select_lengths([37, 16], fixed)


def test_inputs_are_filled_up_to_a_fixed_length(exported: RunDir) -> None:
    workload = small_workload(exported, shape=InputShape(fixed_length=29), lengths=[29])
    assert {feeds["input_ids"].shape for feeds in workload.inputs.values()} == {(1, 29)}
    filled = 0
    for key in workload.pairs:
        feeds = workload.inputs[key]
        used = int(feeds["attention_mask"].sum())
        filled += used < 29
        assert feeds["attention_mask"].tolist() == [[1] * used + [0] * (29 - used)]
        assert not feeds["input_ids"][0, used:].any(), "the id of [PAD] is 0"
    assert filled


def test_pairs_are_cut_at_the_models_positions(exported: RunDir) -> None:
    free = small_workload(exported, pairs=31)
    cut = small_workload(exported, pairs=31, shape=InputShape(max_length=23), lengths=[7])
    assert max(free.pair_lengths()) > 23
    for key, before, after in zip(free.pairs, free.pair_lengths(), cut.pair_lengths(), strict=True):
        assert after == min(before, 23)
        if before <= 23:
            np.testing.assert_array_equal(
                free.inputs[key]["input_ids"], cut.inputs[key]["input_ids"]
            )
        assert cut.inputs[key]["input_ids"][0, -1] == 3, "[SEP] is still the last one"
    assert small_workload(exported, lengths=[4], shape=InputShape(max_length=4)).pairs == []


def test_long_fixed_inputs_have_fewer_pairs(exported: RunDir) -> None:
    shape = InputShape(fixed_length=2**17, batch=4)
    workload = small_workload(exported, lengths=[7], shape=shape, pairs=31)
    assert len(workload.pairs) == 4


def test_a_model_with_one_segment_gets_no_other(exported: RunDir) -> None:
    workload = small_workload(exported, shape=InputShape(segments=1))
    assert not any(feeds["token_type_ids"].any() for feeds in workload.inputs.values())


def test_a_line_of_megabytes_is_cut_before_it_is_tokenized(exported: RunDir) -> None:
    tokenizer = exported.export("student", "feature-extraction")
    line = "the boat left the harbour. " * 200_000
    workload = build_workload(tokenizer, [line], source="test", lengths=[7], pairs=3)
    assert len(workload.inputs) == 4 + 3
