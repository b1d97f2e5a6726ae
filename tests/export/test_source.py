from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgedistil.core.errors import ModelError, RunError
from edgedistil.core.rundir import RunDir
from edgedistil.export.source import ExportSource, find_sources, parse_task, read_source
from edgedistil.models.facts import weights_sha256

Folder = Callable[[str], Path]


def read(path: Path, task: str | None = None) -> ExportSource:
    return read_source(path, name="x", role="other", task=task)


def rewrite_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


# --- which models ---------------------------------------------------------------------------------


def test_a_run_has_student_and_teacher_as_masked_lm_and_as_encoder(finished_run: RunDir) -> None:
    run, sources = find_sources("latest", model=None, task=None)
    assert run == finished_run
    assert [(source.name, source.task, source.float_only) for source in sources] == [
        ("student", "fill-mask", False),
        ("student", "feature-extraction", False),
        ("teacher", "fill-mask", True),
        ("teacher", "feature-extraction", True),
    ]


def test_one_model_gets_a_run_of_its_name(folder: Folder, runs: Path) -> None:
    path = folder("DistilBertModel").rename(runs.parent / "my model (v2)")
    run, (source,) = find_sources("latest", model=f"{path}/", task=None)
    assert run.path == runs / "my-model-v2"
    assert (source.name, source.role, source.folder) == ("my-model-v2", "other", path)
    assert not source.float_only


def test_models_of_one_name_get_runs_of_their_own(folder: Folder, runs: Path) -> None:
    paths = []
    for parent in ("a", "b"):
        (runs.parent / parent).mkdir()
        paths.append(folder("DistilBertModel").rename(runs.parent / parent / "model"))
    first, _ = find_sources("latest", model=str(paths[0]), task=None)
    other, (source,) = find_sources("latest", model=str(paths[1]), task=None)
    again, _ = find_sources("latest", model=str(paths[0]), task=None)
    assert first.path == again.path == runs / "model"
    assert re.fullmatch(r"model-[0-9a-f]{8}", other.name)
    assert source.name == "model"


def test_models_of_one_name_in_one_run_get_names_of_their_own(folder: Folder, runs: Path) -> None:
    names = []
    for parent in ("a", "b", "a"):
        (runs.parent / parent).mkdir(exist_ok=True)
        path = runs.parent / parent / "model"
        if not path.exists():
            folder("DistilBertModel").rename(path)
        run, (source,) = find_sources("mine", model=str(path), task=None)
        assert run.path == runs / "mine"
        names.append(source.name)
    assert names[0] == names[2] == "model"
    assert re.fullmatch(r"model-[0-9a-f]{8}", names[1])


@pytest.mark.parametrize("name", ["latest", "x" * 130, "student"])
def test_any_folder_name_works(folder: Folder, runs: Path, name: str) -> None:
    path = folder("DistilBertModel").rename(runs.parent / name)
    run, (source,) = find_sources("latest", model=str(path), task=None)
    assert run.name != "latest"
    assert len(source.name) < 80
    assert source.name not in ("student", "teacher")


def test_a_model_is_exported_into_its_run_again(folder: Folder, runs: Path) -> None:
    # `student` is the name of a role, so the export has a name with a digest.
    path = folder("BertModel").rename(runs.parent / "student")
    calls = [find_sources("latest", model=str(path), task=None) for _ in range(2)]
    assert [run.name for run, _ in calls] == ["student", "student"]
    (first,), (again,) = (sources for _, sources in calls)
    assert first.name == again.name != "student"


def test_a_run_of_a_recipe_keeps_its_exports(folder: Folder, finished_run: RunDir) -> None:
    path = folder("DistilBertModel").rename(finished_run.path.parent.parent / finished_run.name)
    run, _ = find_sources("latest", model=str(path), task=None)
    assert run.path != finished_run.path


def test_a_run_without_a_student_says_which_command_makes_one(runs: Path) -> None:
    (runs / "empty").mkdir(parents=True)
    with pytest.raises(RunError, match="has no student yet"):
        find_sources("empty", model=None, task=None)


# --- tasks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("DistilBertForMaskedLM", "fill-mask"),
        ("DistilBertModel", "feature-extraction"),
        ("DistilBertForSequenceClassification", "text-classification"),
        ("BertForPreTraining", "fill-mask"),
        ("BertForQuestionAnswering", "question-answering"),
        ("BertForTokenClassification", "token-classification"),
    ],
)
def test_the_task_follows_from_the_architecture(folder: Folder, name: str, task: str) -> None:
    source = read(folder(name))
    assert source.task == task
    model = source.load_model()
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_masked_lm_serves_as_encoder_too(folder: Folder) -> None:
    source = read(folder("DistilBertForMaskedLM"), task="feature-extraction")
    assert type(source.load_model()).__name__ == "DistilBertModel"
    assert source.load_tokenizer().special["mask_token"] == "[MASK]"


def test_a_folder_with_modules_gives_sentence_vectors(folder: Folder) -> None:
    path = folder("DistilBertForMaskedLM")
    modules = [{"name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    (path / "modules.json").write_text(json.dumps(modules))
    assert read(path).task == "feature-extraction"
    assert read(path, task="fill-mask").task == "fill-mask"
    (path / "modules.json").write_text(json.dumps([*modules, *modules]))
    with pytest.raises(ModelError, match="supported: one Transformer"):
        read(path)


def test_synonyms_of_tasks_manager_are_understood() -> None:
    assert parse_task("masked-lm") == "fill-mask"
    with pytest.raises(ModelError, match="unknown task 'translate'") as caught:
        parse_task("translate")
    assert "expected one of: fill-mask, feature-extraction" in str(caught.value)


# --- models that cannot be exported ---------------------------------------------------------------


def test_another_type_of_model_is_refused_with_the_supported_ones(folder: Folder) -> None:
    path = folder("DistilBertModel")
    rewrite_config(path, model_type="llama", architectures=["LlamaForCausalLM"])
    with pytest.raises(
        ModelError, match=r"type 'llama' \(LlamaForCausalLM\); supported: bert, distilbert"
    ) as caught:
        read(path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "swiglu"}, "activation = 'swiglu'; expected one of gelu"),
        ({"architectures": []}, "names no architecture, which belongs to no supported task"),
        ({"architectures": ["OwnForMaskedLM"]}, "names OwnForMaskedLM, which belongs to no"),
        ({"is_decoder": True}, "is a decoder; supported: an encoder"),
        (
            {"position_embedding_type": "relative_key"},
            "has position_embedding_type = 'relative_key'; supported: absolute",
        ),
    ],
)
def test_configs_that_cannot_be_exported_are_refused(
    folder: Folder, change: dict[str, object], message: str
) -> None:
    path = folder("DistilBertModel")
    rewrite_config(path, **change)
    with pytest.raises(ModelError, match=message):
        read(path)


def test_a_folder_without_config_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is not a model folder: it has no config\.json"):
        read(tmp_path)


def test_pickled_weights_are_refused_with_the_way_to_convert_them(folder: Folder) -> None:
    path = folder("DistilBertModel")
    (path / "model.safetensors").unlink()
    torch.save({}, path / "pytorch_model.bin")
    with pytest.raises(
        ModelError, match=r"no weights in safetensors, only pytorch_model\.bin"
    ) as caught:
        read(path)
    assert "save_pretrained" in str(caught.value.hint)


def test_weights_that_do_not_serve_the_task_are_refused(folder: Folder) -> None:
    source = read(folder("DistilBertForMaskedLM"), task="question-answering")
    with pytest.raises(ModelError, match=r"lacks .*qa_outputs.* cannot serve question-answering"):
        source.load_model()


def test_a_missing_pooler_matters_only_to_tasks_that_read_it(folder: Folder) -> None:
    path = folder("BertForMaskedLM")
    assert read(path, task="feature-extraction").load_model()
    with pytest.raises(ModelError, match=r"lacks .*pooler.* cannot serve text-classification"):
        read(path, task="text-classification").load_model()


def test_truncated_weights_are_an_input_error(folder: Folder) -> None:
    path = folder("DistilBertModel")
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"safetensors is truncated or not a safetensors file"):
        read(path)


def test_a_tokenizer_without_a_mask_serves_every_other_task(folder: Folder) -> None:
    path = folder("DistilBertForMaskedLM")
    for name in ("tokenizer_config.json", "tokenizer.json"):
        described = json.loads((path / name).read_text())
        described["mask_token"], described["added_tokens"] = None, []
        described.pop("added_tokens_decoder", None)
        (path / name).write_text(json.dumps(described))
    assert read(path, task="feature-extraction").load_tokenizer().token_id("mask") is None
    with pytest.raises(ModelError, match="has no mask_token"):
        read(path, task="fill-mask")


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows(folder: Folder) -> None:
    path = folder("DistilBertModel")
    described = json.loads((path / "tokenizer.json").read_text())
    described["model"]["vocab"]["extra"] = 53
    (path / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match=r"ids up to 53 \(54 tokens\), .* matrix of 53 rows"):
        read(path)


def test_the_digest_of_a_model_without_a_pooler_is_the_same_each_time(folder: Folder) -> None:
    """transformers draws the weights of a pooler that the files lack."""
    source = read(folder("BertForMaskedLM"), task="feature-extraction")
    digests = set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = source.load_model()
        digests.add(weights_sha256(model))
        assert not [name for name, _ in model.named_parameters() if "pooler" in name]
    assert len(digests) == 1
