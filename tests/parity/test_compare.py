"""Figures of a comparison, by hand, on batches of prime sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from edgedistil.core.errors import ModelError, ParityError, ShapeError
from edgedistil.core.export_records import ParityFigures
from edgedistil.core.records import NotMeasured
from edgedistil.core.task import TASKS, ProblemType, Task, problem_type_of
from edgedistil.export.precision_search import output_drop
from edgedistil.parity.compare import (
    COSINE_MIN_WIDTH,
    TIE_MARGIN,
    Outputs,
    compare,
    cosines,
    kl_nats,
    margins,
    reduce_outputs,
)
from edgedistil.parity.probes import ProbeBatch, Probes
from edgedistil.parity.reference_error import SquaredErrors
from edgedistil.parity.tally import (
    CONCORDANCE_MIN_VALUES,
    REFERENCE_MIN_VALUES,
    Tally,
    parity_figures,
)

B, L, D, V = 2, 5, 11, 13
RNG = np.random.default_rng(3)


def _batch(
    task: Task, *, length: int = L, labels: int = 3
) -> tuple[ProbeBatch, dict[str, np.ndarray]]:
    """A padded batch (the second sequence is one token shorter), and outputs equal to its own."""
    mask_BL = np.ones((B, length), np.int64)
    mask_BL[1, -1] = 0
    rows_N2, masked_M2 = np.argwhere(mask_BL == 1), np.zeros((0, 2), np.int64)
    raw_shapes: dict[str, tuple[int, ...]] = {
        "fill-mask": {"logits": (B, length, V)},
        "feature-extraction": {"last_hidden_state": (B, length, D)},
        "text-classification": {"logits": (B, labels)},
        "token-classification": {"logits": (B, length, labels)},
        "question-answering": {"start_logits": (B, length), "end_logits": (B, length)},
        # One question, whose choices are the sequences.
        "multiple-choice": {"logits": (1, B)},
    }[task]
    outputs = {
        name: RNG.normal(size=shape).astype(np.float32) for name, shape in raw_shapes.items()
    }
    choices_M, margins_M = np.zeros(0, np.int64), np.zeros(0, np.float32)
    if task == "fill-mask":
        masked_M2 = np.array([[0, 1], [0, 3], [1, 2]])
        masked_MV = outputs["logits"][masked_M2[:, 0], masked_M2[:, 1]]
        choices_M, margins_M = masked_MV.argmax(-1), margins(masked_MV)
    elif task in ("text-classification", "multiple-choice"):
        rows_N2 = np.zeros((0, 2), np.int64)
    expected = {name: output.copy() for name, output in outputs.items()}
    if len(rows_N2):
        expected = {name: output[rows_N2[:, 0], rows_N2[:, 1]] for name, output in outputs.items()}
    batch = ProbeBatch(
        input_ids_BL=np.ones((B, length), np.int64),
        attention_mask_BL=mask_BL,
        token_type_ids_BL=None,
        rows_N2=rows_N2,
        outputs=expected,
        masked_M2=masked_M2,
        choices_M=choices_M,
        margins_M=margins_M,
        hidden_rows_R2=np.zeros((0, 2), np.int64),
        hidden_KRD=np.zeros((1, 0, D), np.float32),
        full_hidden_KBLD=None,
        choices=B if task == "multiple-choice" else None,
    )
    return batch, outputs


def _probes(task: Task, *batches: ProbeBatch, problem_type: ProblemType | None = None) -> Probes:
    return Probes(task, "0" * 64, 1, ("embeddings",), batches, problem_type)


def figures_of(probes: Probes, outputs: Sequence[Outputs]) -> ParityFigures:
    return compare(probes, outputs).overall


@pytest.mark.parametrize("task", TASKS)
def test_equal_outputs_have_no_error(task: Task) -> None:
    batch, outputs = _batch(task)
    figures = figures_of(_probes(task, batch), [outputs])
    assert figures.max_abs == figures.mean_abs == 0
    assert figures.sequences == B
    if task == "feature-extraction":
        assert [figures.cosine_min, figures.cosine_mean] == pytest.approx([1, 1])
        assert figures.kl_nats == NotMeasured(not_measured="feature-extraction: no distribution")
        assert figures.agreement == NotMeasured(
            not_measured="feature-extraction: nothing is decided"
        )
    else:
        assert figures.kl_nats == pytest.approx(0, abs=1e-12)
        assert figures.agreement == 1
        assert figures.decisions > 0


@pytest.mark.parametrize("task", TASKS)
def test_one_changed_value_is_the_largest_difference_and_the_mean_is_over_all(task: Task) -> None:
    batch, outputs = _batch(task)
    name = next(iter(outputs))
    changed = {key: array.copy() for key, array in outputs.items()}
    changed[name][0, 1] += 0.25
    figures = figures_of(_probes(task, batch), [changed])
    values = sum(array.size for array in batch.outputs.values())
    touched = changed[name][0, 1].size
    assert figures.max_abs == pytest.approx(0.25, rel=1e-5)
    assert figures.mean_abs == pytest.approx(0.25 * touched / values, rel=1e-5)


@pytest.mark.parametrize(
    "task", ["fill-mask", "feature-extraction", "token-classification", "question-answering"]
)
def test_outputs_at_padding_do_not_count(task: Task) -> None:
    batch, outputs = _batch(task)
    for array in outputs.values():
        array[1, -1] = 1e6
    assert figures_of(_probes(task, batch), [outputs]).max_abs == 0


def test_a_word_that_changes_at_a_mask_costs_agreement() -> None:
    batch, outputs = _batch("fill-mask")
    outputs["logits"][0, 3, int(batch.choices_M[1]) - 1] = 50
    figures = figures_of(_probes("fill-mask", batch), [outputs])
    assert figures.agreement == pytest.approx(2 / 3)
    assert figures.decisions == 3


def test_a_near_tie_in_pytorch_is_no_decision() -> None:
    batch, outputs = _batch("fill-mask")
    tied = replace(batch, margins_M=np.array([TIE_MARGIN / 2, 1, 1], np.float32))
    outputs["logits"][0, 1, int(batch.choices_M[0]) - 1] = 50
    figures = figures_of(_probes("fill-mask", tied), [outputs])
    assert (figures.agreement, figures.decisions) == (1, 2)


def test_a_span_agrees_only_with_both_its_ends() -> None:
    batch, outputs = _batch("question-answering")
    end = int(outputs["end_logits"][0].argmax())
    outputs["end_logits"][0, (end + 1) % L] = 50
    figures = figures_of(_probes("question-answering", batch), [outputs])
    assert (figures.agreement, figures.decisions) == (0.5, 2)


def test_a_regression_has_no_label_and_no_distribution() -> None:
    batch, outputs = _batch("text-classification", labels=1)
    figures = figures_of(_probes("text-classification", batch), [outputs])
    assert isinstance(figures.agreement, NotMeasured)
    assert isinstance(figures.kl_nats, NotMeasured)
    assert isinstance(figures.cosine_min, NotMeasured)
    assert isinstance(figures.cosine_mean, NotMeasured)


# --- problem types of a sequence's head ----------------------------------------------------------


def test_every_label_of_a_multi_label_head_is_a_decision() -> None:
    """A label that is always the largest hides what happens to the others from an argmax."""
    batch, _ = _batch("text-classification", labels=5)
    expected = np.array([[30, 2, -2, 0.5, -1], [30, -1, 3, TIE_MARGIN / 2, 4]], np.float32)
    batch = replace(batch, outputs={"logits": expected})
    actual = expected.copy()
    # Two labels change; the third change is of a near-tie, which does not count.
    actual[0, 1], actual[1, 4], actual[1, 3] = -0.1, -3, -1
    probes = _probes("text-classification", batch, problem_type="multi_label_classification")
    figures = figures_of(probes, [{"logits": actual}])
    assert (figures.agreement, figures.decisions) == (pytest.approx(7 / 9), 9)
    # As a choice among classes nothing has changed.
    classes = _probes("text-classification", batch, problem_type="single_label_classification")
    assert figures_of(classes, [{"logits": actual}]).agreement == 1


def test_divergence_of_labels_is_that_of_their_probabilities() -> None:
    batch, _ = _batch("text-classification", labels=1)
    p, q = np.array([0.7, 0.2]), np.array([0.6, 0.4])
    expected, actual = (np.log(x / (1 - x)).astype(np.float32)[:, None] for x in (p, q))
    probes = _probes(
        "text-classification",
        replace(batch, outputs={"logits": expected}),
        problem_type="multi_label_classification",
    )
    figures = figures_of(probes, [{"logits": actual}])
    by_hand = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert figures.kl_nats == pytest.approx(by_hand.mean(), rel=1e-5)
    assert figures.decisions == B


def test_a_regression_of_several_values_has_the_concordance_of_its_worst_output() -> None:
    width = COSINE_MIN_WIDTH + 3
    batch, _ = _batch("text-classification", labels=width)
    count = CONCORDANCE_MIN_VALUES
    batches, changed = [], []
    for number in range(count):
        values = RNG.normal(size=(B, width)).astype(np.float32) + 5 * np.arange(width)
        batches.append(replace(batch, outputs={"logits": values.astype(np.float32)}))
        values[:, 2] *= -1 if number % 2 else 1
        changed.append({"logits": values.astype(np.float32)})
    probes = _probes("text-classification", *batches, problem_type="regression")
    figures = figures_of(probes, changed)
    assert (figures.decisions, isinstance(figures.kl_nats, NotMeasured)) == (0, True)
    expected, got = (
        np.concatenate([outputs["logits"][:, 2] for outputs in source])
        for source in ([batch.outputs for batch in batches], changed)
    )
    covariance = np.mean((expected - expected.mean()) * (got - got.mean()))
    scale = expected.var() + got.var() + (expected.mean() - got.mean()) ** 2
    assert figures.concordance == pytest.approx(2 * covariance / scale, rel=1e-4)
    # It is the figure that `auto` searches by, although rows of this width have cosines too.
    assert isinstance(figures.cosine_min, float)
    assert output_drop(figures) == pytest.approx(1 - figures.concordance)


@pytest.mark.parametrize(
    ("task", "declared", "labels", "problem_type"),
    [
        ("text-classification", None, 1, "regression"),
        ("text-classification", "single_label_classification", 1, "regression"),
        ("text-classification", "multi_label_classification", 1, "multi_label_classification"),
        ("text-classification", None, 3, "single_label_classification"),
        ("text-classification", "regression", 3, "regression"),
        ("token-classification", "regression", 3, None),
        ("fill-mask", None, 2, None),
    ],
)
def test_problem_type_is_the_one_that_transformers_assumes(
    task: Task, declared: ProblemType | None, labels: int, problem_type: ProblemType | None
) -> None:
    assert problem_type_of(task, declared, labels) == problem_type


def test_by_length_adds_up_to_the_overall_figures() -> None:
    (one, first), (two, second), (three, third) = (
        _batch("feature-extraction", length=n) for n in (3, 7, 3)
    )
    second["last_hidden_state"] += 0.5
    result = compare(_probes("feature-extraction", one, two, three), [first, second, third])
    assert [row.length for row in result.by_length] == [3, 7]
    assert [row.sequences for row in result.by_length] == [4, 2]
    assert [row.max_abs for row in result.by_length] == [0, pytest.approx(0.5)]
    assert result.overall.sequences == 6
    assert result.overall.length == NotMeasured(not_measured="all of 3, 7")
    assert result.overall.mean_abs == pytest.approx(
        0.5 * 13 / (2 * 5 + 13)
    )  # rows: 2·(3+2) and 7+6
    short, long = (row.cosine_mean for row in result.by_length)
    assert isinstance(short, float) and isinstance(long, float)
    assert result.overall.cosine_mean == pytest.approx((10 * short + 13 * long) / 23)


def test_reduced_outputs_are_compared_as_the_raw_ones() -> None:
    batch, outputs = _batch("fill-mask")
    outputs["logits"] = outputs["logits"] + RNG.normal(size=outputs["logits"].shape).astype(
        np.float32
    )
    reduced = reduce_outputs(batch, outputs)
    assert reduced["logits"].shape == batch.outputs["logits"].shape
    probes = _probes("fill-mask", batch)
    assert figures_of(probes, [reduced]) == figures_of(probes, [outputs])
    assert figures_of(probes, [reduce_outputs(batch, reduced)]) == figures_of(probes, [outputs])


def test_not_finite_is_an_error_not_a_figure() -> None:
    batch, outputs = _batch("token-classification")
    outputs["logits"][0, 0, 0] = np.nan
    with pytest.raises(
        ParityError, match=r"output 'logits' holds 1 values that are NaN or infinite .*2 × 5 tokens"
    ):
        figures_of(_probes("token-classification", batch), [outputs])


def test_wrong_outputs_are_named() -> None:
    batch, outputs = _batch("feature-extraction")
    probes = _probes("feature-extraction", batch)
    with pytest.raises(ModelError, match="no output 'last_hidden_state'; it has: other"):
        figures_of(probes, [{"other": outputs["last_hidden_state"]}])
    with pytest.raises(ShapeError, match=r"has the shape \(2, 5, 7\), expected \(2, 5, 11\)"):
        figures_of(probes, [{"last_hidden_state": outputs["last_hidden_state"][..., :7]}])
    with pytest.raises(ShapeError, match="got the outputs of 0 batches, expected 1"):
        figures_of(probes, [])
    masks, logits = _batch("fill-mask")
    reduced = reduce_outputs(masks, logits)
    del reduced["choices"]
    with pytest.raises(ShapeError, match="without 'choices'"):
        figures_of(_probes("fill-mask", masks), [reduced])


def test_kl_is_the_sum_it_is_defined_as_and_ignores_a_shift() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    expected = float((p * np.log(p / q)).sum())
    assert kl_nats(np.log(p)[None], np.log(q)[None] + 7)[0] == pytest.approx(expected)
    assert kl_nats(np.log(q)[None], np.log(q)[None] - 3)[0] == pytest.approx(0, abs=1e-12)


def test_cosines() -> None:
    a = np.array([[1.0, 0], [1, 1], [0, 0], [0, 0]])
    b = np.array([[0.0, 2], [3, 3], [0, 0], [1, 0]])
    assert cosines(a, b) == pytest.approx([0, 1, 1, 0])


def test_margins_are_between_the_two_largest() -> None:
    assert margins(np.array([[1.0, 5, 3], [2, 2, 0]])) == pytest.approx([2, 0])


def test_an_empty_tally_adds_nothing() -> None:
    tally = Tally(
        sequences=3,
        values=5,
        abs_sum=2,
        abs_max=1,
        cosine_min=0.5,
        cosine_sum=2.5,
        rows=3,
        decisions=4,
        agreed=3,
    )
    assert tally + Tally() == tally


def test_concordance_of_single_values_by_hand() -> None:
    batch, outputs = _batch("text-classification", labels=1)
    count = -(-CONCORDANCE_MIN_VALUES // len(batch.outputs["logits"]))
    expected = np.concatenate([batch.outputs["logits"][:, 0]] * count)
    noisy = {
        "logits": outputs["logits"]
        + np.linspace(0, 1, len(outputs["logits"]), dtype=np.float32)[:, None]
    }
    probes = _probes("text-classification", *[batch] * count)
    figures = figures_of(probes, [noisy] * count)
    got = np.tile(noisy["logits"][:, 0], count)
    by_hand = (
        2
        * np.cov(expected, got, ddof=0)[0, 1]
        / (expected.var() + got.var() + (expected - got).mean() ** 2)
    )
    assert figures.concordance == pytest.approx(by_hand, rel=1e-5)

    def of(logits: np.ndarray) -> object:
        return figures_of(probes, [{"logits": logits.astype(np.float32)}] * count).concordance

    assert of(outputs["logits"]) == pytest.approx(1.0)
    assert of(np.ones_like(outputs["logits"])) == 0.0
    assert of(outputs["logits"] * 2) < 0.95, "Pearson's would be 1"
    assert of(outputs["logits"] + 3) < 0.95, "Pearson's would be 1"
    assert isinstance(
        figures_of(_probes("text-classification", batch), [outputs]).concordance, NotMeasured
    ) == (len(batch.outputs["logits"]) < CONCORDANCE_MIN_VALUES)


@pytest.mark.parametrize(("values", "is_measured"), [(REFERENCE_MIN_VALUES - 1, False), (32, True)])
def test_a_share_of_few_values_is_not_measured(values: int, *, is_measured: bool) -> None:
    """One value that rounds to the other side would decide it."""
    tally = Tally(sequences=3, values=values, reference=SquaredErrors(own=4.0, rounding=1.0))
    figures = parity_figures(tally, length=61, task="multiple-choice")
    assert (figures.reference_share == 2.0) is is_measured
    if not is_measured:
        assert "31 values" in figures.reference_share.not_measured
