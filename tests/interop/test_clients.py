"""Outputs of other libraries for a package, compared with PyTorch's for its source.

float32 is held to PyTorch; int8 to the package's own numbers in this environment's onnxruntime
(whose distance to PyTorch is the gate's business): the client must add nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FLOAT32 = 1e-4  # the gate's own tolerance
SAME_KERNELS = 1e-5  # the same onnxruntime, perhaps with other session options
# int8 on another release of onnxruntime: an activation that rounds the other way moves an output by
# a step or two.
OTHER_RELEASE = 0.01
TEXTS, LONGEST = 4, 512


@pytest.fixture(scope="module")
def expect(packages, pytorch) -> Callable[[list[dict[str, Any]]], dict[str, dict[str, np.ndarray]]]:
    """By job: token ids and output, of PyTorch for fp32, of onnxruntime here for int8.

    Always for the very texts of the job, padded as the client pads them.
    """

    def _expect(jobs: list[dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
        result = {}
        for job in jobs:
            package = packages[job["package"]]
            answer = pytorch(package, job["texts"])
            if job["dtype"] == "int8":
                answer = answer | {"output": _here(package, job["file"], answer)}
            result[job["key"]] = answer
        return result

    return _expect


@pytest.fixture(scope="module")
def expected(expect, jobs) -> dict[str, dict[str, np.ndarray]]:
    return expect(jobs)


def _here(package, file: str, answer: dict[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(
        package.folder / "onnx" / file, providers=["CPUExecutionProvider"]
    )
    ids = answer["input_ids"]
    feeds = {
        "input_ids": ids,
        "attention_mask": answer["attention_mask"],
        "token_type_ids": ids * 0,
    }
    [output] = session.run(None, {item.name: feeds[item.name] for item in session.get_inputs()})
    return output[ids == 103] if package.task == "fill-mask" else output


def _attended(answer: dict[str, np.ndarray], output: np.ndarray) -> np.ndarray:
    """Hidden states where there is text; values at padding are not compared."""
    return output[answer["attention_mask"] == 1] if output.ndim == 3 else output


def _mean(answer: dict[str, np.ndarray], output_BLD: np.ndarray) -> np.ndarray:
    weights_BL1 = answer["attention_mask"][..., None]
    return (output_BLD * weights_BL1).sum(axis=1) / weights_BL1.sum(axis=1)


def _assert_as_expected(
    answers: dict[str, np.ndarray], expected, jobs: list[dict[str, Any]]
) -> None:
    for job in jobs:
        key, answer = job["key"], expected[job["key"]]
        np.testing.assert_array_equal(answers[f"{key}/input_ids"], answer["input_ids"], err_msg=key)
        got, reference = (
            _attended(answer, output) for output in (answers[f"{key}/output"], answer["output"])
        )
        assert got.shape == reference.shape, key
        assert np.abs(got - reference).max() <= (
            FLOAT32 if job["dtype"] == "fp32" else SAME_KERNELS
        ), key


def test_the_text_reaches_the_models_limit(expected) -> None:
    lengths = {key: answer["input_ids"].shape for key, answer in expected.items()}
    assert lengths["student-feature-extraction.fp32"] == (TEXTS, LONGEST), (
        "the longest text is cut, the others padded"
    )
    assert len(lengths) == 8


def test_optimum_loads_every_package(client, expected, jobs) -> None:
    answers = client("optimum", "optimum_client.py", jobs)
    _assert_as_expected(answers, expected, jobs)
    encoders = [job for job in jobs if job["task"] == "feature-extraction"]
    assert len(encoders) == 4
    for job in encoders:  # sentence-transformers, from the same folder
        answer = expected[job["key"]]
        reference = _mean(answer, answer["output"])
        got = answers[f"{job['key']}/sentence"]
        tolerance = (
            FLOAT32 if job["dtype"] == "fp32" else SAME_KERNELS
        )  # texts in another order, the same batch
        assert np.abs(got - reference).max() <= tolerance, job["key"]


def test_onnxruntime_with_tokenizers_is_enough(client, expected, jobs) -> None:
    _assert_as_expected(client("plain", "plain_client.py", jobs), expected, jobs)


@pytest.mark.needs("node", "npm")
def test_transformers_js_runs_fp32_and_int8_on_node(client, expect, jobs) -> None:
    # It cuts a text that is too long after it has added [SEP], and so loses that, whatever the
    # folder.
    asked = [
        job | {"texts": job["texts"][:3]} for job in jobs if job["task"] != "text-classification"
    ]
    answers = client("transformers.js", "transformers_js.mjs", asked)
    assert len(asked) == 6
    expected = expect(asked)
    for job in asked:
        answer, reference = answers[job["key"]], expected[job["key"]]
        ids = np.array(answer["input_ids"]).reshape(answer["shape"])
        np.testing.assert_array_equal(ids, reference["input_ids"], err_msg=job["key"])
        tolerance = FLOAT32 if job["dtype"] == "fp32" else OTHER_RELEASE
        if job["task"] == "fill-mask":
            _assert_same_words(
                answer["output"], reference["output"], job["key"], relative=10 * tolerance
            )
        else:
            got = np.array(answer["output"]).reshape(answer["dims"])
            assert np.abs(got - _mean(reference, reference["output"])).max() <= tolerance, job[
                "key"
            ]


def _assert_same_words(
    predictions: list[list[dict[str, Any]]], logits_NV: np.ndarray, key: str, *, relative: float
) -> None:
    """The scores of the five words that the client likes best are the model's own, in a falling
    order.
    """
    shifted_NV = np.exp(logits_NV.astype(np.float64) - logits_NV.max(axis=-1, keepdims=True))
    scores_NV = shifted_NV / shifted_NV.sum(axis=-1, keepdims=True)
    assert len(predictions) == len(scores_NV)
    for words, scores_V in zip(predictions, scores_NV, strict=True):
        assert len(words) == 5
        got = np.array([word["score"] for word in words])
        reference = scores_V[[word["token"] for word in words]]
        np.testing.assert_allclose(got, reference, rtol=relative, err_msg=key)
        assert got[0] == pytest.approx(scores_V.max(), rel=relative), key
