"""A machine is matched to a device file by its board's name, or by its instruction-set flags."""

from __future__ import annotations

import pytest

from edgedistil.core.device import load_device
from edgedistil.core.errors import InputError
from edgedistil.runtime.machine_facts import MachineIdentity
from edgedistil.runtime.match import identify_board, match_device

VNNI = ["avx2", "fma", "avx512f", "avx512_vnni"]


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        (MachineIdentity(machine="aarch64", board="Raspberry Pi 4 Model B Rev 1.4"), "rpi4"),
        (MachineIdentity(machine="aarch64", board="Raspberry Pi 5 Model B Rev 1.0"), "rpi5"),
        (MachineIdentity(machine="aarch64", board="Raspberry Pi Zero 2 W Rev 1.0"), "zero2w"),
        (MachineIdentity(machine="aarch64", board="Some other board"), None),
        (MachineIdentity(machine="aarch64"), None),
        (MachineIdentity(machine="x86_64", flags=["avx2", "fma"]), "x86-avx2"),
        (MachineIdentity(machine="x86_64", flags=VNNI), "x86-avx512-vnni"),
        (MachineIdentity(machine="x86_64", flags=[*VNNI, "amx_int8"]), "x86-amx"),
        (MachineIdentity(machine="x86_64", flags=["sse2"]), None),
    ],
)
def test_a_machine_is_matched_to_its_device_file(
    identity: MachineIdentity, name: str | None
) -> None:
    spec = match_device(identity)
    assert (spec.name if spec else None) == name


@pytest.mark.parametrize(
    ("device", "board", "name"),
    [
        ("rpi5", "Raspberry Pi 5 Model B Rev 1.0", "rpi5"),
        (None, "Raspberry Pi 5 Model B Rev 1.0", "rpi5"),
        # A board without a device file may be any device.
        ("rpi4", "Some other board", "rpi4"),
    ],
)
def test_a_board_is_the_device_or_matches_one(device: str | None, board: str, name: str) -> None:
    spec = load_device(device) if device is not None else None
    identity = MachineIdentity(machine="aarch64", board=board)
    matching = identify_board(spec, identity, "pi@board")
    assert matching is not None
    assert matching.name == name


def test_a_board_that_is_another_device_is_refused() -> None:
    identity = MachineIdentity(machine="aarch64", board="Raspberry Pi 5 Model B Rev 1.0")
    with pytest.raises(InputError, match=r"pi@board is a rpi5 \(Rasp.*\), not a rpi4\n"):
        identify_board(load_device("rpi4"), identity, "pi@board")
