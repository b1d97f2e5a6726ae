from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from edgedistil.core.contract import read_contract
from edgedistil.core.errors import ModelError
from edgedistil.core.export_records import ExportRecord, ParityRecord
from edgedistil.core.rundir import sha256_file, tree_manifest
from edgedistil.core.task import Task
from edgedistil.export.package import packaged_config, write_package
from edgedistil.export.source import read_source
from tests.fixtures.small_package import TASK, export_record, parity_record, write_graph

Folder = Callable[[str], Path]


def write(
    folder: Path,
    source: Path,
    records: Sequence[ExportRecord],
    *,
    task: Task = TASK,
    parities: Sequence[ParityRecord] = (),
) -> None:
    write_package(
        folder,
        read_source(source, name="student", role="student", task=task),
        title="A student",
        records=records,
        parities=parities,
        command="edgedistil export --quantize int8",
    )


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def source(folder: Folder) -> Path:
    """A BERT whose config and tokenizer hold what must not be passed on."""
    path = folder("BertModel")
    config = read_json(path / "config.json")
    config["_name_or_path"] = "/home/somebody/secret"
    (path / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=5)
    tokenizer.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture
def package(graphs: Path, source: Path) -> Path:
    records = [export_record(graphs, "fp32"), export_record(graphs, "int8", target="rpi4")]
    parities = [parity_record("fp32"), parity_record("int8")]
    write(graphs, source, records, parities=parities)
    return graphs


def test_the_folder_has_what_clients_read(package: Path) -> None:
    assert set(tree_manifest(package)) == {
        "1_Pooling/config.json",
        "README.md",
        "config.json",
        "contract.json",
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


def test_the_config_names_the_task_and_external_weights_and_no_path(package: Path) -> None:
    config = read_json(package / "config.json")
    assert config["architectures"] == ["BertModel"]
    assert "_name_or_path" not in config
    assert config["transformers.js_config"] == {"use_external_data_format": {"model.onnx": 1}}


def test_the_tokenizer_files_agree_and_bake_nothing_in(package: Path, source: Path) -> None:
    fast = read_json(package / "tokenizer.json")
    config = read_json(package / "tokenizer_config.json")
    specials = read_json(package / "special_tokens_map.json")
    assert fast["truncation"] is None
    assert fast["padding"] is None
    assert config["tokenizer_class"] == "BertTokenizer"
    assert config["model_max_length"] == 521
    assert config["model_input_names"] == ["input_ids", "token_type_ids", "attention_mask"]
    assert config["mask_token"] == specials["mask_token"] == "[MASK]"
    lines = (package / "vocab.txt").read_text().splitlines()
    assert [fast["model"]["vocab"][token] for token in lines] == list(range(53))

    text = "Ban cer, [MASK] dis FOT?"
    original = AutoTokenizer.from_pretrained(source)
    ids = original(text, truncation=False, padding=False, add_special_tokens=False)["input_ids"]
    expected = [original.cls_token_id, *ids, original.sep_token_id]
    assert AutoTokenizer.from_pretrained(package)(text)["input_ids"] == expected
    plain = Tokenizer.from_file(str(package / "tokenizer.json"))
    assert plain.encode(text).ids == expected, (
        "the source's file has no template; the package's has"
    )
    assert plain.encode("ban", "cer dis").type_ids == [0, 0, 0, 1, 1, 1]


def test_a_student_without_token_types_gets_a_tokenizer_without(
    folder: Folder, tmp_path: Path
) -> None:
    package = tmp_path / "package"
    write_graph(package / "onnx" / "model.onnx", ("input_ids", "attention_mask"), output="logits")
    records = [export_record(package, "fp32")]
    write(package, folder("DistilBertForMaskedLM"), records, task="fill-mask")
    config = read_json(package / "tokenizer_config.json")
    assert config["tokenizer_class"] == "DistilBertTokenizer"
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    assert read_json(package / "config.json")["architectures"] == ["DistilBertForMaskedLM"]
    assert not (package / "modules.json").exists(), "a masked LM gives no sentence vectors"
    assert "Not checked" in (package / "README.md").read_text()


def test_the_sources_own_pooling_is_copied(source: Path, package: Path) -> None:
    pooling = package / "1_Pooling" / "config.json"
    mean = {"word_embedding_dimension": 44, "pooling_mode_mean_tokens": True}
    assert read_json(pooling) == mean
    card = (package / "README.md").read_text(encoding="utf-8")
    assert "Sentence vector: mean of the attended positions (a guess" in card
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
    ]
    (source / "modules.json").write_text(json.dumps(modules))
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    write(package, source, [export_record(package, "fp32")])
    assert read_json(pooling) == {"pooling_mode_cls_token": True}
    assert read_json(package / "modules.json") == modules
    card = (package / "README.md").read_text(encoding="utf-8")
    assert "Sentence vector: first token, computed by the client" in card
    contract = read_contract(package)
    assert contract.sentence_vector is not None and not contract.sentence_vector.is_guess


def test_provenance_has_versions_sources_and_hashes(package: Path) -> None:
    provenance = read_json(package / "provenance.json")
    graph = package / "onnx" / "model_int8.onnx"
    assert provenance["files"]["onnx/model_int8.onnx"] == sha256_file(graph)
    assert provenance["artefacts"]["int8"]["source_sha256"] == "a" * 64
    assert provenance["versions"]["onnxruntime"]
    assert provenance["command"] == "edgedistil export --quantize int8"


def test_the_card_describes_the_folder_and_no_profile(package: Path) -> None:
    card = (package / "README.md").read_text(encoding="utf-8")
    assert "# A student · feature-extraction" in card
    assert "| `onnx/model_int8.onnx` | int8 |" in card
    assert "93.40% of 458 | – | passed |" in card
    assert "Speed and memory" not in card


def test_a_licence_is_copied_not_guessed(source: Path, package: Path) -> None:
    assert "license" not in (package / "README.md").read_text()
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    write(package, source, [export_record(package, "fp32")])
    assert 'license: "apache-2.0"\n' in (package / "README.md").read_text()


def test_folders_and_sources_that_cannot_be_packaged_are_refused(
    source: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="has no onnx/"):
        write(tmp_path / "empty", source, [], task="fill-mask")
    with pytest.raises(ModelError, match=r"cannot read .*nowhere"):
        packaged_config(tmp_path / "nowhere", "fill-mask", [])
    (source / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(
        ModelError, match="is of type 't5' for the task 'fill-mask'; supported: bert, distilbert"
    ):
        packaged_config(source, "fill-mask", [])
