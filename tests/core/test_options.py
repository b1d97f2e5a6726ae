"""Values of options: what a flag does not allow is refused, from Python too."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgedistil.core.budget_options import SearchOptions
from edgedistil.core.errors import InputError
from edgedistil.core.flag import command_arguments
from edgedistil.core.options import EvaluateOptions, ExportOptions, ProfileOptions


@pytest.mark.parametrize(
    ("options", "values", "message"),
    [
        (ExportOptions, {"max_drop": -1.0}, "--max-drop is -1.0: expected 0 to 1"),
        (ExportOptions, {"max_drop": 2.0}, "--max-drop is 2.0: expected 0 to 1"),
        (ExportOptions, {"max_drop": math.inf}, "--max-drop is inf"),
        (ExportOptions, {"max_drop": math.nan}, "--max-drop is nan"),
        (ExportOptions, {"target": ""}, "--target is empty: expected DEVICE"),
        (ExportOptions, {"text": Path("x" * 300)}, "cannot be used as a path"),
        (EvaluateOptions, {"seeds": 10**12}, "--seeds is 1000000000000: expected 1 to 1000"),
        (EvaluateOptions, {"seeds": 0}, "--seeds is 0: expected 1 to 1000"),
        (EvaluateOptions, {"jobs": 10**9}, "--jobs is 1000000000"),
        (EvaluateOptions, {"tasks": ["sst2", ""]}, "--task is empty"),
        (ProfileOptions, {"device": ""}, "--device is empty"),
        (ProfileOptions, {"lengths": [16, 10**9]}, "--length is 1000000000: expected 2 to 8192"),
        (ProfileOptions, {"threads": (10**6,)}, "--threads is 1000000: expected 1 to 1024"),
    ],
)
def test_a_value_that_a_flag_does_not_allow(
    options: type[Any], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        options(**values)
    with pytest.raises(InputError, match=message):
        replace(options(), **values)


def test_values_at_the_bounds() -> None:
    assert ExportOptions(max_drop=0).max_drop == 0
    assert ExportOptions(max_drop=1).max_drop == 1
    assert EvaluateOptions(seeds=1000).seeds == 1000
    assert ProfileOptions(lengths=[2, 8192]).lengths == [2, 8192]


def test_options_become_the_arguments_that_give_them() -> None:
    options = SearchOptions(
        device="rpi4", under=["30ms", "40MB"], length=64, train=2, ssh="pi@board", bootstrap=True
    )
    assert command_arguments(options) == [
        *("--device", "rpi4", "--under", "30ms", "--under", "40MB"),
        *("--train", "2", "--ssh", "pi@board", "--bootstrap"),
    ]
