"""Validation of destinations, and text of other machines."""

from __future__ import annotations

import pytest

from edgedistil.core.echo import printable
from edgedistil.core.errors import InputError
from edgedistil.runtime.ssh.connection import parse_destination

# Options, shell syntax, and what is not a host name or a port.
HOSTILE = [
    "",
    "-oProxyCommand=touch pwned",
    "--",
    "-l",
    "me@-oProxyCommand=x",
    "-me@host",
    "two words",
    "host;reboot",
    "$(reboot)",
    "`reboot`",
    "host'",
    'ho"st',
    "host\nother",
    "host\n",
    "host|cat",
    "host&",
    "me@host@other",
    "host:",
    "host:0",
    "host:65536",
    "host:22x",
    "[::1",
    "[$(reboot)]",
    "me@",
    "@host",
    "host/path",
    "ssh://host",
    "höst",
    "*",
    "~",
    "h" * 301,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_an_invalid_destination_is_rejected_before_anything_starts(text: str) -> None:
    with pytest.raises(
        InputError,
        match="is not a valid destination: expected host, user@host or user@host:port",
    ) as error:
        parse_destination(text)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("board", ["--", "board"]),
        ("pi@rpi4.local", ["--", "pi@rpi4.local"]),
        ("pi@10.0.0.7:2222", ["-p", "2222", "--", "pi@10.0.0.7"]),
        ("pi@[fe80::1%eth0]:22", ["-p", "22", "--", "pi@fe80::1%eth0"]),
        ("a_b.c-d@e_f-1", ["--", "a_b.c-d@e_f-1"]),
    ],
)
def test_destinations_follow_two_dashes(text: str, arguments: list[str]) -> None:
    assert parse_destination(text).arguments() == arguments


def test_a_destination_is_printed_as_it_was_entered() -> None:
    assert str(parse_destination("pi@rpi4.local:2222")) == "pi@rpi4.local:2222"


def test_text_of_another_machine_cannot_affect_this_terminal() -> None:
    assert printable("a\x1b[2Jb\r\x07c\td\ne") == "a?[2Jb??c\td\ne"
    assert printable("Connection refused\r\n") == "Connection refused\n"
