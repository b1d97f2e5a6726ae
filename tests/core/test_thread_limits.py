"""Thread counts that a machine can have a use for."""

from __future__ import annotations

import pytest

from edgedistil.core.errors import InputError
from edgedistil.core.thread_limits import check_threads


def test_four_threads_a_core_and_at_least_eight_pass() -> None:
    check_threads([1, 8], 1, machine="a board")
    check_threads([16], 4, machine="a board")


@pytest.mark.parametrize(("count", "cores", "most"), [(9, 2, 8), (17, 4, 16), (999, 64, 256)])
def test_more_are_refused_with_what_the_machine_has(count: int, cores: int, most: int) -> None:
    with pytest.raises(InputError) as error:
        check_threads([1, count], cores, machine="a board", setting="profile.threads")
    assert error.value.message == (
        f"profile.threads is {count}: a board has {cores} cores; expected at most {most}"
    )


def test_one_core_is_not_several() -> None:
    with pytest.raises(InputError, match="a board has 1 core; expected at most 8"):
        check_threads([9], 1, machine="a board")
