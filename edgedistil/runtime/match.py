"""Matches a machine's reported identity to a device file."""

from __future__ import annotations

from edgedistil.core.device import DeviceSpec, device_names, load_device
from edgedistil.core.errors import DeviceFileError, InputError
from edgedistil.runtime.machine_facts import MachineIdentity


def match_device(identity: MachineIdentity) -> DeviceSpec | None:
    """Returns the device file of a machine; None if no file matches.

    A board matches by its name; an x86 machine, which has no board name, by its instruction-set
    flags.
    """
    for name in device_names():
        try:
            spec = load_device(name)
        except DeviceFileError:
            # An invalid file of the user's must not hide the others; `devices` reports it.
            continue
        if matches(spec, identity):
            return spec
    return None


def matches(spec: DeviceSpec, identity: MachineIdentity) -> bool:
    """Whether a device file describes a machine."""
    expected = spec.identity
    if identity.machine != expected.machine:
        return False
    # A prefix, because boards append their revision: "Raspberry Pi 4 Model B Rev 1.4".
    if expected.boards:
        return any((identity.board or "").startswith(board) for board in expected.boards)
    if not expected.flags:
        return False
    flags = set(identity.flags)
    return flags.issuperset(expected.flags) and flags.isdisjoint(expected.without_flags)


def identify_board(
    spec: DeviceSpec | None, identity: MachineIdentity, source: str
) -> DeviceSpec | None:
    """Returns a board's device: the one of --device, or else the one that matches.

    Raises:
        InputError: The board is another device than --device says.
    """
    matching = match_device(identity)
    # A wrong --device would put this board's figures under another board's name.
    if spec is not None and matching is not None and matching.name != spec.name:
        board = identity.board or identity.cpu
        raise InputError(
            f"{source} is a {matching.name} ({board}), not a {spec.name}",
            hint=f"use --device {matching.name}",
        )
    return spec or matching
