"""Matches a machine's reported identity to a device file."""

from __future__ import annotations

from edgedistil.core.device import DeviceSpec, device_names, load_device
from edgedistil.core.errors import DeviceFileError
from edgedistil.runtime.protocol import MachineIdentity


def match_device(identity: MachineIdentity) -> DeviceSpec | None:
    """The device file that a machine fits: by its board's name, else (x86) by its instruction-set flags."""
    for name in device_names():
        try:
            spec = load_device(name)
        except DeviceFileError:
            continue  # a broken file of the user's must not hide the others; `devices` tells its problems
        if matches(spec, identity):
            return spec
    return None


def matches(spec: DeviceSpec, identity: MachineIdentity) -> bool:
    wanted = spec.identity
    if identity.machine != wanted.machine:
        return False
    if wanted.boards:
        return any((identity.board or "").startswith(board) for board in wanted.boards)
    flags = set(identity.flags)
    return (
        bool(wanted.flags)
        and flags.issuperset(wanted.flags)
        and not flags.intersection(wanted.without_flags)
    )
