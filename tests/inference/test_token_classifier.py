"""Spans are those of transformers' pipeline, for every way to join tokens."""

from __future__ import annotations

import warnings

import pytest
from transformers import BertForTokenClassification, RobertaForTokenClassification, pipeline

from edgedistil import TokenClassifier
from edgedistil.core.errors import InputError, ModelError
from edgedistil.inference.task_model import TextsCutWarning
from tests.fixtures.tokenizer_folders import our_text
from tests.fixtures.traced_package import TracedPackage, traced_package

LABELS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}
TEXTS = [
    *(line[:60] for line in our_text()[2:14]),
    "Ada Lovelace wrote to London, naïvely.",
    "e\u0301te\u0301 東京 unaffordable",
    "",
]
AGGREGATIONS = ["none", "simple", "first", "average", "max"]


@pytest.fixture(scope="module", params=["bert", "roberta"])
def package(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> TracedPackage:
    classes = {"bert": BertForTokenClassification, "roberta": RobertaForTokenClassification}
    folder = tmp_path_factory.mktemp(request.param) / "package"
    settings = {"id2label": LABELS, "num_labels": len(LABELS)}
    return traced_package(folder, classes[request.param], "token-classification", **settings)


def expected(package: TracedPackage, text: str, aggregation: str, **more: object) -> list:
    with warnings.catch_warnings():
        # RoBERTa's vocabulary does not say which tokens continue a word.
        warnings.filterwarnings("ignore", "Tokenizer does not support real words")
        find = pipeline(
            "token-classification",
            model=package.model,
            tokenizer=package.tokenizer,
            aggregation_strategy=aggregation,
            **more,
        )
        name = "entity" if aggregation == "none" else "entity_group"
        return [(s[name], s["start"], s["end"], float(s["score"])) for s in find(text)]


def rounded(spans: list[tuple[str, int, int, float]]) -> list[tuple[object, ...]]:
    return [
        (label, start, end, pytest.approx(score, abs=3e-6)) for label, start, end, score in spans
    ]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_spans_are_those_of_the_pipeline(aggregation: str, package: TracedPackage) -> None:
    got = TokenClassifier(package.folder).spans(TEXTS, aggregation=aggregation)
    count = 0
    for text, spans in zip(TEXTS, got, strict=True):
        theirs = expected(package, text, aggregation)
        assert [(s.label, s.start, s.end, s.score) for s in spans] == rounded(theirs)
        assert [s.text for s in spans] == [text[s.start : s.end] for s in spans]
        count += len(spans)
    assert count > 20


def test_windows_of_a_long_text_are_joined_as_the_pipeline_does(package: TracedPackage) -> None:
    text = " ".join(our_text()[2:8])
    classifier = TokenClassifier(package.folder)
    [spans] = classifier.spans([text], overlap=9)
    theirs = expected(package, text, "simple", stride=9)
    assert [(s.label, s.start, s.end, s.score) for s in spans] == rounded(theirs)
    with pytest.warns(TextsCutWarning, match=r": 1$"):
        [cut] = classifier.spans([text])
    assert spans[-1].end > len(text) // 2 > 0
    assert max(span.end for span in cut) < max(span.end for span in spans)


def test_unknown_ways_to_join_are_refused(package: TracedPackage) -> None:
    classifier = TokenClassifier(package.folder)
    with pytest.raises(InputError, match=r"unknown aggregation median; expected none, simple"):
        classifier.spans(["a"], aggregation="median")
    with pytest.raises(InputError, match=r"overlap is 62; expected 0 to 61"):
        classifier.spans(["a"], overlap=62)


def test_scores_that_are_nan_are_refused(package: TracedPackage, nan_outputs: None) -> None:
    with pytest.raises(ModelError, match=r"scores of .* are NaN or infinite"):
        TokenClassifier(package.folder).spans(["a boat"])
