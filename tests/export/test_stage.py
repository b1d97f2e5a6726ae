"""`export` on small models: the files it writes, and the input it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from edgedistil.core.errors import InputError, ParityError
from edgedistil.core.export_records import ExplainRecord, ExportRecord, ParityRecord
from edgedistil.core.options import ExportOptions
from edgedistil.core.records import NotMeasured, read_record, write_record
from edgedistil.core.rundir import RunDir, open_run, tree_manifest
from edgedistil.export import publish
from edgedistil.export.stage import export
from tests.fixtures.small_package import profile_record

Folder = Callable[[str], Path]


@pytest.fixture
def text_file(tmp_path: Path, text: list[str]) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(text), encoding="utf-8")
    return path


def onnx_digests(folder: Path) -> dict[str, str]:
    files = tree_manifest(folder).items()
    return {name: digest for name, digest in files if name.startswith("onnx/")}


@pytest.mark.slow
def test_a_run_gives_four_folders_with_records_and_parity(finished_run: RunDir) -> None:
    run, artefacts = export("latest", ExportOptions(precisions=["int8"]))
    names = [(record.model, record.task, record.precision) for record, _ in artefacts]
    assert names == [
        ("student", "fill-mask", "fp32"),
        ("student", "fill-mask", "int8"),
        ("student", "feature-extraction", "fp32"),
        ("student", "feature-extraction", "int8"),
        ("teacher", "fill-mask", "fp32"),
        ("teacher", "feature-extraction", "fp32"),
    ]
    for record, parity in artefacts:
        folder = run.export(record.model, record.task)
        parity_file = run.parity(record.model, record.task, record.precision)
        assert parity.passed
        assert read_record(folder / f"export.{record.precision}.json", ExportRecord) == record
        assert read_record(parity_file, ParityRecord) == parity
        assert run.probes(record.model, record.task).is_file()
        sizes = [(folder / file.path).stat().st_size for file in record.files]
        assert sizes == [file.bytes for file in record.files]
        assert sum(record.bytes_by_part.values()) <= sum(sizes)
        assert record.fused["attention"] == 2
        assert (folder / "config.json").is_file()
        assert (folder / "tokenizer.json").is_file()
    assert {path.name for path in run.exports.iterdir()} == {
        f"{model}-{task}"
        for model in ("student", "teacher")
        for task in ("fill-mask", "feature-extraction")
    }


@pytest.mark.slow
def test_every_precision_of_one_model_passes_and_has_the_name_that_clients_expect(
    folder: Folder, runs: Path, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ExportOptions(
        model=str(folder("DistilBertModel")),
        precisions=["fp16", "uint8", "int8-static", "auto"],
        text=text_file,
        max_drop=0.2,
        target="rpi4",
    )
    run, artefacts = export("latest", options)
    assert run.name == "DistilBertModel"
    onnx = run.export("DistilBertModel", "feature-extraction") / "onnx"
    assert {path.name for path in onnx.glob("*.onnx")} == {
        "model.onnx",
        "model_fp16.onnx",
        "model_uint8.onnx",
        "model_int8_static.onnx",
        "model_int8.onnx",
    }
    records = {record.precision: record for record, _ in artefacts}
    assert "frontier" in records["int8"].reasons
    method = records["int8-static"].reasons["calibration"].split(":")[0]
    assert method in {"min-max", "percentile", "entropy"}
    printed = " ".join(capsys.readouterr().err.split())
    assert "unsigned weights are slower on rpi4" in printed
    assert "smull" in printed, "the reason for the sign is printed"
    assert printed.count("always so for vectors") == 2, "uint8 and auto say why they are invariant"
    assert open_run().name == "DistilBertModel"


def test_exporting_twice_gives_the_same_bytes_and_keeps_other_precisions(
    folder: Folder, runs: Path, text_file: Path
) -> None:
    model = str(folder("DistilBertForMaskedLM"))
    run, _ = export("latest", ExportOptions(model=model, precisions=["int8"], text=text_file))
    package = run.export("DistilBertForMaskedLM", "fill-mask")
    first = onnx_digests(package)
    export("latest", ExportOptions(model=model, precisions=["fp32"], text=text_file))
    assert onnx_digests(package) == first
    assert (package / "export.int8.json").is_file()


def test_a_single_file_loads_from_memory(folder: Folder, runs: Path, text_file: Path) -> None:
    options = ExportOptions(
        model=str(folder("DistilBertModel")),
        precisions=["fp32"],
        text=text_file,
        single_file=True,
    )
    run, [(record, _)] = export("latest", options)
    assert [file.path for file in record.files] == ["onnx/model.onnx"]
    data = (run.export("DistilBertModel", "feature-extraction") / "onnx/model.onnx").read_bytes()
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    ids = np.full((1, 7), 9)
    hidden = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
    assert hidden.shape == (1, 7, 44)


def test_explain_ort_and_push_are_part_of_an_export(
    folder: Folder, runs: Path, text_file: Path, tmp_path: Path
) -> None:
    uploaded = tmp_path / "uploaded"
    options = ExportOptions(
        model=str(folder("DistilBertForMaskedLM")),
        precisions=["int8"],
        text=text_file,
        explain=True,
        format="ort",
        push=uploaded.as_uri(),
    )
    run, _ = export("latest", options)
    parity = run.parity("DistilBertForMaskedLM", "fill-mask", "int8")
    explanation = read_record(parity.with_suffix(".explain.json"), ExplainRecord)
    assert explanation.worst_part in {part.part for part in explanation.parts}
    assert not isinstance(explanation.gains, NotMeasured), "parts in float were tried"
    package = run.export("DistilBertForMaskedLM", "fill-mask")
    assert {path.name for path in (package / "onnx").iterdir()} >= {"model.ort", "model_int8.ort"}
    assert (uploaded / "onnx" / "model_int8.onnx").is_file()
    assert tree_manifest(uploaded) == tree_manifest(package), "nothing was profiled yet"


def test_a_push_uploads_the_card_with_the_profiles_of_the_same_bytes(
    folder: Folder, runs: Path, text_file: Path, tmp_path: Path
) -> None:
    uploaded = tmp_path / "uploaded"
    options = ExportOptions(
        model=str(folder("DistilBertModel")),
        precisions=["fp32"],
        text=text_file,
        push=uploaded.as_uri(),
    )
    run, [(record, parity)] = export("latest", options)
    row = (
        profile_record()
        .rows[0]
        .model_copy(
            update={
                "model": record.model,
                "precision": "fp32",
                "artefact_sha256": parity.artefact_sha256,
            }
        )
    )
    profile = profile_record().model_copy(update={"rows": [row]})
    write_record(run.profile("rpi4", "predicted"), profile)
    export("latest", options)
    package = run.export("DistilBertModel", "feature-extraction")
    assert "| rpi4 | predicted | fp32 |" in (uploaded / "README.md").read_text(encoding="utf-8")
    assert "rpi4" not in (package / "README.md").read_text(encoding="utf-8")


def test_a_failed_export_is_not_the_latest_run(
    finished_run: RunDir, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise ParityError("student fill-mask int8 failed the parity check")

    (runs / "latest").write_text("another\n")
    monkeypatch.setattr(publish, "export_model", fail)
    with pytest.raises(ParityError):
        export("done", ExportOptions(precisions=["int8"]))
    assert (runs / "latest").read_text() == "another\n"


# --- what is refused ------------------------------------------------------------------------------


def test_an_unknown_format_is_refused(finished_run: RunDir) -> None:
    options = ExportOptions(format="tflite")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unknown format 'tflite'; expected one of: onnx, ort"):
        export("latest", options)


def test_a_task_without_a_model_is_refused() -> None:
    with pytest.raises(InputError, match="--task needs --model"):
        export("latest", ExportOptions(task="fill-mask"))


def test_a_model_without_text_is_proved_on_the_built_in_one(
    folder: Folder, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ExportOptions(model=str(folder("DistilBertModel")), precisions=["fp32"])
    run, ((record, parity),) = export("latest", options)
    assert record.probe_text == "built-in"
    assert parity.passed
    printed = " ".join(capsys.readouterr().err.split())
    assert "no --text: outputs are compared with PyTorch on the built-in text" in printed
    assert "are a better proof: --text FILE" in printed
    card = (run.export("DistilBertModel", "feature-extraction") / "README.md").read_text()
    assert "sequences of edgedistil's built-in text" in card.replace("\n", " ")


def test_a_failed_export_leaves_no_run(
    folder: Folder, runs: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder("DistilBertModel")
    options = ExportOptions(model=str(path), text=text_file, precisions=["fp32"])

    def fail(*_args: object, **_more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(publish, "export_model", fail)
    with pytest.raises(KeyboardInterrupt):
        export("latest", options)
    assert list(runs.iterdir()) == []
    # A run that has something stays: here the model's earlier export.
    monkeypatch.undo()
    monkeypatch.setenv("EDGEDISTIL_RUNS", str(runs))
    run, _ = export("latest", options)
    before = tree_manifest(run.path)
    monkeypatch.setattr(publish, "export_model", fail)
    with pytest.raises(KeyboardInterrupt):
        export("latest", options)
    assert tree_manifest(run.path) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": Path("no-such-file.txt")}, "cannot read no-such-file.txt"),
        ({"target": "rpi44"}, "rpi44"),
        ({"precisions": ["int9"]}, "unknown precision 'int9'"),
        ({"model": "no/such/folder/x"}, "no model 'no/such/folder/x'"),
    ],
)
def test_wrong_arguments_are_reported_without_torch(
    folder: Folder, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    """In a process of its own: here torch is imported."""
    options = {"model": str(folder("DistilBertModel")), **change}
    program = (
        "import sys\n"
        "from pathlib import PosixPath\n"
        "import edgedistil\n"
        "from edgedistil.core.errors import EdgeDistilError\n"
        "from edgedistil.core.options import ExportOptions\n"
        "try:\n"
        f"    edgedistil.export('latest', ExportOptions(**{options!r}))\n"
        "except EdgeDistilError as error:\n"
        "    print(error.message)\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)\n"
    )
    environment = {**os.environ, "EDGEDISTIL_RUNS": str(tmp_path / "runs")}
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert message in output.stdout
    assert output.stdout.splitlines()[-1] == "False False"
    assert not (tmp_path / "runs").exists()


def test_an_unsupported_model_creates_no_run(folder: Folder, runs: Path) -> None:
    path = folder("DistilBertModel")
    (path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(InputError, match="type 'gpt2'"):
        export("latest", ExportOptions(model=str(path)))
    assert not runs.exists()


def test_a_pickle_is_refused_before_a_run_is_created(folder: Folder, runs: Path) -> None:
    path = folder("DistilBertModel")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no weights in safetensors, only pytorch_model\.bin"):
        export("latest", ExportOptions(model=str(path)))
    assert not runs.exists()


def test_a_misspelt_precision_is_refused_before_a_run_is_opened(runs: Path) -> None:
    options = ExportOptions(precisions=["int9"])  # type: ignore[list-item]
    with pytest.raises(InputError, match="unknown precision 'int9'"):
        export("absent", options)
