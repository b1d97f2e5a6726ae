"""Opens an export folder with the class of its task."""

from __future__ import annotations

from pathlib import Path

from edgedistil.core.contract import read_contract
from edgedistil.core.errors import InputError
from edgedistil.core.task import Task
from edgedistil.inference.classifier import Classifier
from edgedistil.inference.encoder import Encoder
from edgedistil.inference.mask_filler import MaskFiller
from edgedistil.inference.question_answerer import QuestionAnswerer
from edgedistil.inference.task_model import TaskModel
from edgedistil.inference.token_classifier import TokenClassifier

_CLASSES: dict[Task, type[TaskModel]] = {
    row.task: row for row in (Encoder, Classifier, TokenClassifier, QuestionAnswerer, MaskFiller)
}


def load(
    folder: str | Path, *, precision: str | None = None, threads: int | None = None
) -> TaskModel:
    """Opens an export folder with the class of its task.

    Args:
        folder: A folder that `edgedistil export` wrote.
        precision: Precision of the graph; None for fp32.
        threads: Threads of one call; None: as the folder recommends.
    Raises:
        InputError: The folder is not an export, has no such precision, or its task has no class.
        StorageError: contract.json is damaged.
        ModelError: Another file of the folder is missing or corrupt.
    """
    task = read_contract(Path(folder)).task
    if task not in _CLASSES:
        raise InputError(
            f"{folder} is an export for {task}; expected {', '.join(_CLASSES)}",
            hint="run its graph with onnxruntime; contract.json describes inputs and outputs",
        )
    return _CLASSES[task](folder, precision=precision, threads=threads)
