"""Checks of the machine that a search measures on, before anything runs there."""

from __future__ import annotations

import pytest

from edgedistil.core.budget_options import SearchOptions
from edgedistil.core.errors import InputError, TargetError
from edgedistil.runtime.machine_facts import MachineIdentity
from edgedistil.runtime.ssh.target import SshTarget
from edgedistil.search.board import check_board, open_target

PI4 = MachineIdentity(
    machine="aarch64",
    board="Raspberry Pi 4 Model B Rev 1.4",
    onnxruntime="1.13.1",
    usable_threads=4,
)


def options(**changes: object) -> SearchOptions:
    settings = {"device": "rpi4", "under": ["1s"], "train": 1, "ssh": "pi@board", **changes}
    return SearchOptions(**settings)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _board(monkeypatch: pytest.MonkeyPatch) -> None:
    # No board is connected to the machine of the tests.
    monkeypatch.setattr(SshTarget, "identify", lambda _: PI4)


def test_a_board_that_runs_the_candidates_passes() -> None:
    check_board(options(), oldest_runtime=(1, 13))


def test_an_onnxruntime_that_is_too_old_is_found_before_training() -> None:
    with pytest.raises(TargetError, match=r"has onnxruntime 1.13.1; the candidates need 1.14") as e:
        check_board(options(), oldest_runtime=(1, 14))
    assert e.value.hint == "install it there: python3 -m pip install 'onnxruntime>=1.14'"


def test_a_board_has_the_cores_that_it_reports() -> None:
    check_board(options(threads=16), oldest_runtime=(1, 13))
    with pytest.raises(InputError, match=r"--threads is 17: pi@board has 4 cores; .* at most 16"):
        check_board(options(threads=17), oldest_runtime=(1, 13))


def test_a_board_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match=r"pi@board is a rpi4 \(Raspberry Pi 4.*\), not a rpi5"):
        check_board(options(device="rpi5"), oldest_runtime=(1, 13))


def test_without_ssh_nothing_is_checked() -> None:
    check_board(options(ssh=None), oldest_runtime=(9, 9))
    with (
        pytest.raises(InputError, match="--measure: device 'rpi4' is not this machine"),
        open_target(options(ssh=None), oldest_runtime=(1, 13)),
    ):
        pass
