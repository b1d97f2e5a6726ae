from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from edgedistil.core.errors import InputError, ModelError, OfflineError
from edgedistil.core.precision import Precision, graph_name
from edgedistil.core.records import (
    Band,
    ExportRecord,
    FileFacts,
    NotMeasured,
    ParityFigures,
    ParityRecord,
    ProfileRecord,
    ProfileRow,
    Tolerance,
    ToleranceResult,
    provenance,
    write_record,
)
from edgedistil.core.rundir import RunDir, sha256_file, tree_manifest
from edgedistil.export import push
from edgedistil.export.ort_format import to_ort
from edgedistil.export.package import packaged_config, refresh_cards, write_package
from edgedistil.export.push import push_package
from edgedistil.export.tokenizer_files import vocabulary_lines
from edgedistil.parity.gate import load_artefact


def _graph(path: Path, inputs: tuple[str, ...]) -> None:
    """An artefact small enough to read: a look-up table, with the inputs that an encoder has."""
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["rows"])]
    last = "rows"
    for name in inputs[1:]:
        nodes.append(helper.make_node("Cast", [name], [f"{name}_f"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Unsqueeze", [f"{name}_f", "axis"], [f"{name}_u"]))
        nodes.append(helper.make_node("Mul", [last, f"{name}_u"], [f"{name}_m"]))
        last = f"{name}_m"
    nodes.append(helper.make_node("Identity", [last], ["last_hidden_state"]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ("batch", "sequence"))
            for name in inputs
        ],
        [
            helper.make_tensor_value_info(
                "last_hidden_state", TensorProto.FLOAT, ("batch", "sequence", 3)
            )
        ],
        [
            helper.make_tensor("table", TensorProto.FLOAT, (53, 3), [0.5] * 159),
            helper.make_tensor("axis", TensorProto.INT64, (1,), [2]),
        ],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(
        helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path
    )


def _record(folder: Path, precision: Precision, *, target: str = "host") -> ExportRecord:
    file = folder / "onnx" / graph_name(precision)
    return ExportRecord(
        model="student",
        role="student",
        task="feature-extraction",
        precision=precision,
        files=[
            FileFacts(path=f"onnx/{file.name}", bytes=file.stat().st_size, sha256=sha256_file(file))
        ],
        source_sha256="a" * 64,
        parameters=1_234_567,
        opset=17,
        ir_version=8,
        target_device=target,
        reasons={"tracer": "a test"},
        fused={},
        kept_float=[],
        bytes_by_part={},
        seconds=1,
        provenance=provenance("a test"),
    )


def _parity(precision: str, *, passed: bool = True) -> ParityRecord:
    figures = ParityFigures(
        sequences=67,
        length=13,
        max_abs=2.5e-06,
        mean_abs=3e-07,
        cosine_min=0.97,
        cosine_mean=0.97,
        kl_nats=NotMeasured(not_measured="feature-extraction: no distribution"),
        agreement=0.934,
        decisions=458,
    )
    bound = Tolerance(
        figure="max_abs", bound="at most", value=1e-4, reason="because a test says so"
    )
    return ParityRecord(
        model="student",
        task="feature-extraction",
        precision=precision,
        artefact_sha256="b" * 64,
        runtime="onnxruntime 1.32.0",
        overall=figures,
        by_length=[figures],
        results=[ToleranceResult(tolerance=bound, got=2.5e-06, holds=passed)],
        passed=passed,
        provenance=provenance("a test"),
    )


def _profile() -> ProfileRecord:
    absent = NotMeasured(not_measured="a prediction")
    row = ProfileRow(
        model="student",
        role="student",
        task="feature-extraction",
        precision="int8",
        file_bytes=1,
        parameters=1,
        artefact_sha256="b" * 64,
        device="rpi4",
        method="predicted",
        runtime="onnxruntime",
        threads=1,
        batch=1,
        length=128,
        latency_ms=Band(low=120, high=250),
        latency=absent,
        load_ms=absent,
        first_call_ms=absent,
        start_to_first_result_ms=absent,
        memory=absent,
        peak_memory_bytes=Band(low=50 * 2**20, high=70 * 2**20),
        valid=True,
        conditions={},
    )
    other = row.model_copy(update={"model": "teacher", "device": "elsewhere"})
    return ProfileRecord(
        device="rpi4",
        method="predicted",
        rows=[row, other],
        claims=[],
        provenance=provenance("a test"),
    )


@pytest.fixture
def source(folder) -> Path:
    """A BERT whose config and tokenizer carry what must not travel on."""
    place = folder("BertModel")
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(
        json.dumps(config | {"_name_or_path": "/home/somebody/secret"})
    )
    tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=5)
    tokenizer.save(str(place / "tokenizer.json"))
    return place


@pytest.fixture
def package(source: Path, tmp_path: Path) -> Path:
    place = tmp_path / "student-feature-extraction"
    for precision in ("fp32", "int8"):
        _graph(
            place / "onnx" / graph_name(precision),
            ("input_ids", "attention_mask", "token_type_ids"),
        )
    (place / "onnx" / "model.onnx_data").write_bytes(b"weights")
    write_package(
        place,
        source_folder=source,
        task="feature-extraction",
        model_name="A student",
        records=[_record(place, "fp32"), _record(place, "int8", target="rpi4")],
        parities=[_parity("fp32"), _parity("int8", passed=False)],
        profiles=[_profile()],
        command="edgedistil export --quantize int8",
    )
    return place


def _json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_folder_has_what_clients_read(package: Path) -> None:
    assert set(tree_manifest(package)) == {
        "1_Pooling/config.json",
        "README.md",
        "config.json",
        "modules.json",
        "onnx/model.onnx",
        "onnx/model.onnx_data",
        "onnx/model_int8.onnx",
        "provenance.json",
        "sentence_bert_config.json",
        "session.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    }


def test_the_config_names_the_task_and_the_files_beside_a_graph_and_no_path(package: Path) -> None:
    config = _json(package / "config.json")
    assert config["architectures"] == ["BertModel"]
    assert "_name_or_path" not in config
    assert config["transformers.js_config"] == {"use_external_data_format": {"model.onnx": 1}}


def test_the_tokenizer_says_its_limit_and_bakes_nothing_in(package: Path, source: Path) -> None:
    fast, config = _json(package / "tokenizer.json"), _json(package / "tokenizer_config.json")
    assert fast["truncation"] is None
    assert fast["padding"] is None
    assert config["tokenizer_class"] == "BertTokenizer"
    assert config["model_max_length"] == 521
    assert config["model_input_names"] == ["input_ids", "token_type_ids", "attention_mask"]
    assert (
        config["mask_token"] == _json(package / "special_tokens_map.json")["mask_token"] == "[MASK]"
    )
    words = (package / "vocab.txt").read_text().splitlines()
    assert [fast["model"]["vocab"][word] for word in words] == list(range(53))
    original = AutoTokenizer.from_pretrained(source)
    text = "Ban cer, [MASK] dis FOT?"
    words = original(text, truncation=False, padding=False, add_special_tokens=False)["input_ids"]
    expected = [original.cls_token_id, *words, original.sep_token_id]
    assert AutoTokenizer.from_pretrained(package)(text)["input_ids"] == expected
    plain = Tokenizer.from_file(str(package / "tokenizer.json"))
    assert plain.encode(text).ids == expected, (
        "the source's file has no template; the package's has"
    )
    assert plain.encode("ban", "cer dis").type_ids == [0, 0, 0, 1, 1, 1]


def test_a_student_without_token_types_gets_a_tokenizer_without(folder, tmp_path: Path) -> None:
    place = tmp_path / "package"
    _graph(place / "onnx" / "model.onnx", ("input_ids", "attention_mask"))
    write_package(
        place,
        source_folder=folder("DistilBertForMaskedLM"),
        task="fill-mask",
        model_name="x",
        records=[_record(place, "fp32")],
        parities=[],
        command="edgedistil export",
    )
    config = _json(place / "tokenizer_config.json")
    assert config["tokenizer_class"] == "DistilBertTokenizer"
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    assert _json(place / "config.json")["architectures"] == ["DistilBertForMaskedLM"]
    assert not (place / "modules.json").exists(), "a masked LM gives no sentence vectors"
    assert "Not proven" in (place / "README.md").read_text()


def test_the_sources_own_pooling_is_kept(source: Path, package: Path) -> None:
    assert _json(package / "1_Pooling" / "config.json") == {
        "word_embedding_dimension": 44,
        "pooling_mode_mean_tokens": True,
    }
    (source / "modules.json").write_text('[{"idx": 0}]')
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    write_package(
        package,
        source_folder=source,
        task="feature-extraction",
        model_name="x",
        records=[_record(package, "fp32")],
        parities=[],
        command="edgedistil export",
    )
    assert _json(package / "1_Pooling" / "config.json") == {"pooling_mode_cls_token": True}
    assert _json(package / "modules.json") == [{"idx": 0}]


def test_the_card_shows_parity_profile_and_command(package: Path) -> None:
    card = (package / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\npipeline_tag: feature-extraction\n")
    assert "| fp32 | 2.5e-06 | 3e-07 | – | 0.970000 | 0.970000 | 93.40% of 458 | passed |" in card
    assert "**refused**" in card
    assert "because a test says so" in card
    assert (
        "| rpi4 | predicted | int8 | 1 | 128 | 120 to 250 | – (a prediction) | 50 to 70 |" in card
    )
    assert "elsewhere" not in card, "rows of other models stay out"
    assert "```\nedgedistil export --quantize int8\n```" in card
    assert "1.2M parameters" in card


def test_a_card_learns_what_was_profiled_later(source: Path, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    place = run.export("student", "feature-extraction")
    _graph(place / "onnx" / "model_int8.onnx", ("input_ids", "attention_mask"))
    record = _record(place, "int8")
    write_package(
        place,
        source_folder=source,
        task="feature-extraction",
        model_name="A student",
        records=[record],
        parities=[_parity("int8")],
        command="edgedistil export",
    )
    write_record(place / "export.int8.json", record)
    write_record(run.parity("student", "feature-extraction", "int8"), _parity("int8"))
    before = (place / "README.md").read_text()
    assert "Speed and memory" not in before
    assert refresh_cards(run) == [place / "README.md"]
    assert (place / "README.md").read_text() == before, "nothing was profiled yet"
    write_record(run.profile("rpi4", "predicted"), _profile())
    refresh_cards(run)
    assert "| rpi4 | predicted | int8 | 1 | 128 | 120 to 250 |" in (place / "README.md").read_text()


def test_session_options_carry_reasons(package: Path) -> None:
    artefacts = _json(package / "session.json")["artefacts"]
    assert set(artefacts) == {"onnx/model.onnx", "onnx/model_int8.onnx"}
    board = artefacts["onnx/model_int8.onnx"]
    assert board["config_entries"] == {
        "session.intra_op.allow_spinning": "0",
        "session.x64quantprecision": "1",
    }
    assert artefacts["onnx/model.onnx"]["config_entries"] == {
        "session.intra_op.allow_spinning": "1"
    }
    for each in artefacts.values():
        assert set(each["config_entries"]) <= set(each["reasons"])


def test_provenance_has_versions_sources_and_hashes(package: Path) -> None:
    told = _json(package / "provenance.json")
    assert told["files"]["onnx/model_int8.onnx"] == sha256_file(
        package / "onnx" / "model_int8.onnx"
    )
    assert told["artefacts"]["int8"]["source_sha256"] == "a" * 64
    assert told["versions"]["onnxruntime"]
    assert told["command"] == "edgedistil export --quantize int8"


def test_a_licence_is_passed_on_not_guessed(source: Path, package: Path) -> None:
    assert "license" not in (package / "README.md").read_text()
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    write_package(
        package,
        source_folder=source,
        task="feature-extraction",
        model_name="x",
        records=[_record(package, "fp32")],
        parities=[],
        command="edgedistil export",
    )
    assert 'license: "apache-2.0"\n' in (package / "README.md").read_text()


def test_what_cannot_be_packaged_is_told(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no onnx/"):
        write_package(
            tmp_path / "empty",
            source_folder=source,
            task="fill-mask",
            model_name="x",
            records=[],
            parities=[],
            command="x",
        )
    with pytest.raises(ModelError, match=r"cannot read .*nowhere"):
        packaged_config(tmp_path / "nowhere", "fill-mask", [])
    (source / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(
        ModelError, match="of the type 't5' for the task 'fill-mask'; supported: bert, distilbert"
    ):
        packaged_config(source, "fill-mask", [])
    with pytest.raises(ModelError, match="do not go from 0 to 1 without a gap"):
        vocabulary_lines({"a": 0, "b": 2})


# --- push ------------------------------------------------------------------------------------------


def test_push_to_a_folder_copies_everything_and_replaces_a_former_package(
    package: Path, tmp_path: Path
) -> None:
    target = tmp_path / "shelf of models" / "x"
    assert push_package(package, target.as_uri()) == target.as_uri()
    assert tree_manifest(target) == tree_manifest(package)
    (package / "README.md").write_text("newer\n")
    (package / "onnx" / "model_int8.onnx").unlink()
    push_package(package, target.as_uri())
    assert tree_manifest(target) == tree_manifest(package)


def test_push_keeps_its_hands_off_other_folders(package: Path, tmp_path: Path) -> None:
    target = tmp_path / "home"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds something that is no package"):
        push_package(package, target.as_uri())
    assert (target / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    "address", ["nobody", "a/b/c", "../x/y", "file://host/x", "file:relative", "https://hub/x/y"]
)
def test_push_refuses_what_is_no_address(address: str, package: Path) -> None:
    with pytest.raises(InputError, match="cannot push to"):
        push_package(package, address)


def test_push_refuses_what_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no package: it has no provenance\.json"):
        push_package(tmp_path, "me/model")


class _Hub:
    """Stands for the hub: keeps what it is given, or fails as told."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure, self.calls = failure, []

    def create_repo(self, repo: str, *, exist_ok: bool) -> str:
        if self.failure:
            raise self.failure
        self.calls.append((repo, exist_ok))
        return f"https://hub.invalid/{repo}"

    def upload_folder(self, **told) -> None:
        self.calls.append((told["repo_id"], Path(told["folder_path"])))


def test_push_to_the_hub_makes_the_repository_and_uploads_the_folder(
    package: Path, monkeypatch
) -> None:
    hub = _Hub()
    monkeypatch.setattr(push, "HfApi", lambda: hub)
    assert push_package(package, "me/my-model") == "https://hub.invalid/me/my-model"
    assert hub.calls == [("me/my-model", True), ("me/my-model", package)]


def test_a_hub_that_cannot_be_reached_is_told(package: Path, monkeypatch) -> None:
    monkeypatch.setattr(push, "HfApi", lambda: _Hub(ConnectionError("no route")))
    with pytest.raises(OfflineError, match=r"the hub cannot be reached: no route"):
        push_package(package, "me/my-model")


# --- .ort --------------------------------------------------------------------------------------------


def test_ort_format_answers_like_the_graph_and_lists_its_operators(
    package: Path, tmp_path: Path
) -> None:
    graph = package / "onnx" / "model_int8.onnx"
    model, operators = to_ort(graph, tmp_path / "ort")
    assert [model.name, operators.name] == [
        "model_int8.ort",
        "model_int8.required_operators.config",
    ]
    ids = AutoTokenizer.from_pretrained(package)(["ban cer dis"], return_tensors="np")
    feeds = {name: array.astype("int64") for name, array in ids.items()}
    expected, got = (load_artefact(path)(feeds)["last_hidden_state"] for path in (graph, model))
    assert (expected == got).all()
    lines = operators.read_text().splitlines()
    assert lines[0] == "# operators of model_int8.ort"
    assert any("Gather" in line and line.startswith("ai.onnx;") for line in lines)
    assert str(tmp_path) not in operators.read_text()


def test_a_torn_graph_cannot_become_ort(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"torn")
    with pytest.raises(ModelError, match="cannot convert"):
        to_ort(tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
