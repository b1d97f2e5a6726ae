from __future__ import annotations

import hashlib

import pytest

from edgedistil.core.errors import InputError, TargetError
from edgedistil.runtime.ssh.board import check_name, check_whole, signal_of

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
def test_names_that_a_shell_or_a_path_could_misread_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot name a file of a job"):
        check_name(name)


@pytest.mark.parametrize(
    "name",
    ["model.onnx", "student-fill-mask.int8/model_int8.onnx", "inputs.npz", "m/model.onnx_data"],
)
def test_plain_names_pass(name: str) -> None:
    assert check_name(name) == name


def test_a_file_is_whole_when_its_digest_is_right() -> None:
    check_whole(b"all of it", hashlib.sha256(b"all of it").hexdigest(), name="x", source="pi")
    for told in (hashlib.sha256(b"all of").hexdigest(), "", "none", "../../etc"):
        with pytest.raises(TargetError, match=r"pi: x came in half \(9 bytes"):
            check_whole(b"all of it", told, name="x", source="pi")


def test_a_shell_tells_signals_as_statuses_above_128() -> None:
    assert signal_of(137) == "SIGKILL"
    assert signal_of(132) == "SIGILL"
    assert signal_of(255) == "signal 127"
    assert signal_of(128) is None
    assert signal_of(1) is None
