"""Feed-forward units that are removed by importance, in every family."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.models.fast.encoder import encode
from edgedistil.models.narrow import narrow_feed_forward
from edgedistil.models.student import StudentOptions, make_student
from tests.export.families.conftest import CASES, INNER, VOCABULARY, make_model

IDS_BL = torch.randint(5, VOCABULARY, (3, 23), generator=torch.Generator().manual_seed(7))


def states(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        output_BLD: torch.Tensor = model.eval().base_model(input_ids=IDS_BL).last_hidden_state
    return output_BLD


def silence(model: PreTrainedModel, units: torch.Tensor) -> None:
    """Lets units of all feed-forwards write nothing."""
    row = FAMILIES[model.config.model_type]
    for name, weight in model.named_parameters():
        writes = weight.ndim == 2 and weight.shape[1] == INNER and row.names.layers in name
        if writes:
            with torch.no_grad():
                weight[:, units] = 0


@pytest.mark.parametrize("name", CASES)
def test_units_that_write_nothing_go_first(name: str) -> None:
    model = make_model(CASES[name], "fill-mask")
    silent = torch.arange(1, INNER, 3)
    silence(model, silent)
    narrow = narrow_feed_forward(model, INNER - len(silent))
    assert narrow.num_parameters() < model.num_parameters()
    torch.testing.assert_close(states(narrow), states(model))
    # One unit less is one that writes something.
    smaller = narrow_feed_forward(model, INNER - len(silent) - 1)
    assert (states(smaller) - states(model)).abs().max() > 1e-4


def test_the_fast_engine_computes_a_narrow_student() -> None:
    teacher = make_model(CASES["bert"], "fill-mask")
    options = StudentOptions(dropout=0.0, intermediate=20)
    student = make_student(teacher, layer_map=[0, 1], options=options).eval()
    assert student.config.hidden_dim == 20
    with torch.no_grad():
        torch.testing.assert_close(encode(student, IDS_BL, None), states(student))


@pytest.mark.parametrize("width", [INNER, INNER + 1])
def test_a_width_that_removes_nothing_is_refused(width: int) -> None:
    with pytest.raises(ModelError, match=f"student.intermediate is {width}; expected 1 to 47"):
        narrow_feed_forward(make_model(CASES["bert"], "fill-mask"), width)
