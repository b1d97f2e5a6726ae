"""Every precision of every family passes its gate."""

from __future__ import annotations

import pytest

from edgedistil.core.precision import PRECISIONS
from tests.export.families.conftest import CASES, Export

OTHERS = ("fp32", "fp16", "uint8", "int8-dynamic", "int8-static", "int4")


@pytest.mark.parametrize("name", CASES)
def test_an_encoder_in_every_other_precision(export_case: Export, name: str) -> None:
    exported = export_case(name, "feature-extraction", OTHERS)
    passed = {record.precision: parity.passed for record, parity in exported.artefacts}
    assert passed == dict.fromkeys(OTHERS, True)
    assert set(OTHERS) == set(PRECISIONS) - {"int8"}, "int8 is in the tests of the families"
    float_operators = exported.operators("fp32")
    assert exported.operators("int4")["MatMulNBits"] > 0
    assert exported.operators("int8-static")["MatMulIntegerToFloat"] > 0
    assert float_operators["MatMulNBits"] == float_operators["MatMulIntegerToFloat"] == 0
