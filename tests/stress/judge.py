"""Rules that the outcome of every hostile input has to keep."""

from __future__ import annotations

import re
import unicodedata

from tests.stress.case import Case, Outcome

# Signs of an exception or a crash that no code of ours handled.
_CRASHES = (
    "Traceback (most recent call last)",
    "panicked at",
    "Aborted!",
    "Segmentation fault",
    "core dumped",
    "terminate called",
    "Fatal Python error",
)
# A message quotes at most 200 characters of a value; ours are filled with one letter or digit.
_LONG_ECHO = re.compile(r"(\S)\1{300,}")
# Longer than any line that a person reads; the console cuts lines of messages at 1,000 characters.
_LINE_LIMIT = 2500


def problems(case: Case, outcome: Outcome) -> list[str]:
    """Returns what is wrong with an outcome, as a kind and a detail; empty if nothing is."""
    if outcome.ended_for:
        return [outcome.ended_for]
    text = outcome.output.decode("utf-8", "replace")
    checks = (
        *_crash(text),
        *_exit_code(case, outcome),
        *_message(case, outcome, text),
        *_control_characters(text),
        *_long_lines(text),
        *(f"files: {problem}" for problem in outcome.wrong_files[:3]),
        *(f"outside: wrote {path}" for path in outcome.outside[:3]),
        *(f"TMPDIR: left {name}" for name in outcome.leftovers[:3]),
        *(f"process: left {command}" for command in outcome.processes[:3]),
    )
    return list(checks)


def kind(problem: str) -> str:
    """Returns the column of a problem in the table."""
    return problem.partition(":")[0]


def _crash(text: str) -> list[str]:
    signs = [sign for sign in _CRASHES if sign in text]
    if not signs:
        return []
    last = text.strip().splitlines()[-1]
    return [f"traceback: {last[:200]}"]


def _exit_code(case: Case, outcome: Outcome) -> list[str]:
    if outcome.code in case.codes:
        return []
    expected = " or ".join(map(str, case.codes))
    return [f"code: {outcome.code} instead of {expected}"]


def _message(case: Case, outcome: Outcome, text: str) -> list[str]:
    if outcome.code == 0:
        return []
    missing = [part for part in case.expected if part not in text]
    silent = [] if text.strip() else ["message: there is no message"]
    return [*silent, *(f"message: does not contain {part!r}" for part in missing)]


def _control_characters(text: str) -> list[str]:
    bad = {c for c in text if c not in "\n\t" and unicodedata.category(c) == "Cc"}
    # Marks of direction reorder a line on the terminal.
    bad |= {c for c in text if c in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068"}
    return [f"control: {c!a} is printed" for c in sorted(bad)][:3]


def _long_lines(text: str) -> list[str]:
    longest = max(map(len, text.splitlines()), default=0)
    if longest > _LINE_LIMIT:
        return [f"echo: a line of {longest} characters"]
    match = _LONG_ECHO.search(text)
    return [f"echo: {len(match[0])} times {match[1]!r}"] if match else []
