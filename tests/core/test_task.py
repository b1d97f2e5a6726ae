"""The table of tasks, and the proof that a new task needs one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import onnx
import pytest
import transformers
from transformers import BertForNextSentencePrediction

from edgedistil.core.errors import ModelError
from edgedistil.core.task import (
    ENCODER_TASK,
    TASKS,
    LabelledKind,
    Task,
    find_task,
    short_label,
    task_of_architectures,
    task_of_kind,
)
from edgedistil.export.source import parse_task
from tests.fixtures.changed_package import (
    changed_package,
    run_command,
    save_small_bert,
    write_lines,
)

NEW_ROW = """        TaskInfo(
            name="next-sentence-prediction",
            level="sequence",
            outputs=("logits",),
            meanings=("score of each label",),
            architectures=("ForNextSentencePrediction",),
            auto_class="AutoModelForNextSentencePrediction",
            ort_class="ORTModelForSequenceClassification",
            label="next sentence",
            sends_pairs=True,
            reads_pooler=True,
        ),
"""
NEXT_ROW = '        TaskInfo(\n            name="question-answering",\n'
# All that a new task needs: insertions into one file.
NEW_TASK = {
    "core/task.py": [
        (
            '    "token-classification",\n',
            '    "token-classification",\n    "next-sentence-prediction",\n',
        ),
        (NEXT_ROW, NEW_ROW + NEXT_ROW),
    ]
}


def test_every_task_has_a_row_and_classes_that_exist() -> None:
    assert tuple(TASKS) == get_args(Task)
    for task in TASKS.values():
        assert hasattr(transformers, task.auto_class)
        assert task.ort_class.startswith("ORTModelFor")
        assert task.outputs
        assert task.architectures


@pytest.mark.parametrize("task", TASKS)
def test_the_written_architecture_is_read_as_the_same_task(task: Task) -> None:
    for ending in TASKS[task].architectures:
        assert task_of_architectures([f"DistilBert{ending}"], "DistilBert") == task


def test_a_head_says_more_than_the_encoder() -> None:
    assert task_of_architectures(["BertModel"], "Bert") == "feature-extraction"
    assert task_of_architectures(["BertModel", "BertForQuestionAnswering"], "Bert") == (
        "question-answering"
    )


def test_unknown_names_are_not_tasks() -> None:
    assert find_task("translation") is None
    for name in ("GPT2LMHeadModelX", "BertLMHeadModel", "OwnBertForMaskedLM", "BertForMaskedLMX"):
        assert task_of_architectures([name], "Bert") is None
    assert short_label("other") == "other"
    assert short_label(ENCODER_TASK) == "encoder"


def test_every_labelled_kind_has_a_task() -> None:
    for kind in get_args(LabelledKind):
        assert kind in TASKS[task_of_kind(kind)].labelled_kinds


def test_a_new_task_needs_one_file(tmp_path: Path) -> None:
    """A copy of the package with a new row exports a model of the new task and proves it."""
    path = changed_package(tmp_path / "changed", NEW_TASK)
    source = save_small_bert(tmp_path / "small-bert", BertForNextSentencePrediction)
    text = write_lines(tmp_path / "text.txt")

    command = ["export", "--model", str(source), "--text", str(text), "--quantize", "int8"]
    run_command(path, command, runs=tmp_path / "runs")

    run = tmp_path / "runs" / "small-bert"
    folder = run / "export" / "small-bert-next-sentence-prediction"
    graph = onnx.load(folder / "onnx" / "model_int8.onnx", load_external_data=False).graph
    dims = graph.output[0].type.tensor_type.shape.dim
    assert len(dims) == 2, "one row a sequence"
    assert dims[0].dim_param == "batch"
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BertForNextSentencePrediction"]
    for precision in ("fp32", "int8"):
        name = f"small-bert-next-sentence-prediction.{precision}.json"
        parity = json.loads((run / "parity" / name).read_text())
        assert parity["passed"], parity
        assert parity["overall"]["decisions"] > 0, "labels were compared"


def test_the_unchanged_package_does_not_know_that_task() -> None:
    with pytest.raises(ModelError, match="unknown task 'next-sentence-prediction'"):
        parse_task("next-sentence-prediction")
