"""Versions of onnxruntime that crash on a machine are rejected before they are started."""

from __future__ import annotations

import pytest

from edgedistil.core.device import load_device
from edgedistil.core.errors import TargetError
from edgedistil.runtime.compatibility import check_runtime_compatible
from edgedistil.runtime.machine_facts import MachineIdentity

OLD = MachineIdentity(machine="aarch64", onnxruntime="1.21.0", flags=["fp", "asimd", "crc32"])
NEW = MachineIdentity(machine="aarch64", onnxruntime="1.21.0", flags=["fp", "asimd", "asimddp"])


def test_1_21_0_is_rejected_by_features_on_a_board_without_a_device_file() -> None:
    with pytest.raises(
        TargetError, match=r"pi: onnxruntime 1\.21\.0 cannot run .* dies with SIGILL on ARMv8\.0"
    ) as error:
        check_runtime_compatible(OLD, None, source="pi")
    assert "install another version there" in str(error.value)


def test_it_runs_on_a_core_with_dot_products() -> None:
    check_runtime_compatible(NEW, None, source="pi")
    check_runtime_compatible(NEW, load_device("rpi5"), source="pi")


def test_a_device_file_can_exclude_versions_of_its_own() -> None:
    with pytest.raises(TargetError, match="dies with SIGILL"):
        check_runtime_compatible(NEW, load_device("rpi4"), source="pi")


@pytest.mark.parametrize("version", ["1.22.0", "1.32.0", None])
def test_other_versions_pass(version: str | None) -> None:
    check_runtime_compatible(
        OLD.model_copy(update={"onnxruntime": version}), load_device("rpi4"), source="pi"
    )


def test_a_machine_that_reports_no_features_is_not_rejected() -> None:
    check_runtime_compatible(
        MachineIdentity(machine="x86_64", onnxruntime="1.21.0", flags=["avx2"]), None, source="pc"
    )
    check_runtime_compatible(
        MachineIdentity(machine="aarch64", onnxruntime="1.21.0"), None, source="mac"
    )
