"""Bundles in C++: made, compiled, and run on this machine and under emulation."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from edgedistil.bundle.stage import make_bundle
from edgedistil.bundle.tokenizer_parts import PARTS, REGULAR_EXPRESSIONS, missing_parts
from edgedistil.core.contract import CONFORMANCE_FILE
from edgedistil.core.errors import InputError, ModelError, StorageError
from edgedistil.core.options import BundleOptions
from tests.bundle.conftest import run

PROGRAMS = ["conformance", "embed"]


@pytest.fixture(scope="module")
def bundle(small_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled bundle of the int8 artefact for this machine."""
    folder = tmp_path_factory.mktemp("bundle") / "made"
    bundle = make_bundle(small_export, BundleOptions(precision="int8", out=folder))
    assert bundle.folder == folder
    assert sum(bundle.sizes.values()) == sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file()
    )
    run(["cmake", "-S", str(folder), "-B", str(folder / "build")])
    run(["cmake", "--build", str(folder / "build"), "--target", *PROGRAMS])
    return folder


def conformance(bundle: Path, model: Path | None = None, *more: str) -> tuple[int, str]:
    command = [str(bundle / "build" / "conformance"), str(model or bundle / "model"), *more]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout + result.stderr


@pytest.mark.needs("g++", "cmake")
def test_a_bundle_passes_its_check(bundle: Path) -> None:
    lines = (bundle / "model" / CONFORMANCE_FILE).read_text(encoding="utf-8").splitlines()
    assert conformance(bundle) == (0, f"int8: {len(lines) - 1} strings are as expected\n")
    graphs = {path.name for path in (bundle / "model" / "onnx").iterdir()}
    assert graphs == {"model_int8.onnx", "model_int8.onnx_data"}


@pytest.fixture
def model(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle's model that a test may change."""
    return Path(shutil.copytree(bundle / "model", tmp_path / "model"))


@pytest.mark.needs("g++", "cmake")
def test_a_changed_graph_is_refused(bundle: Path, model: Path) -> None:
    graph = model / "onnx" / "model_int8.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    message = "onnx/model_int8.onnx was changed after the export: its sha256 differs\n"
    assert conformance(bundle, model) == (3, message)


@pytest.mark.needs("g++", "cmake")
def test_a_model_without_its_tokenizer_is_refused(bundle: Path, model: Path) -> None:
    (model / "tokenizer.json").unlink()
    code, printed = conformance(bundle, model)
    assert (code, printed) == (2, f"error: cannot read {model / 'tokenizer.json'}\n")


@pytest.mark.needs("g++", "cmake")
@pytest.mark.parametrize("part", ["ids", "logits"])
def test_a_difference_is_reported(bundle: Path, model: Path, part: str) -> None:
    path = model / CONFORMANCE_FILE
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if part == "ids":
        rows[9]["tokens"][0][1] += 1
    else:
        tolerance = rows[0]["tolerances"]["int8"]["logits"]
        rows[9]["outputs"]["int8"]["logits"][1] += 2.1 * tolerance
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    code, printed = conformance(bundle, model)
    assert code == 3
    assert printed.startswith(f"'{rows[9]['texts'][0]}'")


@pytest.mark.needs("g++", "cmake")
def test_outputs_of_a_sample_are_of_the_shortest_and_the_longest_text(
    bundle: Path, model: Path
) -> None:
    path = model / CONFORMANCE_FILE
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    printed = f"int8: {len(rows) - 1} strings are as expected, outputs of 3\n"
    assert conformance(bundle, model, "--outputs", "3") == (0, printed)
    with_outputs = sorted(
        (row for row in rows[1:] if row["outputs"]), key=lambda row: len(row["tokens"][0])
    )
    for place, code in ((0, 3), (1, 0), (-1, 3)):
        logits = with_outputs[place]["outputs"]["int8"]["logits"]
        logits[0] += 9
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        assert conformance(bundle, model, "int8", "--outputs", "3")[0] == code
        logits[0] -= 9
    assert conformance(bundle, model, "--outputs")[0] == 2
    assert conformance(bundle, model, "--outputs", "0")[0] == 2


@pytest.mark.needs("g++", "cmake")
def test_a_classifier_has_no_vector(bundle: Path) -> None:
    command = [str(bundle / "build" / "embed"), str(bundle / "model"), "int8", "text"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stderr == "error: the model gives no sentence vectors\n"


# --- what no bundle is made of --------------------------------------------------------------------


def test_an_unknown_precision_is_refused(small_export: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no artefact in int4; it has fp32, int8"):
        make_bundle(small_export, BundleOptions(precision="int4", out=tmp_path / "x"))


@pytest.fixture
def export(small_export: Path, tmp_path: Path) -> Path:
    """A copy of the export that a test may change."""
    return Path(shutil.copytree(small_export, tmp_path / "export"))


def test_an_existing_folder_is_left_as_it_is(small_export: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already; nothing was changed"):
        make_bundle(small_export, BundleOptions(precision="int8", out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_changed_export_is_refused(export: Path, tmp_path: Path) -> None:
    graph = export / "onnx" / "model_int8.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(ModelError, match=r"model_int8.onnx was changed: expected sha256"):
        make_bundle(export, BundleOptions(precision="int8", out=tmp_path / "x"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"files": 3}', "no JSON"])
def test_a_damaged_check_is_refused(export: Path, tmp_path: Path, line: str) -> None:
    (export / CONFORMANCE_FILE).write_text(line)
    with pytest.raises(StorageError, match=r"conformance\.jsonl has no digests in its first line"):
        make_bundle(export, BundleOptions(precision="int8", out=tmp_path / "x"))


def test_an_export_without_its_tokenizer_is_refused(export: Path, tmp_path: Path) -> None:
    (export / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer.json cannot be read"):
        make_bundle(export, BundleOptions(out=tmp_path / "x"))


def test_parts_that_cpp_lacks_are_named() -> None:
    described = {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "New"}]},
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"\d{3}"}},
        "model": {"type": "BPE", "dropout": 0.1},
        "post_processor": None,
    }
    assert missing_parts(described) == [
        "normalizer New",
        r"regular expression \d{3}",
        "random dropout of merges",
    ]
    assert missing_parts({"model": {"type": "WordPiece"}}) == []


SOURCES = Path(__file__).resolve().parents[2] / "edgedistil" / "bundle" / "cpp" / "src"


def test_both_lists_of_parts_are_the_same() -> None:
    files = ("normalizers.cpp", "pre_tokenizers.cpp", "models.cpp", "frame.cpp")
    code = "".join((SOURCES / name).read_text(encoding="utf-8") for name in files)
    for part in frozenset.union(*PARTS.values()):
        assert f'"{part}"' in code, part
    for regex in REGULAR_EXPRESSIONS:
        assert f'R"({regex})"' in code or f'"{regex}"' in code, regex
