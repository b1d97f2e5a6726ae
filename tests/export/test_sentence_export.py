"""A sentence-transformers folder exported: vectors in the graph, at every precision, and proved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

import edgedistil
from edgedistil.core.contract import Contract, read_contract, write_contract
from edgedistil.core.errors import InputError, ModelError, ParityError
from edgedistil.core.options import ExportOptions
from edgedistil.core.precision import PRECISIONS
from edgedistil.core.rundir import RunDir
from edgedistil.core.task import SENTENCE_OUTPUT
from edgedistil.export import artefacts, package, publish
from edgedistil.export.passes import sentence_vector
from edgedistil.export.passes.sentence_vector import append_sentence_vector
from edgedistil.export.precisions import BuildContext, make_graph, make_int8_dynamic
from edgedistil.export.request import prepare_export
from edgedistil.export.source import read_source
from edgedistil.export.vector_options import VectorOptions
from edgedistil.inference.encoder import Encoder
from edgedistil.models.sentence_encoder import load_sentence_encoder

TASK = "feature-extraction"
PACKAGE = "sentence_transformers.models."
TEXTS = ["ban cer dol", "ban", "cer dol ban cer dol ban cer dol", ""]
# Largest difference of a normalized vector's value; int8 of a random model is far from float32.
TOLERANCES = {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.2, "uint8": 0.2}


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def source(folder: Callable[[str], Path]) -> Path:
    """A BERT with mean pooling, a dense layer, a layer norm, normalization and prompts."""
    path = folder("BertModel")
    width = json.loads((path / "config.json").read_text())["hidden_size"]
    names = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize")
    modules = []
    for index, name in enumerate(names):
        module_folder = f"{index}_{name}" if index else ""
        modules.append({"name": str(index), "path": module_folder, "type": f"{PACKAGE}{name}"})
    write(path / "modules.json", modules)
    write(path / "1_Pooling/config.json", {"pooling_mode_mean_tokens": True})
    dense = {"in_features": width, "out_features": 24, "bias": True}
    write(path / "2_Dense/config.json", dense)
    torch.manual_seed(2)
    weights = {"linear.weight": torch.randn(24, width) / 4, "linear.bias": torch.randn(24)}
    save_file(weights, path / "2_Dense/model.safetensors")
    write(path / "3_LayerNorm/config.json", {"dimension": 24})
    norm = {"norm.weight": torch.rand(24) + 0.5, "norm.bias": torch.randn(24) / 4}
    save_file(norm, path / "3_LayerNorm/model.safetensors")
    prompts = {"query": "ban ", "document": "dol "}
    write(path / "config_sentence_transformers.json", {"prompts": prompts})
    return path


def export(source: Path, run: RunDir, text: list[str], *precisions: str) -> Path:
    model = read_source(source, name="m", role="other", task=TASK)
    publish.export_model(run, model, ExportOptions(precisions=list(precisions)), text=text)
    return run.export("m", TASK)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def expected_vectors(source: Path, encoder: Encoder, prompt: str) -> NDArray[np.float32]:
    """PyTorch's vectors, one text at a time."""
    torch_encoder = load_sentence_encoder(source)
    tokenizer = encoder._model.tokenizer
    vectors = []
    for text in TEXTS:
        ids, _ = tokenizer.encode_framed([prompt + text], encoder.max_length)[0]
        batch = torch.tensor([ids])
        with torch.no_grad():
            vectors.append(torch_encoder(batch, torch.ones_like(batch))[1][0].numpy())
    return np.stack(vectors)


def test_every_precision_gives_the_vectors_of_pytorch(
    source: Path, run: RunDir, text: list[str]
) -> None:
    folder = export(source, run, text, *TOLERANCES)
    for precision, tolerance in TOLERANCES.items():
        encoder = Encoder(folder, precision=precision)
        assert encoder.dimension == 24 and encoder.vector.is_normalized
        for side, prompt in (("query", "ban "), ("document", "dol ")):
            vectors = encoder.embed(TEXTS, side=side)
            expected = expected_vectors(source, encoder, prompt)
            assert vectors.shape == expected.shape and vectors.dtype == np.float32
            assert np.abs(vectors - expected).max() < tolerance, precision
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-3)


def test_rankings_are_compared_where_the_text_is_long_enough(
    source: Path, run: RunDir, text: list[str]
) -> None:
    words = " ".join(text).split()
    lines = [" ".join(words[start : start + 9]) for start in range(0, 800, 8)]
    folder = export(source, run, lines, "int8")
    for precision in ("fp32", "int8"):
        record = json.loads(run.parity("m", TASK, precision).read_text())
        assert record["ranking"]["texts"] == 50
        bounded = {result["tolerance"]["figure"] for result in record["results"]}
        assert {"top10_overlap", "rank_correlation", "vector_cosine_mean"} <= bounded
    assert "top-10 overlap" in (folder / "README.md").read_text()
    # Half of 60 lines: too few.
    export(source, run, text)
    record = json.loads(run.parity("m", TASK, "fp32").read_text())
    assert "too few different lines" in record["ranking"]["not_measured"]


def test_small_batches_give_the_same_vectors(source: Path, run: RunDir, text: list[str]) -> None:
    folder = export(source, run, text)
    complete = Encoder(folder).embed(TEXTS)
    in_pieces = Encoder(folder, batch_tokens=4).embed(TEXTS)
    np.testing.assert_allclose(complete, in_pieces, atol=1e-6)


def test_the_certificate_covers_the_layers_after_the_pooling(
    source: Path, run: RunDir, text: list[str]
) -> None:
    export(source, run, text)
    record = json.loads(run.parity("m", TASK, "fp32").read_text())
    assert record["certificate"]["problems"] == []
    plain = export(without_modules(source), RunDir(run.path / "plain"), text)
    path = RunDir(run.path / "plain").parity("m", TASK, "fp32")
    # Weight and bias of the dense layer and of the normalization.
    more = record["certificate"]["tensors"] - json.loads(path.read_text())["certificate"]["tensors"]
    assert more == 4
    # sentence-transformers does not read prompts without modules.json either.
    vector = read_contract(plain).sentence_vector
    assert vector is not None and vector.is_guess and not vector.prompts
    assert not (plain / "config_sentence_transformers.json").exists()
    assert "only next to modules.json" in (plain / "README.md").read_text()


def without_modules(source: Path) -> Path:
    (source / "modules.json").unlink()
    return source


def ones_for_mask(append: Any, mask: ir.Value, name: str) -> ir.Value:
    """The mask of a pooling that counts padding as text."""
    cast = append("Cast", [mask], f"{name}/cast", to=ir.DataType.FLOAT)
    return append("Max", [cast, append.number("one", 1.0)], f"{name}/ones")


@pytest.mark.parametrize("fault", ["pooling", "mask", "normalization", "weight"])
def test_a_planted_fault_is_refused(
    source: Path,
    run: RunDir,
    text: list[str],
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def with_fault(model: ir.Model, vector: Any, weights: Any) -> None:
        if fault == "pooling":
            vector = vector.with_pooling("cls")
        elif fault == "normalization":
            object.__setattr__(vector, "steps", vector.steps[:-1])
        elif fault == "weight":
            changed = weights["0.weight"].copy()
            changed[3, 5] += 0.01
            weights = {**weights, "0.weight": changed}
        append_sentence_vector(model, vector, weights)

    if fault == "mask":
        monkeypatch.setattr(sentence_vector, "_float_mask", ones_for_mask)
    monkeypatch.setattr(artefacts, "append_sentence_vector", with_fault)
    with pytest.raises(ParityError):
        export(source, run, text)


def test_one_int8_scale_for_all_tokens_is_refused(
    source: Path, run: RunDir, text: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_fault(context: BuildContext, request: Any) -> Any:
        return make_int8_dynamic(context) if request == "int8" else make_graph(context, request)

    monkeypatch.setattr(artefacts, "make_graph", with_fault)
    with pytest.raises(ParityError, match="int8 failed the parity check"):
        export(source, run, text, "int8")


@pytest.mark.parametrize("fault", ["prompt", "pooling", "settings"])
def test_a_package_that_says_something_else_than_the_graph_is_refused(
    source: Path, run: RunDir, text: list[str], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_fault(folder: Path, contract: Contract) -> None:
        vector = contract.sentence_vector
        assert vector is not None
        if fault == "prompt":
            vector = replace(vector, prompts={"document": "dol "})
        elif fault == "pooling":
            vector = vector.with_pooling("cls")
        else:
            (folder / "config_sentence_transformers.json").unlink()
        write_contract(folder, replace(contract, sentence_vector=vector))

    monkeypatch.setattr(package, "write_contract", with_fault)
    with pytest.raises(ParityError, match=r"contract\.json has another value of sentence_vector"):
        export(source, run, text)
    assert not run.export("m", TASK).exists()


def test_a_folder_that_does_not_say_how_it_pools_has_no_vectors(
    folder: Callable[[str], Path], run: RunDir, text: list[str]
) -> None:
    exported = export(folder("BertModel"), run, text)
    with pytest.raises(InputError, match=f"no output {SENTENCE_OUTPUT}"):
        Encoder(exported)


def test_a_stated_pooling_and_length_are_in_the_graph_and_in_the_modules(
    folder: Callable[[str], Path], run: RunDir, text: list[str]
) -> None:
    path = folder("BertModel")
    stated = VectorOptions("lasttoken", normalize=True, dimension=11)
    source = replace(read_source(path, name="m", role="other", task=TASK), vector_options=stated)
    publish.export_model(run, source, ExportOptions(precisions=["int8"]), text=text)
    exported = Encoder(run.export("m", TASK))
    assert exported.dimension == 11 and not exported.vector.is_guess
    words = exported.vector.in_words()
    assert words.endswith("L2 normalization → first 11 of 44 values → L2 normalization")
    # The package's modules, read as a sentence-transformers folder with the source's weights.
    for name in ("modules.json", "1_Pooling", "3_Cut"):
        place = run.export("m", TASK) / name
        (shutil.copytree if place.is_dir() else shutil.copyfile)(place, path / name)
    vectors = exported.embed(TEXTS)
    np.testing.assert_allclose(vectors, expected_vectors(path, exported, ""), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("stated", "with_modules", "problem"),
    [
        (VectorOptions("cls"), True, "--pooling is cls, and .*modules.json says: mean of the"),
        (VectorOptions(dimension=25), True, "of 24 values cannot be cut to 25"),
        (VectorOptions(dimension=8), False, "does not say how the model pools"),
        (VectorOptions(normalize=True), False, "does not say how the model pools"),
    ],
)
def test_what_contradicts_the_folder_is_refused(
    source: Path, stated: VectorOptions, with_modules: bool, problem: str
) -> None:
    path = source if with_modules else without_modules(source)
    model = read_source(path, name="m", role="other", task=TASK)
    with pytest.raises(InputError, match=problem):
        replace(model, vector_options=stated).sentence_vector()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"pooling": "meen"}, "unknown pooling 'meen'; did you mean 'mean'"),
        ({"pooling": "cls", "task": "fill-mask"}, "is exported for fill-mask"),
    ],
)
def test_options_of_vectors_are_checked_before_a_model_is_loaded(
    folder: Callable[[str], Path], runs: Path, options: dict[str, Any], problem: str
) -> None:
    path = folder("BertForMaskedLM")
    with pytest.raises(InputError, match=problem):
        prepare_export("latest", ExportOptions(model=str(path), **options))


def test_an_unknown_precision_names_those_of_the_folder(
    source: Path, run: RunDir, text: list[str]
) -> None:
    folder = export(source, run, text, "int8")
    with pytest.raises(InputError, match=r"no artefact in int4.*it has fp32, int8"):
        Encoder(folder, precision="int4")
    assert set(TOLERANCES) <= set(PRECISIONS)


def test_embed_writes_the_vectors_of_a_file(
    source: Path, run: RunDir, text: list[str], tmp_path: Path
) -> None:
    folder = export(source, run, text)
    lines = tmp_path / "texts.txt"
    lines.write_text("".join(f"{line}\n" for line in TEXTS), encoding="utf-8-sig")
    out = tmp_path / "vectors.npy"
    assert edgedistil.embed(lines, run, edgedistil.EmbedOptions(out=out)) == (len(TEXTS), 24)
    np.testing.assert_array_equal(np.load(out), edgedistil.Encoder(folder).embed(TEXTS))
    # Queries have another prompt.
    options = edgedistil.EmbedOptions(out=out, side="query", model=str(folder))
    edgedistil.embed(TEXTS, run, options)
    assert np.abs(np.load(out) - edgedistil.Encoder(folder).embed(TEXTS)).max() > 1e-3


def test_an_export_folder_needs_no_run(
    source: Path, run: RunDir, text: list[str], tmp_path: Path, runs: Path
) -> None:
    folder = export(source, run, text)
    assert not runs.exists() or not any(runs.iterdir())
    options = edgedistil.EmbedOptions(out=tmp_path / "x.npy", model=str(folder))
    assert edgedistil.embed(["ban"], options=options) == (1, 24)


def test_embed_prints_a_list_for_each_text(
    source: Path, run: RunDir, text: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export(source, run, text)
    capsys.readouterr()
    edgedistil.embed(["ban cer"], run)
    vector = np.array(json.loads(capsys.readouterr().out), np.float32)
    np.testing.assert_array_equal(vector, edgedistil.Encoder(folder).embed(["ban cer"])[0])


def test_embed_takes_no_more_threads_than_the_machine_can_use(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with pytest.raises(InputError, match="--threads is 9: this machine has 2 cores; expected at"):
        edgedistil.embed(["ban"], run, edgedistil.EmbedOptions(threads=9))


def test_embed_needs_texts_and_an_encoder(source: Path, run: RunDir, text: list[str]) -> None:
    with pytest.raises(InputError, match="has no exported encoder student; it has none"):
        edgedistil.embed(["ban"], run)
    export(source, run, text)
    with pytest.raises(InputError, match="no exported encoder teacher; it has m"):
        edgedistil.embed(["ban"], run, edgedistil.EmbedOptions(model="teacher"))
    with pytest.raises(InputError, match="no text"):
        edgedistil.embed([], run)


def test_sentence_similarity_is_an_encoder_that_makes_vectors(source: Path) -> None:
    asked = read_source(source, name="m", role="other", task="sentence-similarity")
    assert asked == read_source(source, name="m", role="other", task=TASK)
    with pytest.raises(
        ModelError, match=r"gives no sentence vectors: it has no modules\.json"
    ) as e:
        read_source(without_modules(source), name="m", role="other", task="sentence-similarity")
    assert "--task feature-extraction" in str(e.value.hint)
