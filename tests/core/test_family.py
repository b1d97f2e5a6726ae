"""The table of encoder families agrees with transformers."""

from __future__ import annotations

import pytest
import transformers
from transformers import AutoConfig

from edgedistil.core.family import FAMILIES
from edgedistil.core.family_info import FamilyInfo
from edgedistil.core.task import TASKS


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> FamilyInfo:
    return FAMILIES[request.param]


def test_the_classes_of_a_family_exist(family: FamilyInfo) -> None:
    for task in TASKS.values():
        head = task.architectures[0]
        assert hasattr(transformers, family.class_prefix + head) == (
            head not in family.missing_heads
        )
    has_pretraining = hasattr(transformers, f"{family.class_prefix}ForPreTraining")
    assert has_pretraining == ("ForPreTraining" not in family.missing_heads)
    assert hasattr(transformers, family.tokenizer_class)


def test_the_encoder_of_a_model_with_a_head_is_where_the_row_says(family: FamilyInfo) -> None:
    model_class = getattr(transformers, f"{family.class_prefix}ForMaskedLM")
    assert model_class.base_model_prefix == family.module_prefix


def test_sizes_are_read_from_the_written_config(family: FamilyInfo) -> None:
    config = AutoConfig.for_model(family.model_type)
    config.num_hidden_layers, config.hidden_size = 3, 44
    written = config.to_dict()
    assert (family.layers(written), family.hidden(written)) == (3, 44)
    assert family.keys.intermediate in written
    assert family.keys.activation in written


def test_sizes_that_a_config_leaves_out_are_those_of_transformers(family: FamilyInfo) -> None:
    theirs = AutoConfig.for_model(family.model_type).to_dict()
    completed = family.with_defaults({"model_type": family.model_type})
    assert completed == {name: theirs[name] for name in completed}
    assert {getattr(family.keys, name) for name in ("layers", "heads", "positions")} <= set(
        completed
    )


def test_distilbert_is_read_with_the_names_of_bert() -> None:
    config = {"model_type": "distilbert", "hidden_size": 44, "num_hidden_layers": 3}
    theirs = AutoConfig.for_model(**config)
    ours = FAMILIES["distilbert"]
    assert (ours.hidden(config), ours.layers(config)) == (theirs.dim, theirs.n_layers) == (44, 3)
