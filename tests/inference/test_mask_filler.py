"""Tokens and probabilities are those of transformers' pipeline."""

from __future__ import annotations

import pytest
from transformers import BertForMaskedLM, RobertaForMaskedLM, pipeline

from edgedistil import MaskFiller
from edgedistil.core.errors import InputError, ModelError
from edgedistil.inference import task_model
from edgedistil.inference.task_model import TextsCutWarning
from tests.fixtures.traced_package import LENGTH, TracedPackage, traced_package


@pytest.fixture(scope="module", params=["bert", "roberta"])
def package(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> TracedPackage:
    classes = {"bert": BertForMaskedLM, "roberta": RobertaForMaskedLM}
    folder = tmp_path_factory.mktemp(request.param) / "package"
    return traced_package(folder, classes[request.param], "fill-mask")


def test_tokens_are_those_of_the_pipeline(package: TracedPackage) -> None:
    filler = MaskFiller(package.folder)
    fill = pipeline("fill-mask", model=package.model, tokenizer=package.tokenizer, top_k=4)
    texts = [f"the {filler.mask} left", f"{filler.mask}", f"a{filler.mask} b {filler.mask} é"]
    theirs = [[fill(texts[0])], [fill(texts[1])], fill(texts[2])]
    got = filler.fill(texts, top_k=4)
    assert [len(masks) for masks in got] == [1, 1, 2]
    for masks, their_masks in zip(got, theirs, strict=True):
        for tokens, their_tokens in zip(masks, their_masks, strict=True):
            assert [token.token_id for token in tokens] == [t["token"] for t in their_tokens]
            assert [token.text for token in tokens] == [t["token_str"] for t in their_tokens]
            scores = [t["score"] for t in their_tokens]
            assert [token.score for token in tokens] == pytest.approx(scores, abs=2e-6)


def test_calls_are_so_small_that_their_scores_fit(
    package: TracedPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for the scores of 40 positions, texts of 30 tokens run one by one."""
    filler = MaskFiller(package.folder)
    text = f"{filler.mask} " + "the " * 27
    calls = []
    run = type(filler._model).run

    def counted(model, ids, *more, **outputs):
        calls.append(ids.shape)
        return run(model, ids, *more, **outputs)

    monkeypatch.setattr(type(filler._model), "run", counted)
    filler.fill([text] * 3)
    assert [shape[0] for shape in calls] == [3]
    calls.clear()
    monkeypatch.setattr(task_model, "_OUTPUT_BYTES", 40 * 4 * package.model.config.vocab_size)
    filler.fill([text] * 3)
    assert [shape[0] for shape in calls] == [1, 1, 1]


def test_masks_behind_the_cut_are_warned_of(package: TracedPackage) -> None:
    filler = MaskFiller(package.folder)
    text = f"{filler.mask} " + "the " * 4 * filler.max_length + filler.mask
    with pytest.warns(TextsCutWarning, match="1$"):
        [masks] = filler.fill([text])
    assert len(masks) == 1


def test_scores_that_are_nan_are_refused(package: TracedPackage, nan_outputs: None) -> None:
    filler = MaskFiller(package.folder)
    with pytest.raises(ModelError, match=r"scores of .* are NaN or infinite"):
        filler.fill([filler.mask])


def test_texts_without_a_mask_are_refused(package: TracedPackage) -> None:
    filler = MaskFiller(package.folder)
    with pytest.raises(InputError, match=r"a text has no mask: the boat\n  write .* where") as e:
        filler.fill([filler.mask, "the boat"])
    assert filler.mask.strip() in str(e.value)
    with pytest.raises(InputError, match=rf"behind the {LENGTH} tokens that the model reads"):
        filler.fill(["the " * 80 + filler.mask])
