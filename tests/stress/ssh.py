"""`--ssh`: hostile destinations, and boards that fail, print noise or send false replies."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.stress.case import DEVICE, DONE, INPUT, Case, Prepare
from tests.stress.files import both, copies, writes
from tests.stress.values import ESCAPE, LONG
from tests.stress.world import STUDENT_GRAPH, World

GROUP = "ssh"
_DESTINATIONS = {
    "empty": "",
    "blank": " ",
    "option": "-oProxyCommand=touch${IFS}pwned",
    "option as user": "-l@host",
    "shell": "$(touch pwned)@host",
    "backticks": "`touch pwned`",
    "semicolon": "host;touch pwned",
    "two users": "a@b@c",
    "no host": "user@",
    "port 0": "host:0",
    "port 65536": "host:65536",
    "port text": "host:x",
    "no port": "host:",
    "url": "ssh://host",
    "path": "host/../x",
    "lines": "host\ntouch pwned",
    "nul as text": "host%00",
    "escape": ESCAPE,
    "long": LONG,
    "direction": "a\u202eb",
    "letters of other alphabets": "h\xf6st",
    "unclosed address": "[::1",
    "jump": "a,b",
    "tilde": "~host",
}
# An ssh client that creates its control socket as the real one does, then behaves as FAKE_SSH says.
_CLIENT = r"""#!{python}
import os, random, subprocess, sys, time
mode = os.environ["FAKE_SSH"]
words = sys.argv[1:]
if "-N" in words:
    if mode in REFUSALS:
        sys.stderr.write(REFUSALS[mode])
        sys.exit(255)
    open(words[words.index("-S") + 1], "w").close()
    while os.getppid() != 1:
        time.sleep(0.05)
    sys.exit(0)
command = words[-1]
if mode == "silent":
    sys.exit(0)
if mode == "refuses commands":
    sys.exit(255)
if mode == "noise":
    os.write(1, bytes(range(256)) * 4000)
    sys.exit(0)
if mode == "escapes":
    os.write(1, b"\x1b[31m\x07" * 1000)
    os.write(2, b"\x1b[31mno \x07 shell\r\n")
    sys.exit(1)
if mode == "flood":
    for _ in range(4000):
        os.write(1, b"x" * 2**20)
    sys.exit(0)
board = os.path.join(os.environ["FAKE_HOME"], "board")
environment = dict(os.environ, HOME=board, PATH=board + "/bin:" + os.environ["FAKE_PATH"])
if mode == "login noise":
    os.write(1, b"Welcome \x1b[31m" * 100)
if mode == "drops" and "job.json" in command and "timeout -k" in command:
    sys.exit(255)
sys.exit(subprocess.run(command, shell=True, env=environment).returncode)
"""
_REFUSALS = {
    "refused": "ssh: connect to host h port 22: Connection refused\r\n",
    "unknown key": "Host key verification failed.\r\n",
    "denied": "user@h: Permission denied (publickey).\r\n",
    "no reason": "",
    "escapes in the reason": "\x1b[31mbad \x07 thing\r\n",
    "long reason": "x" * 100_000,
}
# A python3 of the board that runs the real one, and then changes what it wrote.
_PYTHON = r"""#!/bin/sh
case "$FAKE_SSH:$*" in
  "no python:"*) exit 127 ;;
  "old python:"*"print("*) echo 2.7; exit 0 ;;
  "python prints noise:"*) printf '\033[31mnoise\n'; exit 0 ;;
  "describes nothing:"*runpy*) echo; exit 0 ;;
  "describes a list:"*runpy*) echo '[1]'; exit 0 ;;
  "describes deeply:"*runpy*) "{python}" -c "print('[' * 50000)"; exit 0 ;;
  "describes numbers:"*runpy*) echo '{{"machine": 1}}'; exit 0 ;;
  "describes escapes:"*runpy*)
    "{python}" "$@" | sed 's/Linux/\\u001b[31m/'
    exit 0 ;;
  "dies of a signal:"*job.json*) kill -9 $$ ;;
  "writes no reply:"*job.json*) exit 0 ;;
esac
"{python}" "$@"
status=$?
case "$*" in
  *job.json*) "{python}" "$FAKE_HOME/false_reply.py" "$FAKE_SSH" reply.json ;;
esac
exit $status
"""
# Changes a reply; the seed chooses one value of it.
_FALSE_REPLY = r"""
import json, random, sys
mode, path = sys.argv[1:]
try:
    text = open(path).read()
except OSError:
    sys.exit(0)
reply = json.loads(text)
FIXED = {
    "reply empty": "",
    "reply noise": "\x00\x1b[31m",
    "reply a list": "[]",
    "reply deep": "[" * 100000,
    "reply cut": text[: len(text) // 2],
    "reply null": "null",
}
def change(value, edit):
    if isinstance(value, dict):
        return {key: change(item, edit) for key, item in value.items()}
    if isinstance(value, list):
        return [change(item, edit) for item in value]
    return edit(value)
def number(new):
    return lambda v: new if isinstance(v, (int, float)) and not isinstance(v, bool) else v
if mode in FIXED:
    open(path, "w").write(FIXED[mode])
elif mode == "all figures 0":
    json.dump(change(reply, number(0)), open(path, "w"))
elif mode == "all figures 10^30":
    json.dump(change(reply, number(1e30)), open(path, "w"))
elif mode == "all figures NaN":
    json.dump(change(reply, number(float("nan"))), open(path, "w"))
elif mode == "all figures negative":
    json.dump(change(reply, number(-5)), open(path, "w"))
elif mode == "texts with escapes":
    json.dump(change(reply, lambda v: "\x1b[31m\x07" if isinstance(v, str) else v), open(path, "w"))
elif mode == "no models":
    json.dump({**reply, "models": {}}, open(path, "w"))
elif mode == "other model":
    json.dump(json.loads(text.replace("model-other", "another")), open(path, "w"))
elif mode.startswith("one value "):
    places = []
    def walk(value, place):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            places.append((value, key))
            if isinstance(item, (dict, list)):
                walk(item, (*place, key))
    walk(reply, ())
    chosen = random.Random(mode)
    holder, key = chosen.choice(places)
    holder[key] = chosen.choice([None, [], {}, "x", -1, 1e30, True, float("nan")])
    json.dump(reply, open(path, "w"))
"""
_BOARDS = (
    "no python",
    "old python",
    "python prints noise",
    "describes nothing",
    "describes a list",
    "describes deeply",
    "describes numbers",
    "dies of a signal",
    "writes no reply",
    "drops",
    "silent",
    "refuses commands",
    "noise",
    "escapes",
    "flood",
    "reply empty",
    "reply noise",
    "reply a list",
    "reply deep",
    "reply cut",
    "reply null",
    "all figures 0",
    "all figures 10^30",
    "all figures NaN",
    "all figures negative",
    "no models",
    "other model",
)
# Sound boards with unusual words, and replies of which one value may not matter.
_LENIENT = ("login noise", "describes escapes", "texts with escapes", "sound")
_SINGLE_VALUES = 14


def cases(world: World, _random: Random) -> Iterator[Case]:
    """Yields the cases of this group."""
    package = copies(world, str(Path(STUDENT_GRAPH).parent.parent))
    for name, destination in _DESTINATIONS.items():
        arguments = ("profile", "--model", STUDENT_GRAPH, f"--ssh={destination}")
        yield Case(GROUP, f"destination {name}", arguments, (INPUT,), package)
    arguments = ("devices", "probe", "--ssh=a b")
    yield Case(GROUP, "probe of a bad destination", arguments, (INPUT,))
    arguments = (
        "profile",
        "--model",
        STUDENT_GRAPH,
        "--ssh=user@board",
        "--length=8",
        "--threads=1",
    )
    no_ssh = {"PATH": "{work}/nothing"}
    yield Case(GROUP, "no ssh program", arguments, (DEVICE,), package, environment=no_ssh)
    board = both(package, _fake_board())
    modes = [(mode, (DEVICE,)) for mode in (*_REFUSALS, *_BOARDS)]
    modes += [(mode, (DONE, DEVICE)) for mode in _LENIENT]
    modes += [(f"one value {number}", (DONE, DEVICE)) for number in range(_SINGLE_VALUES)]
    for mode, codes in modes:
        environment = {
            "PATH": "{work}/client:{path}",
            "FAKE_PATH": "{path}",
            "FAKE_HOME": "{work}",
            "FAKE_SSH": mode,
        }
        yield Case(
            GROUP,
            f"board: {mode}",
            arguments,
            codes,
            board,
            check=_is_clean,
            environment=environment,
        )


def _fake_board() -> Prepare:
    client = _CLIENT.replace("{python}", sys.executable).replace(
        "mode = os", f"REFUSALS = {_REFUSALS!r}\nmode = os", 1
    )
    scripts = writes(
        {
            "client/ssh": client,
            "board/bin/python3": _PYTHON.format(python=sys.executable),
            "false_reply.py": _FALSE_REPLY,
        }
    )

    def prepare(work: Path, random: Random) -> None:
        scripts(work, random)
        for name in ("client/ssh", "board/bin/python3"):
            (work / name).chmod(0o755)

    return prepare


def _is_clean(work: Path) -> list[str]:
    """Returns what remained on the board."""
    return [
        f"the board has {path.name}" for path in (work / "board").iterdir() if path.name != "bin"
    ]
