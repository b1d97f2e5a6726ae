"""`inspect`: facts of a folder, without torch and without its weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from edgedistil.cli import app
from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.core.tokenizer_vocabulary import Vocabulary, abridge
from edgedistil.inspection import _tokenizer_facts, count_by_part, inspect_model
from tests.fixtures.tokenizer_folders import LAYOUTS, VOCABULARY, write_json

SMALL: dict[str, Any] = {
    "vocab_size": 2 * VOCABULARY,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 66,
}

TASKS_OF = {
    "fill-mask": "ForMaskedLM",
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
}


def make_model(class_name: str, folder: Path, tokenizer: Path, **changes: Any) -> Path:
    """A random model of a class, with one of the tokenizers."""
    model_class = getattr(transformers, class_name)
    config = model_class.config_class(**{**SMALL, **changes})
    torch.manual_seed(1)
    model_class(config).save_pretrained(folder)
    for path in tokenizer.iterdir():
        if path.name != "config.json":
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def edit(path: Path, **changes: Any) -> None:
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})


@pytest.mark.parametrize(
    ("class_name", "tokenizer"),
    [
        ("BertForMaskedLM", "bert"),
        ("RobertaForSequenceClassification", "roberta"),
        ("XLMRobertaModel", "xlm-roberta model"),
        ("DebertaV2ForTokenClassification", "deberta-v2"),
        ("MPNetForQuestionAnswering", "mpnet"),
    ],
)
def test_facts_are_those_of_the_loaded_model(
    tmp_path: Path, tokenizer_folders: dict[str, Path], class_name: str, tokenizer: str
) -> None:
    folder = make_model(class_name, tmp_path / "model", tokenizer_folders[tokenizer])
    inspection = inspect_model(str(folder))
    assert inspection.architectures == [class_name]
    assert (inspection.shape["layers"], inspection.shape["hidden"], inspection.shape["heads"]) == (
        3,
        24,
        2,
    )
    stored = load_file(folder / "model.safetensors")
    total = sum(value.numel() for name, value in stored.items() if "position_ids" not in name)
    assert sum(inspection.parameters.values()) == total
    assert inspection.parameters["word embeddings"] == 2 * VOCABULARY * 24
    model = getattr(transformers, class_name).from_pretrained(folder)
    layers = [
        value.numel()
        for name, value in model.base_model.named_parameters()
        if name.startswith("encoder.")
    ]
    assert inspection.parameters["layers"] == sum(layers)
    assert inspection.dtypes == {"F32": total}
    assert inspection.tokenizer is not None and inspection.tokenizer.padding_side == "right"
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert inspection.tokenizer.special["mask"] == theirs.mask_token
    assert inspection.export.possible, inspection.export.reason
    own = [task for task, ending in TASKS_OF.items() if class_name.endswith(ending)]
    possible = {task for task, answer in inspection.tasks.items() if answer.possible}
    assert possible == {*own, "feature-extraction"}
    assert "no modules.json" in inspection.tasks["sentence-similarity"].reason


def test_parts_of_an_encoder_saved_without_its_prefix() -> None:
    shapes = {
        "embeddings.word_embeddings.weight": (7, 3),
        "embeddings.LayerNorm.gamma": (3,),
        "encoder.layer.0.output.dense.weight": (3, 5),
        "pooler.dense.weight": (3, 3),
        "cls.predictions.bias": (7,),
    }
    expected = {
        "word embeddings": 21,
        "other embeddings": 3,
        "layers": 15,
        "pooler": 9,
        "head": 7,
    }
    assert count_by_part(shapes, FAMILIES["bert"]) == expected
    prefixed = {f"bert.{name}": shape for name, shape in shapes.items() if "cls" not in name}
    assert count_by_part(prefixed, FAMILIES["bert"]) == {
        part: count for part, count in expected.items() if part != "head"
    }


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_an_abridged_tokenizer_has_the_same_facts(
    name: str, tokenizer_folders: dict[str, Path]
) -> None:
    full, abridged = (
        read_tokenizer(tokenizer_folders[name], abridged=short) for short in (False, True)
    )
    assert _tokenizer_facts(abridged) == _tokenizer_facts(full)
    assert abridged.special_ids == full.special_ids
    assert abridged.frames == full.frames


def test_long_pieces_of_an_abridged_vocabulary_are_placeholders() -> None:
    pieces = [("<s>", 0.0), ("a", -1.0), ("▁the", -2.0), ("tion", -3.0)]
    abridged = abridge(Vocabulary(scores=pieces), {"<s>"})
    assert [piece for piece, _ in abridged.scores[:2]] == ["<s>", "a"]
    assert [score for _, score in abridged.scores] == [0.0, -1.0, -2.0, -3.0]
    others = [piece for piece, _ in abridged.scores[2:]]
    assert all(len(piece) == 1 and not piece.isprintable() for piece in others)
    assert len(set(others)) == 2
    word_pieces = Vocabulary(ids={"the": 0})
    assert abridge(word_pieces, set()) is word_pieces


def test_what_cannot_be_done_and_why(tmp_path: Path, tokenizer_folders: dict[str, Path]) -> None:
    folder = make_model("DistilBertModel", tmp_path / "m", tokenizer_folders["bert"], vocab_size=50)
    (folder / "model_head.pkl").write_bytes(b"never opened")
    inspection = inspect_model(str(folder))
    assert not inspection.distil.possible and not inspection.export.possible
    assert "has a word-embedding matrix of 50 rows" in inspection.export.reason
    assert inspection.tokenizer is None and inspection.fused == {}
    assert not any(answer.possible for answer in inspection.tasks.values())
    assert "tokenizer" in inspection.tasks["feature-extraction"].reason
    assert any("SetFit" in part for part in inspection.omitted)
    # Not the names of classes, and nothing is run.
    edit(folder / "config.json", auto_map=1.5)
    assert inspect_model(str(folder)).family == "distilbert"
    assert inspection.tasks["fill-mask"].reason == "the folder has no weights of this head"


def test_half_precision_and_shards_are_counted(
    tmp_path: Path, tokenizer_folders: dict[str, Path]
) -> None:
    folder = make_model("BertModel", tmp_path / "model", tokenizer_folders["bert"])
    weights = {
        name: value.half() for name, value in load_file(folder / "model.safetensors").items()
    }
    (folder / "model.safetensors").unlink()
    shards = {"a.safetensors": {}, "b.safetensors": {}}
    for number, (name, value) in enumerate(weights.items()):
        shards["ab"[number % 2] + ".safetensors"][name] = value
    for file, part in shards.items():
        save_file(part, folder / file)
    index = {name: file for file, part in shards.items() for name in part}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    inspection = inspect_model(str(folder))
    assert set(inspection.dtypes) == {"F16"}
    assert inspection.file_bytes == sum((folder / file).stat().st_size for file in shards)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "is a decoder of type"),
        (
            {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
            "is an encoder-decoder of type 't5'",
        ),
        (
            {"model_type": "vit", "architectures": ["ViTForImageClassification"]},
            "is a model of images or sound of type 'vit'",
        ),
        ({"model_type": "mistral"}, "is a decoder of type 'mistral'"),
        ({"model_type": "bart", "architectures": ["BartModel"]}, "is an encoder-decoder of type"),
        ({"model_type": "clip"}, "is a model of images or sound of type 'clip'"),
        ({"model_type": "t5", "architectures": ["T5EncoderModel"]}, "is an encoder of type 't5'"),
        ({"model_type": "tapas", "architectures": ["TapasModel"]}, "is a model of type 'tapas'"),
        (
            {"model_type": "bert", "auto_map": {"AutoModel": "repo--modeling.JinaBertModel"}},
            r"is a bert with code of its own \(auto_map: repo--modeling.JinaBertModel\)",
        ),
        ({"model_type": "bert", "is_decoder": True}, "is a decoder; supported: an encoder"),
        (
            {"model_type": "bert", "position_embedding_type": "relative_key"},
            "has position_embedding_type = 'relative_key'; supported: absolute",
        ),
        (
            {"model_type": "albert", "inner_group_num": 2},
            "has inner_group_num = 2; supported in this family: 1",
        ),
        (
            {"model_type": "new", "auto_map": {"AutoModel": "repo--modeling.NewModel"}},
            r"with code of its own \(auto_map: repo--modeling.NewModel\) of type 'new'",
        ),
    ],
)
def test_models_of_other_kinds_are_named(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    write_json(tmp_path / "config.json", config)
    with pytest.raises(ModelError, match=message) as caught:
        inspect_model(str(tmp_path))
    assert caught.value.hint


def test_the_command_prints_tables_and_json(
    tmp_path: Path, tokenizer_folders: dict[str, Path]
) -> None:
    folder = make_model("BertForMaskedLM", tmp_path / "model", tokenizer_folders["bert"])
    shown = CliRunner().invoke(app, ["inspect", str(folder)])
    assert shown.exit_code == 0
    assert "bert (BertForMaskedLM)" in shown.output and "WordPiece (BertTokenizer)" in shown.output
    inspection = json.loads(CliRunner().invoke(app, ["inspect", str(folder), "--json"]).output)
    assert inspection["family"] == "bert" and inspection["distil"] == {
        "possible": True,
        "reason": "",
    }
    assert inspection["fused"]["attention"] == "one operator in each of 3 layers"


def test_no_heavy_library_is_imported(tmp_path: Path, tokenizer_folders: dict[str, Path]) -> None:
    folder = make_model("BertModel", tmp_path / "model", tokenizer_folders["bert"])
    program = (
        "import sys\n"
        "from edgedistil.inspection import inspect_model, show_inspection\n"
        f"show_inspection(inspect_model({str(folder)!r}))\n"
        "heavy = {'torch', 'transformers', 'onnxruntime', 'onnx', 'sklearn', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"
