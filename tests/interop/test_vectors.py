"""Sentence vectors of an exported folder by other libraries, compared with PyTorch's.

fp32 is held to PyTorch; int8 to the folder's own graph in this onnxruntime, through `Encoder`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, BertConfig, BertModel

from edgedistil.core.model_source import find_model
from edgedistil.core.options import ExportOptions
from edgedistil.core.places import cache_root
from edgedistil.core.rundir import RunDir
from edgedistil.core.tokenizer_files import TOKENIZER_FILES
from edgedistil.export import probe_inputs, publish
from edgedistil.export.source import read_source
from edgedistil.export.vector_options import VectorOptions
from edgedistil.inference.encoder import Encoder
from edgedistil.models.sentence_encoder import load_sentence_encoder
from edgedistil.models.sentence_folder import write_sentence_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # The last text is too long on purpose.
    pytest.mark.filterwarnings("ignore::edgedistil.inference.task_model.TextsCutWarning"),
]

# The gate's tolerance of fp32, and that of int8 on the same kernels and on another release.
FLOAT32, SAME_KERNELS, OTHER_RELEASE = 1e-4, 1e-5, 0.01
PROMPT, DIMENSION = "query: ", 16
CLASSES = "sentence_transformers.models"
TASK = "feature-extraction"
Vectors = dict[str, np.ndarray]
Client = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """Jobs for the clients, and the vectors that each has to give."""

    jobs: list[dict[str, Any]]
    expected: Vectors


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Case:
    """A small encoder with MiniLM's tokenizer and a prompt, cut to 16 values, fp32 and int8."""
    root = tmp_path_factory.mktemp("vectors")
    source = root / "source"
    write_source(source)
    model = replace(
        read_source(source, name="m", role="other", task=TASK),
        vector_options=VectorOptions(dimension=DIMENSION),
    )
    run = RunDir(root / "run")
    with pytest.MonkeyPatch.context() as patch:
        # Random weights are far from float32 in 8 bits: the clients are compared, not the gate.
        patch.setattr(publish, "_reject_failed", lambda *_: None)
        patch.setattr(probe_inputs, "CALLS", {512: (2,)})
        publish.export_model(run, model, ExportOptions(precisions=["int8"]), text=texts)
    folder = run.export("m", TASK)
    expected = {
        "fp32": _pytorch(source, Encoder(folder), texts),
        "int8": Encoder(folder, precision="int8").embed(texts, side="query"),
    }
    files = {"fp32": "model.onnx", "int8": "model_int8.onnx"}
    jobs = [
        {
            "key": dtype,
            "folder": str(folder),
            "file": file,
            "dtype": dtype,
            "texts": texts,
            "prompt": PROMPT,
        }
        for dtype, file in files.items()
    ]
    return Case(jobs, expected)


def write_source(folder: Path) -> None:
    """Writes a sentence-transformers folder: mean of the states, normalized, with a prompt."""
    torch.manual_seed(4)
    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    minilm = find_model("asset:minilm", cache=cache_root())
    for name in TOKENIZER_FILES:
        if (minilm / name).is_file():
            shutil.copyfile(minilm / name, folder / name)
    modules = []
    for index, name in enumerate(("Transformer", "Pooling", "Normalize")):
        path = f"{index}_{name}" if index else ""
        modules.append(
            {"idx": index, "name": str(index), "path": path, "type": f"{CLASSES}.{name}"}
        )
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    settings = {"prompts": {"query": PROMPT}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))


def _pytorch(source: Path, encoder: Encoder, texts: list[str]) -> np.ndarray:
    """The source's vectors, one text at a time, cut and normalized by hand."""
    model = load_sentence_encoder(source)
    tokenizer = encoder._model.tokenizer
    rows = []
    for text in texts:
        ids, _ = tokenizer.encode_framed([PROMPT + text], encoder.max_length)[0]
        batch = torch.tensor([ids])
        with torch.no_grad():
            vector = model(batch, torch.ones_like(batch), torch.zeros_like(batch))[1][0]
        first = vector.numpy()[:DIMENSION]
        rows.append(first / np.linalg.norm(first))
    return np.stack(rows)


def test_the_package_gives_pytorchs_vectors(case: Case, texts: list[str]) -> None:
    vectors = Encoder(case.jobs[0]["folder"]).embed(texts, side="query")
    assert vectors.shape == (len(texts), DIMENSION)
    assert np.abs(vectors - case.expected["fp32"]).max() <= FLOAT32


def test_sentence_transformers_gives_the_same_vectors(client: Client, case: Case) -> None:
    answers = client("optimum", "vectors_client.py", case.jobs)
    assert np.abs(answers["fp32"] - case.expected["fp32"]).max() <= FLOAT32
    # It pools the states itself, in float32.
    assert np.abs(answers["int8"] - case.expected["int8"]).max() <= FLOAT32


def test_sentence_transformers_loads_the_folder_of_a_student(
    client: Client, tmp_path: Path, texts: list[str]
) -> None:
    source, folder = tmp_path / "source", tmp_path / "student"
    write_source(source)
    write_dense(source)
    student = load_sentence_encoder(source)
    student.backbone.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    write_sentence_folder(folder, student, max_length=48)

    job = {"key": "m", "folder": str(folder), "file": None, "texts": texts, "prompt": PROMPT}
    got = client("optimum", "vectors_client.py", [job])["m"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = []
    for text in texts:
        ids = torch.tensor([tokenizer(PROMPT + text, truncation=True, max_length=48).input_ids])
        with torch.no_grad():
            expected.append(student(ids, torch.ones_like(ids), torch.zeros_like(ids))[1][0].numpy())
    assert got.shape == (len(texts), 24)
    assert np.abs(got - np.stack(expected)).max() <= FLOAT32


def write_dense(folder: Path) -> None:
    """Puts a layer of 32 × 24 between pooling and normalization of `write_source`'s folder."""
    (folder / "2_Dense").mkdir()
    linear = torch.nn.Linear(32, 24)
    weights = {f"linear.{name}": value.detach() for name, value in linear.named_parameters()}
    save_file(weights, folder / "2_Dense/model.safetensors")
    identity = "torch.nn.modules.linear.Identity"
    settings = {"in_features": 32, "out_features": 24, "bias": True}
    (folder / "2_Dense/config.json").write_text(
        json.dumps(settings | {"activation_function": identity})
    )
    modules = json.loads((folder / "modules.json").read_text())
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": f"{CLASSES}.Dense"}
    modules[2:] = [dense, modules[2] | {"idx": 3, "name": "3", "path": "3_Normalize"}]
    (folder / "modules.json").write_text(json.dumps(modules))


def test_onnxruntime_and_the_contract_give_the_same_vectors(client: Client, case: Case) -> None:
    answers = client("plain", "plain_vectors_client.py", case.jobs)
    assert np.abs(answers["fp32"] - case.expected["fp32"]).max() <= FLOAT32
    assert np.abs(answers["int8"] - case.expected["int8"]).max() <= SAME_KERNELS


@pytest.mark.needs("node", "npm")
def test_transformers_js_gives_the_same_vectors(client: Client, case: Case) -> None:
    # It cuts a text that is too long after it has added [SEP], and so loses that.
    jobs = [job | {"texts": job["texts"][:3]} for job in case.jobs]
    answers = client("transformers.js", "vectors.mjs", jobs)
    for dtype, tolerance in (("fp32", FLOAT32), ("int8", OTHER_RELEASE)):
        got = np.array(answers[dtype]["values"]).reshape(answers[dtype]["dims"])
        assert np.abs(got - case.expected[dtype][:3]).max() <= tolerance


# --- one text among others -----------------------------------------------------------------------

# Call → its texts. The compared one is alone, padded by a longer one, and the last of three.
CALLS = {"alone": [1], "padded": [1, 2], "last": [2, 0, 1]}
COMPARED = 1
# Sums in another order; int8 rounds no activation by what its neighbours are.
NO_CHANGE = 1e-6


def calls_of(case: Case) -> list[dict[str, Any]]:
    return [
        job | {"key": f"{job['key']}.{call}", "texts": [job["texts"][index] for index in indices]}
        for job in case.jobs
        for call, indices in CALLS.items()
    ]


def assert_no_change(answers: Vectors, bound: float = NO_CHANGE) -> None:
    for dtype in ("fp32", "int8"):
        rows = [
            answers[f"{dtype}.{call}"][indices.index(COMPARED)] for call, indices in CALLS.items()
        ]
        assert len({len(row) for row in rows}) == 1
        change = max(float(np.abs(row - rows[0]).max()) for row in rows)
        assert change <= bound, (dtype, change)


@pytest.mark.parametrize(
    ("environment", "program"),
    [("optimum", "vectors_client.py"), ("plain", "plain_vectors_client.py")],
)
def test_a_text_has_the_same_vector_in_every_call(
    client: Client, case: Case, environment: str, program: str
) -> None:
    assert_no_change(client(environment, program, calls_of(case)))


def test_a_text_has_the_same_states_in_every_call_of_optimum(client: Client, case: Case) -> None:
    jobs = [job | {"task": TASK} for job in calls_of(case)]
    answers = client("optimum", "optimum_client.py", jobs)
    # Tokens of the compared text; what follows is padding.
    length = answers["fp32.alone/input_ids"].shape[1]
    states = {}
    for job in jobs:
        output_BLD = answers[f"{job['key']}/output"]
        states[job["key"]] = output_BLD[:, :length].reshape(len(output_BLD), -1)
    # States are ten times as large as the values of a normalized vector.
    assert_no_change(states, bound=10 * NO_CHANGE)


@pytest.mark.needs("node", "npm")
def test_a_text_has_the_same_vector_in_every_call_of_transformers_js(
    client: Client, case: Case
) -> None:
    answers = client("transformers.js", "vectors.mjs", calls_of(case))
    vectors = {key: np.array(a["values"]).reshape(a["dims"]) for key, a in answers.items()}
    assert_no_change(vectors)


def test_the_comparison_of_calls_can_fail(case: Case) -> None:
    vector = case.expected["int8"][COMPARED]
    answers = {
        f"{dtype}.{call}": np.stack([vector] * len(indices))
        for dtype in ("fp32", "int8")
        for call, indices in CALLS.items()
    }
    assert_no_change(answers)
    answers["int8.padded"][0] += 0.01
    with pytest.raises(AssertionError, match="int8"):
        assert_no_change(answers)
