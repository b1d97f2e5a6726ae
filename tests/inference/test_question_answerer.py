"""Answers are the spans that a search over PyTorch's scores finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertForQuestionAnswering, RobertaForQuestionAnswering

from edgedistil import QuestionAnswerer
from edgedistil.core.errors import InputError, ModelError
from tests.fixtures.tokenizer_folders import our_text
from tests.fixtures.traced_package import LENGTH, TracedPackage, traced_package

QUESTION = "What left the harbour?"
SHORT = "The boat left the harbour before sunrise, naïvely."


@pytest.fixture(scope="module", params=["bert", "roberta"])
def package(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> TracedPackage:
    classes = {"bert": BertForQuestionAnswering, "roberta": RobertaForQuestionAnswering}
    folder = tmp_path_factory.mktemp(request.param) / "package"
    return traced_package(folder, classes[request.param], "question-answering")


def search(
    package: TracedPackage, question: str, context: str, *, overlap: int, most: int
) -> list[tuple[float, int, int]]:
    """Score and characters of all spans, the best first; words are not completed."""
    inputs = package.tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=LENGTH,
        stride=overlap,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding=True,
        return_tensors="pt",
    )
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in inputs]
    with torch.no_grad():
        output = package.model(**{name: inputs[name] for name in names})
    context_BL = np.array(
        [
            [part == 1 for part in inputs.sequence_ids(row)]
            for row in range(len(inputs["input_ids"]))
        ]
    )
    counts_BL = context_BL | (inputs["input_ids"] == package.tokenizer.cls_token_id).numpy()
    sides = []
    for logits in (output.start_logits, output.end_logits):
        masked = torch.where(torch.from_numpy(counts_BL), logits, -torch.inf)
        sides.append(torch.softmax(masked.flatten(), 0).reshape(masked.shape).numpy())
    spans: dict[tuple[int, int], float] = {}
    for row, offsets in enumerate(inputs["offset_mapping"].tolist()):
        places = np.flatnonzero(context_BL[row])
        for start in places:
            for end in places[(places >= start) & (places < start + most)]:
                span = offsets[start][0], offsets[end][1]
                score = float(sides[0][row, start] * sides[1][row, end])
                spans[span] = max(spans.get(span, 0.0), score)
    return sorted(((score, *span) for span, score in spans.items()), key=lambda s: (-s[0], s[1:]))


@pytest.mark.parametrize("context", [SHORT, " ".join(our_text()[2:9])])
def test_the_best_span_is_the_one_that_a_search_finds(context: str, package: TracedPackage) -> None:
    room = LENGTH - package.tokenizer.num_special_tokens_to_add(pair=True)
    theirs = search(package, QUESTION, context, overlap=room // 4, most=30)
    [answers] = QuestionAnswerer(package.folder).answer([(QUESTION, context)], top_k=3)
    assert len(answers) == 3
    score, start, end = theirs[0]
    assert answers[0].score == pytest.approx(score, rel=1e-4)
    # Tokens of RoBERTa begin with a blank, and words are completed.
    text = context[start:end].strip()
    assert text in answers[0].text
    assert answers[0].text == context[answers[0].start : answers[0].end]
    assert not answers[0].text.startswith(" ")


def test_answers_are_complete_words(package: TracedPackage) -> None:
    context = "unaffordability " * 8
    [answers] = QuestionAnswerer(package.folder).answer([(QUESTION, context)], top_k=5)
    for answer in answers:
        assert set(answer.text.split()) == {"unaffordability"}


def test_answers_have_few_tokens(package: TracedPackage) -> None:
    [answers] = QuestionAnswerer(package.folder).answer(
        [(QUESTION, "a b c d e f")], top_k=50, max_tokens=2
    )
    assert {len(answer.text.split()) for answer in answers} == {1, 2}
    scores = [answer.score for answer in answers]
    assert scores == sorted(scores, reverse=True)
    assert len({(answer.start, answer.end) for answer in answers}) == len(answers)


def test_several_questions_have_the_answers_of_each(package: TracedPackage) -> None:
    answerer = QuestionAnswerer(package.folder)
    questions = [(QUESTION, SHORT), ("Why?", " ".join(our_text()[2:9])), (QUESTION, "")]
    together = answerer.answer(questions)
    alone = [answerer.answer([question])[0] for question in questions]
    for [a, b] in zip(together, alone, strict=True):
        assert [(x.text, x.start) for x in a] == [(x.text, x.start) for x in b]
    assert together[2] == []


def test_a_question_without_room_for_a_context_is_refused(package: TracedPackage) -> None:
    with pytest.raises(InputError, match=r"a question has \d+ tokens; expected at most 30"):
        QuestionAnswerer(package.folder).answer([("why " * 40, SHORT)])


def test_scores_that_are_nan_are_refused(package: TracedPackage, nan_outputs: None) -> None:
    with pytest.raises(ModelError, match=r"scores of .* are NaN or infinite"):
        QuestionAnswerer(package.folder).answer([(QUESTION, "The boat left.")])
