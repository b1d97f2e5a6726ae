"""Checks of names, digests and statuses that come from or go to a board."""

from __future__ import annotations

import hashlib

import pytest

from edgedistil.core.errors import InputError, TargetError
from edgedistil.runtime.ssh.board import check_name, check_sha256, signal_of

# What a shell or a path would not read as a plain file name.
HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "a/../b",
    "/etc/passwd",
    "a/b/c",
    "-rf",
    "a/-rf",
    "a b",
    "a;b",
    "$(x)",
    "`x`",
    "a'b",
    "a\nb",
    "ü",
    ".hidden",
    "a/",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_a_shell_or_a_path_could_misread_are_rejected(name: str) -> None:
    with pytest.raises(InputError, match="is not a valid name of a job's file"):
        check_name(name)


@pytest.mark.parametrize(
    "name",
    ["model.onnx", "student-fill-mask.int8/model_int8.onnx", "inputs.npz", "m/model.onnx_data"],
)
def test_plain_names_pass(name: str) -> None:
    assert check_name(name) == name


def test_a_file_is_complete_when_its_digest_is_right() -> None:
    digest = hashlib.sha256(b"all of it").hexdigest()
    check_sha256(b"all of it", digest, name="x", source="pi")
    for wrong in (hashlib.sha256(b"all of").hexdigest(), "", "none", "../../etc"):
        with pytest.raises(
            TargetError, match="pi: transfer of x incomplete: sha256 mismatch after 9 bytes"
        ):
            check_sha256(b"all of it", wrong, name="x", source="pi")


def test_a_shell_reports_signals_as_statuses_above_128() -> None:
    assert signal_of(137) == "SIGKILL"
    assert signal_of(132) == "SIGILL"
    assert signal_of(255) == "signal 127"
    assert signal_of(128) is None
    assert signal_of(1) is None
