"""Labels and scores are those of transformers' pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import BertForSequenceClassification, pipeline

from edgedistil import Classifier
from edgedistil.core.contract import read_contract, write_contract
from edgedistil.core.errors import InputError, ModelError
from edgedistil.inference.task_model import TextsCutWarning
from tests.fixtures.tokenizer_folders import our_text
from tests.fixtures.traced_package import LENGTH, TracedPackage, traced_package

LABELS = {0: "sad", 1: "glad", 2: "calm"}
SHORT = ["The boat left.", "", "naïve café 東京", "a much longer text with several words in it"]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> TracedPackage:
    folder = tmp_path_factory.mktemp("classifier") / "package"
    settings = {"id2label": LABELS, "num_labels": 3}
    return traced_package(folder, BertForSequenceClassification, "text-classification", **settings)


def expected(package: TracedPackage, texts: list[object], function: str) -> np.ndarray:
    """Scores of the pipeline in the model's order."""
    classify = pipeline("text-classification", model=package.model, tokenizer=package.tokenizer)
    rows = []
    for text in texts:
        inputs = {"text": text[0], "text_pair": text[1]} if isinstance(text, tuple) else text
        answers = classify(inputs, top_k=None, function_to_apply=function, truncation=True)
        by_name = {answer["label"]: answer["score"] for answer in answers}
        rows.append([by_name[name] for name in LABELS.values()])
    return np.array(rows, np.float32)


def test_texts_and_pairs_have_the_scores_of_the_pipeline(package: TracedPackage) -> None:
    texts = [*SHORT, ("first text", "second"), ("", "x"), *(line[:60] for line in our_text()[:20])]
    got = Classifier(package.folder).scores(texts)
    np.testing.assert_allclose(got, expected(package, texts, "softmax"), atol=2e-6)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-6)
    # Texts differ, so the comparison is about something.
    assert np.ptp(got, axis=0).min() > 0.05


def test_long_texts_and_pairs_are_cut_as_transformers_does(package: TracedPackage) -> None:
    long = "the boat and the road " * 40
    texts = [long, (long, long), ("short", long), SHORT[0]]
    with pytest.warns(TextsCutWarning, match=rf"exceed {LENGTH} tokens \(cut there\): 3"):
        got = Classifier(package.folder).scores(texts)
    np.testing.assert_allclose(got, expected(package, texts, "softmax"), atol=2e-6)


@pytest.mark.parametrize(
    ("problem_type", "function"),
    [("multi_label_classification", "sigmoid"), ("regression", "none")],
)
def test_scores_are_read_as_the_contract_says(
    problem_type: str, function: str, package: TracedPackage
) -> None:
    original = read_contract(package.folder)
    try:
        changed = replace(original, problem_type=problem_type)
        write_contract(package.folder, changed)
        got = Classifier(package.folder).scores(SHORT)
    finally:
        write_contract(package.folder, original)
    np.testing.assert_allclose(got, expected(package, SHORT, function), atol=2e-5)


def test_labels_come_with_the_most_likely_first(package: TracedPackage) -> None:
    classifier = Classifier(package.folder)
    scores = classifier.scores(SHORT)
    for row, labels in zip(scores, classifier.classify(SHORT), strict=True):
        assert [label.score for label in labels] == sorted(map(float, row), reverse=True)
        assert {label.name for label in labels} == set(LABELS.values())
    best = [labels[0].name for labels in classifier.classify(SHORT, top_k=1)]
    assert best == [classifier.labels[index] for index in scores.argmax(axis=1)]
    assert classifier.classify([]) == []


def test_small_batches_give_the_same_scores(package: TracedPackage) -> None:
    texts = [line[:60] for line in our_text()[:30]]
    small = Classifier(package.folder, batch_tokens=LENGTH).scores(texts)
    np.testing.assert_allclose(small, Classifier(package.folder).scores(texts), atol=2e-6)


def test_a_single_text_is_refused(package: TracedPackage) -> None:
    with pytest.raises(InputError, match=r"expected a list of texts, got one text"):
        Classifier(package.folder).classify("a text")


def test_other_labels_than_the_graph_are_refused(package: TracedPackage) -> None:
    original = read_contract(package.folder)
    try:
        write_contract(package.folder, replace(original, labels=["a", "b"]))
        with pytest.raises(ModelError, match=r"shape \(1, 3\); contract.json says \(1, 2\)"):
            Classifier(package.folder).scores(["x"])
    finally:
        write_contract(package.folder, original)


def test_a_folder_of_another_task_is_refused(package: TracedPackage, tmp_path: Path) -> None:
    from edgedistil import MaskFiller

    with pytest.raises(
        InputError, match="is an export for text-classification; expected fill-mask"
    ):
        MaskFiller(package.folder)
