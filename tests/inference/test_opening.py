"""A folder opens with the class of its task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import edgedistil
from edgedistil.core.contract import write_contract
from edgedistil.core.errors import InputError
from tests.fixtures.small_package import small_contract


def test_a_classifier_opens_as_one(small_export: Path) -> None:
    model = edgedistil.load(small_export, precision="int8")
    assert isinstance(model, edgedistil.Classifier)
    assert len(model.classify(["a text"])[0]) == 3


def test_a_task_without_a_class_is_refused(tmp_path: Path) -> None:
    contract = replace(small_contract(None), task="multiple-choice")
    write_contract(tmp_path, contract)
    with pytest.raises(InputError, match="is an export for multiple-choice; expected feature-ext"):
        edgedistil.load(tmp_path)
