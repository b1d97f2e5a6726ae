from __future__ import annotations

import pytest

from edgedistil.core.errors import InputError
from edgedistil.runtime.ssh.connection import parse_destination, printable

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
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_no_destination_is_refused_before_anything_starts(text: str) -> None:
    with pytest.raises(
        InputError, match="is no destination: expected host, user@host or user@host:port"
    ) as told:
        parse_destination(text)
    assert told.value.exit_code == 2


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
def test_destinations_stand_behind_two_dashes(text: str, arguments: list[str]) -> None:
    assert parse_destination(text).arguments() == arguments


def test_a_destination_is_told_as_it_was_given() -> None:
    assert str(parse_destination("pi@rpi4.local:2222")) == "pi@rpi4.local:2222"


def test_text_of_another_machine_cannot_move_this_terminal() -> None:
    assert printable("a\x1b[2Jb\r\x07c\td\ne") == "a?[2Jb??c\td\ne"
    assert printable("Connection refused\r\n") == "Connection refused\n"
