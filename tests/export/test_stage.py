"""The whole command on small models: what it leaves, what it refuses, what stays as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from edgedistil.core.errors import (
    EdgeDistilError,
    InputError,
    ParityError,
    StorageError,
)
from edgedistil.core.records import (
    ExplainRecord,
    ExportRecord,
    NotMeasured,
    ParityRecord,
    read_record,
)
from edgedistil.core.rundir import RunDir, open_run, tree_manifest
from edgedistil.export import artefacts, stage
from edgedistil.export.stage import checked_precisions, export

Folder = Callable[[str], Path]


@pytest.fixture
def text_file(tmp_path: Path, text: list[str]) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(text), encoding="utf-8")
    return path


def artefact_bytes(folder: Path) -> dict[str, str]:
    return {
        name: digest for name, digest in tree_manifest(folder).items() if name.startswith("onnx/")
    }


@pytest.mark.slow
def test_a_run_gives_four_folders_with_records_and_proofs(finished_run: RunDir) -> None:
    run, made = export("latest", quantize=["int8"])
    assert [(e.model, e.task, e.precision, p.passed) for e, p in made] == [
        ("student", "fill-mask", "fp32", True),
        ("student", "fill-mask", "int8", True),
        ("student", "feature-extraction", "fp32", True),
        ("student", "feature-extraction", "int8", True),
        ("teacher", "fill-mask", "fp32", True),
        ("teacher", "feature-extraction", "fp32", True),
    ]
    for record, parity in made:
        folder = run.export(record.model, record.task)
        assert read_record(folder / f"export.{record.precision}.json", ExportRecord) == record
        assert (
            read_record(run.parity(record.model, record.task, record.precision), ParityRecord)
            == parity
        )
        assert run.probes(record.model, record.task).is_file()
        assert [(folder / file.path).stat().st_size for file in record.files] == [
            file.bytes for file in record.files
        ]
        assert sum(record.bytes_by_part.values()) <= sum(file.bytes for file in record.files)
        assert record.fused["attention"] == 2
        assert (folder / "config.json").is_file()
        assert (folder / "tokenizer.json").is_file()
    assert {path.name for path in run.exports.iterdir()} == {
        f"{model}-{task}"
        for model in ("student", "teacher")
        for task in ("fill-mask", "feature-extraction")
    }


@pytest.mark.slow
def test_every_precision_of_one_model_passes_and_is_named_for_its_clients(
    folder: Folder, runs: Path, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["fp16", "uint8", "int8-static", "auto"]
    run, made = export(
        "latest",
        model=str(folder("DistilBertModel")),
        quantize=wanted,
        text=text_file,
        max_drop=0.2,
        target="rpi4",
    )
    assert run.name == "DistilBertModel"
    place = run.export("DistilBertModel", "feature-extraction")
    assert {path.name for path in (place / "onnx").glob("*.onnx")} == {
        "model.onnx",
        "model_fp16.onnx",
        "model_uint8.onnx",
        "model_int8_static.onnx",
        "model_int8.onnx",
    }
    by = {record.precision: record for record, _ in made}
    assert "frontier" in by["int8"].reasons
    assert by["int8-static"].reasons["calibration"].split(":")[0] in {
        "min-max",
        "percentile",
        "entropy",
    }
    said = " ".join(capsys.readouterr().err.split())
    assert "unsigned weights lose on rpi4" in said
    assert "smull" in said, "the reason of the chosen sign is printed"
    assert open_run().name == "DistilBertModel"


def test_exporting_twice_gives_the_same_bytes_and_keeps_other_precisions(
    folder: Folder, runs: Path, text_file: Path
) -> None:
    source = str(folder("DistilBertForMaskedLM"))
    run, _ = export("latest", model=source, quantize=["int8"], text=text_file)
    place = run.export("DistilBertForMaskedLM", "fill-mask")
    first = artefact_bytes(place)
    export("latest", model=source, quantize=["fp32"], text=text_file)
    assert artefact_bytes(place) == first
    assert (place / "export.int8.json").is_file()


def test_single_file_loads_without_anything_beside_it(
    folder: Folder, runs: Path, text_file: Path
) -> None:
    run, made = export(
        "latest",
        model=str(folder("DistilBertModel")),
        quantize=["fp32"],
        text=text_file,
        single_file=True,
    )
    ((record, _),) = made
    assert [file.path for file in record.files] == ["onnx/model.onnx"]
    data = (run.export("DistilBertModel", "feature-extraction") / "onnx/model.onnx").read_bytes()
    opened = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    ids = np.full((1, 7), 9)
    assert opened.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0].shape == (
        1,
        7,
        44,
    )


def test_a_failed_gate_sets_the_artefact_apart_and_changes_nothing_else(
    folder: Folder, runs: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(folder("DistilBertModel"))
    run, _ = export("latest", model=source, quantize=["int8"], text=text_file)
    place = run.export("DistilBertModel", "feature-extraction")
    before = tree_manifest(place)
    (runs / "latest").write_text("another\n")
    broken = artefacts.make_variant

    def spoil(shop, precision):  # a scale that is a thousand times too large
        variant = broken(shop, precision)
        if precision != "int8":
            return variant
        name = next(n for n in variant.graph.graph.initializers if n.endswith("lin1.weight.scale"))
        value = variant.graph.graph.initializers[name]
        value.const_value = artefacts_tensor(value, 1000)
        return variant

    monkeypatch.setattr(artefacts, "make_variant", spoil)
    with pytest.raises(
        ParityError, match="DistilBertModel feature-extraction int8 failed its parity gate"
    ) as caught:
        export("latest", model=source, quantize=["int8"], text=text_file)
    assert caught.value.exit_code == 3
    apart = run.rejected / "DistilBertModel-feature-extraction.int8"
    assert {path.name for path in apart.iterdir()} == {
        "model_int8.onnx",
        "model_int8.onnx_data",
        "export.json",
        "parity.json",
        "probes.npz",
        "refused.txt",
    }
    assert not read_record(apart / "parity.json", ParityRecord).passed
    assert tree_manifest(place) == before
    assert (runs / "latest").read_text() == "another\n"


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        ("nan", "output 'last_hidden_state' holds .* values that are NaN or infinite"),
        ("shape", r"output 'last_hidden_state' has the shape \(44, "),
        ("batch", "cannot run 3 × 8 tokens"),
    ],
)
def test_an_artefact_without_figures_is_set_apart_too(
    folder: Folder,
    runs: Path,
    text_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoilt: str,
    told: str,
) -> None:
    """NaN, another shape, or a batch that it cannot run: nothing can be compared, and it is refused all the same."""
    import onnx_ir as ir

    source = str(folder("DistilBertModel"))
    run, _ = export("latest", model=source, quantize=["int8"], text=text_file)
    place = run.export("DistilBertModel", "feature-extraction")
    before, latest = tree_manifest(place), (runs / "latest").read_text()
    make = artefacts.make_variant

    def spoil(shop, precision):
        variant = make(shop, precision)
        if precision != "int8":
            return variant
        graph = variant.graph.graph
        if spoilt == "nan":
            value = next(v for n, v in graph.initializers.items() if n.endswith("lin1.bias"))
            value.const_value = artefacts_tensor(value, np.nan)
        elif spoilt == "shape":
            last = next(node for node in graph if node.name == "encoder/turned")
            last.attributes["perm"] = ir.AttrInt64s("perm", [2, 1, 0])
        else:
            merge = graph.initializers["constant/merge"]
            merge.const_value = ir.Tensor(np.array([0, 1, -1], np.int64), name=merge.name)
        return variant

    monkeypatch.setattr(artefacts, "make_variant", spoil)
    (runs / "latest").write_text("another\n")
    with pytest.raises(ParityError, match=told) as caught:
        export("latest", model=source, quantize=["int8"], text=text_file, explain=spoilt == "nan")
    assert caught.value.exit_code == 3
    apart = run.rejected / "DistilBertModel-feature-extraction.int8"
    assert {path.name for path in apart.iterdir()} >= {
        "model_int8.onnx",
        "export.json",
        "probes.npz",
        "refused.txt",
    }
    assert "failed its parity gate" in (apart / "refused.txt").read_text()
    assert not (apart / "parity.json").exists()
    assert tree_manifest(place) == before
    assert (runs / "latest").read_text() == "another\n" != latest


def artefacts_tensor(value, factor: float):
    import onnx_ir as ir

    return ir.Tensor(value.const_value.numpy() * np.float32(factor), name=value.name)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), StorageError("cannot write x: No space left on device")]
)
def test_interrupted_or_out_of_disk_leaves_what_was_there(
    folder: Folder,
    runs: Path,
    text_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    source = str(folder("DistilBertModel"))
    run, _ = export("latest", model=source, quantize=["fp32"], text=text_file)
    before = tree_manifest(run.path)

    def stop(*_args, **_options):
        raise error

    monkeypatch.setattr(artefacts, "check_artefact", stop)  # the graph is written by then
    with pytest.raises(type(error)):
        export("latest", model=source, quantize=["fp32"], text=text_file)
    assert tree_manifest(run.path) == before


@pytest.mark.parametrize("where", ["probes", "parity"])
def test_a_disk_that_is_full_at_the_very_end_changes_nothing(
    folder: Folder, runs: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The artefacts are written by then; the probes and the proofs are not."""
    source = str(folder("DistilBertModel"))
    run, _ = export("latest", model=source, quantize=["fp32"], text=text_file)
    before = tree_manifest(run.path)
    full = StorageError("cannot write x: No space left on device")
    write = stage.write_record

    def stop(place: Path, record) -> None:
        if isinstance(record, ParityRecord):
            raise full
        write(place, record)

    def stop_probes(_probes, _place: Path) -> None:
        raise full

    if where == "parity":
        monkeypatch.setattr(stage, "write_record", stop)
    else:
        monkeypatch.setattr("edgedistil.parity.probes.Probes.save", stop_probes)
    with pytest.raises(StorageError, match="No space left"):
        export("latest", model=source, quantize=["fp32"], text=text_file)
    assert tree_manifest(run.path) == before


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["int8"], ["fp32", "int8"]),
        (["fp32", "int8", "int8"], ["fp32", "int8"]),
        (["auto", "int8"], ["fp32", "auto"]),
        (["int4", "fp16"], ["fp32", "int4", "fp16"]),
    ],
)
def test_float32_comes_first_and_each_precision_once(given: list[str], expected: list[str]) -> None:
    assert checked_precisions(given) == expected


@pytest.mark.parametrize(
    ("name", "advice"), [("int9", "did you mean 'int8'"), ("fp23", "did you mean 'fp32'")]
)
def test_an_unknown_precision_is_refused(name: str, advice: str) -> None:
    with pytest.raises(InputError, match=f"no precision '{name}'; {advice}") as caught:
        checked_precisions([name])
    assert "fp32, fp16, int8, uint8, int8-static, int4, auto" in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_unknown_format_is_refused(finished_run: RunDir) -> None:
    with pytest.raises(InputError, match="no format 'tflite'; there are: onnx, ort"):
        export("latest", format_="tflite")


def test_a_model_without_text_says_what_to_give(folder: Folder, runs: Path) -> None:
    with pytest.raises(EdgeDistilError, match=r"no text to prove .*DistilBertModel on") as caught:
        export("latest", model=str(folder("DistilBertModel")))
    assert "--text FILE" in str(caught.value)


def test_an_unsupported_model_makes_no_run(folder: Folder, runs: Path) -> None:
    place = folder("DistilBertModel")
    (place / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(InputError, match="type 'gpt2'"):
        export("latest", model=str(place))
    assert not runs.exists()


def test_a_pickle_is_refused_before_a_run_is_made(folder: Folder, runs: Path) -> None:
    place = folder("DistilBertModel")
    (place / "model.safetensors").rename(place / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no weights in safetensors, only pytorch_model.bin"):
        export("latest", model=str(place))
    assert not runs.exists()


def test_a_run_without_a_student_says_which_command_makes_one(runs: Path) -> None:
    (runs / "empty").mkdir(parents=True)
    with pytest.raises(InputError, match="has no student yet"):
        export("empty")


def test_explain_ort_and_push_go_with_an_export(
    folder: Folder, runs: Path, text_file: Path, tmp_path: Path
) -> None:
    pushed = tmp_path / "pushed"
    run, _ = export(
        "latest",
        model=str(folder("DistilBertForMaskedLM")),
        quantize=["int8"],
        text=text_file,
        explain=True,
        format_="ort",
        push=pushed.as_uri(),
    )
    explained = read_record(
        run.parity("DistilBertForMaskedLM", "fill-mask", "int8").with_suffix(".explain.json"),
        ExplainRecord,
    )
    assert explained.worst_part in {part.part for part in explained.parts}
    assert not isinstance(explained.gains, NotMeasured), "what float would buy was tried"
    place = run.export("DistilBertForMaskedLM", "fill-mask")
    assert {path.name for path in (place / "onnx").iterdir()} >= {"model.ort", "model_int8.ort"}
    assert (pushed / "onnx" / "model_int8.onnx").is_file()
    assert tree_manifest(pushed) == tree_manifest(place)
