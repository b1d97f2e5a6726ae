"""ELECTRA, ALBERT, MPNet and MobileBERT: parts that BERT does not have."""

from __future__ import annotations

import pytest

from edgedistil.core.task import TASKS
from tests.export.families.conftest import (
    Export,
    Exported,
    check_fused,
    check_int8,
    check_lengths,
)

FAMILIES = ("electra", "albert", "mpnet", "mobilebert")
PAIRS = [(name, task) for name in FAMILIES for task in TASKS]


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def exported(request: pytest.FixtureRequest, export_case: Export) -> Exported:
    return export_case(*request.param)


def test_the_graph_gives_pytorchs_outputs_at_every_length(exported: Exported) -> None:
    check_lengths(exported)


def test_attention_norms_and_activations_are_fused(exported: Exported) -> None:
    check_fused(exported)


def test_int8_passed_its_gate_and_no_weight_is_stored_twice(exported: Exported) -> None:
    check_int8(exported)
