"""The check that a text's outputs do not depend on padding or on other texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgedistil.core.export_records import InvarianceRecord
from edgedistil.core.precision import Precision
from edgedistil.core.records import NotMeasured
from edgedistil.core.task import SENTENCE_OUTPUT
from edgedistil.parity.gate import format_variance
from edgedistil.parity.invariance import check_invariance, find_change_by_padding
from edgedistil.parity.probes import ProbeBatch, Probes

Feeds = Mapping[str, NDArray[Any]]
Run = Callable[[Feeds], Mapping[str, NDArray[Any]]]


def batch(lengths: list[int], *, left: bool = False) -> ProbeBatch:
    longest = max(lengths)
    ids, mask = np.full((len(lengths), longest), 9), np.zeros((len(lengths), longest), np.int64)
    for row, length in enumerate(lengths):
        tokens = slice(longest - length, longest) if left else slice(0, length)
        ids[row, tokens], mask[row, tokens] = 10 + row + np.arange(length), 1
    none = np.zeros((0, 2), np.int64)
    states = np.zeros((0, 1, 4), np.float32)
    return ProbeBatch(
        ids, mask, None, none, {}, none, none[:, 0], states[:, 0, 0], none, states, None
    )


def probes(*batches: ProbeBatch, task: str = "token-classification") -> Probes:
    return Probes(task, "sha", 1, (), batches)  # type: ignore[arg-type]


def logits_of(values_BL: NDArray[Any]) -> NDArray[Any]:
    return np.stack([np.sin(values_BL), np.cos(values_BL)], axis=-1).astype(np.float32)


def by_token(feeds: Feeds) -> dict[str, NDArray[Any]]:
    """A model whose outputs depend on the token alone."""
    return {"logits": logits_of(feeds["input_ids"])}


def by_call(feeds: Feeds) -> dict[str, NDArray[Any]]:
    """A model with one scale for the call, as dynamic quantization has it."""
    values = feeds["input_ids"] * feeds["attention_mask"]
    scale = values.max() / 16
    return {"logits": logits_of(np.rint(values / scale) * scale)}


def by_padding(feeds: Feeds) -> dict[str, NDArray[Any]]:
    """A model that forgets the mask: its vectors average padding too."""
    states = logits_of(feeds["input_ids"])
    return {"last_hidden_state": states, SENTENCE_OUTPUT: states.mean(axis=1)}


def check(run: Run, precision: Precision = "int8", **options: Any) -> InvarianceRecord:
    texts = probes(batch([5]), batch([17, 12, 6], left=options.pop("left", False)), **options)
    return check_invariance(run, texts, precision)


@pytest.mark.parametrize("left", [False, True])
def test_a_model_of_single_tokens_does_not_change(left: bool) -> None:
    record = check(by_token, left=left)
    assert (record.padded, record.neighbours, record.changed) == (0, 0, 0)
    assert record.holds
    assert isinstance(record.vector, NotMeasured)
    assert record.texts == 4
    # The longest text of 17 tokens has no room for padding; every text is in two batches.
    assert record.calls == 4 * 2 + 2 + 1 + 2
    assert record.answers > 0


def test_one_scale_for_a_call_is_found_unless_the_precision_is_known_to_have_it() -> None:
    record = check(by_call)
    assert record.neighbours > 0.01
    assert record.changed > 0
    assert not record.holds
    assert "with neighbours, expected at most 1e-05" in format_variance(record)
    known = check(by_call, "int8-dynamic")
    assert known.holds
    assert known.bound is None
    assert known.largest == record.largest


def test_a_vector_that_averages_padding_is_found() -> None:
    record = check(by_padding, task="feature-extraction")
    assert record.padded == 0, "the states themselves are right"
    assert isinstance(record.vector, float)
    assert record.vector > 0.001
    assert record.answers == 0
    assert not record.holds


def first_position(feeds: Feeds) -> dict[str, NDArray[Any]]:
    """A model that pools the first position, which is padding if that is on the left."""
    return {"logits": logits_of(feeds["input_ids"])[:, 0]}


@pytest.mark.parametrize("labels", [6, 12])
def test_as_many_labels_as_tokens_are_not_positions(labels: int) -> None:
    """A text of 5 tokens is padded to 6 and to 12, and others have these lengths."""

    def by_labels(feeds: Feeds) -> dict[str, NDArray[Any]]:
        return {"logits": np.sin(feeds["input_ids"][:, :1] * np.arange(1, labels + 1.0))}

    record = check(by_labels, task="text-classification")
    assert (record.padded, record.neighbours, record.changed) == (0, 0, 0)


@pytest.mark.parametrize("left", [False, True])
def test_a_model_that_reads_padding_itself_is_judged_without_a_bound(left: bool) -> None:
    texts = probes(batch([5]), batch([17, 12, 6], left=left), task="text-classification")
    change = find_change_by_padding(first_position, texts)
    assert (change > 0.1) == left
    known = replace(texts, change_by_padding=change)
    record = check_invariance(first_position, known, "int8")
    assert record.holds
    assert (record.bound is None) == left
    assert record.reason.startswith("padding changes the model's own outputs") == left
    # The artefact alone cannot excuse its changes.
    assert check_invariance(first_position, texts, "int8").holds != left


def test_the_change_by_padding_is_stored(tmp_path: Path) -> None:
    known = replace(probes(batch([5, 3])), change_by_padding=0.25)
    known.save(tmp_path / "probes.npz")
    assert Probes.load(tmp_path / "probes.npz").change_by_padding == 0.25


def test_a_change_of_a_sums_order_is_not_the_models_own() -> None:
    def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
        logits = by_token(feeds)["logits"]
        return {"logits": logits + np.float32(1e-5 * feeds["input_ids"].shape[1])}

    assert find_change_by_padding(run, probes(batch([5]), batch([12, 6]))) == 0.0


def test_padding_is_put_where_the_probes_have_it() -> None:
    seen = []

    def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
        seen.append(feeds)
        return by_token(feeds)

    check(run, left=True)
    padded = [feeds for feeds in seen if not feeds["attention_mask"].all()]
    assert padded
    for feeds in padded:
        assert feeds["attention_mask"][:, -1].all(), "tokens end at the last position"
        assert (feeds["input_ids"][feeds["attention_mask"] == 0] == 9).all()
