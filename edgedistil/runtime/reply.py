"""Reads a reply, and checks it against the job before anything uses a figure of it.

A board may be broken, or answer something else than it was asked. Its reply has to be JSON of the
right shape, with plausible figures (`protocol`), about the models, cases and phases of the job.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from edgedistil.core.echo import printable
from edgedistil.core.errors import TargetError
from edgedistil.runtime.machine_facts import MachineIdentity
from edgedistil.runtime.protocol import AlternationResult, CaseTimes, Job, ModelResult, Reply

# A case of two million samples, the maximum, takes about 20 MB; a larger reply would only cost the
# host memory.
MAX_REPLY_BYTES = 64 * 2**20
_HINT = "the machine or its Python may be broken: run the job again, or on another machine"
# Clocks differ, and the parts of a total are rounded.
_CLOCK_FACTOR, _CLOCK_S = 1.1, 10.0


def parse_reply(data: bytes, *, source: str, clean: bool = False) -> Reply:
    """Parses and validates a reply.

    Args:
        data: Bytes of reply.json.
        source: Name of the sender in messages: "pi@rpi4.local".
        clean: Replace what could affect a terminal in all its texts: it comes from another machine.
    Raises:
        TargetError: The reply is too large, truncated, not JSON, contains NaN or figures that
            cannot be true, or has another format.
    """
    if len(data) > MAX_REPLY_BYTES:
        raise TargetError(
            f"{source} sent a reply of {len(data)} bytes; the limit is {MAX_REPLY_BYTES}"
        )
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_reject_constant)
        if clean:
            value = clean_texts(value)
    # A reply of 100,000 opening brackets ends in a RecursionError.
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        beginning = data[:80].decode("utf-8", "replace")
        raise TargetError(
            f"{source} sent an unreadable reply: {error}; it begins with {beginning!r}",
            hint="a truncated reply means that the connection failed or the disk there is full: "
            "try again",
        ) from error
    try:
        return Reply.model_validate(value)
    except ValidationError as error:
        raise TargetError(
            f"{source} sent an invalid reply: {_first_problem(error)}", hint=_HINT
        ) from error


def parse_identity(facts: Any, *, source: str) -> MachineIdentity:
    """Validates what a machine reports about itself.

    Raises:
        TargetError: It is not an identity, or cannot be true.
    """
    try:
        return MachineIdentity.model_validate(facts)
    except ValidationError as error:
        raise TargetError(
            f"{source} returned an invalid identity record: {_first_problem(error)}", hint=_HINT
        ) from error


def clean_texts(value: Any) -> Any:
    """Replaces control characters in all texts of a JSON value.

    Raises:
        RecursionError: It is nested too deeply.
    """
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): clean_texts(item) for key, item in value.items()}
    # Lists of numbers, which are long, have nothing to replace.
    if isinstance(value, list) and any(isinstance(item, (str, list, dict)) for item in value):
        return [clean_texts(item) for item in value]
    return value


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the reply"
    return f"{place}: {first['msg']}"


def _reject_constant(name: str) -> Any:
    """Raises ValueError for NaN and the infinities, which are not JSON."""
    raise ValueError(f"{name} is not a number")


# --- a reply and its job -------------------------------------------------------------------------


def check_reply(reply: Reply, job: Job, *, source: str, elapsed_s: float) -> None:
    """Raises if a reply cannot be the result of a job.

    Args:
        reply: The reply.
        job: The job that was sent.
        source: Name of the sender in messages.
        elapsed_s: Seconds from sending the job to its reply, on this host's clock.
    Raises:
        TargetError: It lacks or contradicts what the job asked for.
    """
    problem = next(_problems(reply, job, elapsed_s), None)
    if problem is not None:
        raise TargetError(f"{source} sent an invalid reply: {problem}", hint=_HINT)


def _problems(reply: Reply, job: Job, elapsed_s: float) -> Iterator[str]:
    """Yields what is wrong with a reply, in words."""
    for label in reply.models:
        if label not in job.models:
            yield f"it is about '{label}', which the job did not ask for"
    if reply.ok and reply.error is not None:
        yield f"it reports success, and a failure: {reply.error.message}"
    measured_s = sum(_total_ns(result) for result in reply.models.values()) / 1e9
    if measured_s > _CLOCK_FACTOR * elapsed_s + _CLOCK_S:
        yield f"its calls take {measured_s:.0f} s, and it was sent after {elapsed_s:.0f} s"
    for label, result in reply.models.items():
        yield from _case_problems(label, result, job)
    for turns in reply.alternation:
        blocks_ns = sum(sum(block.first_ns) + sum(block.second_ns) for block in turns.blocks)
        if blocks_ns > turns.wall_ns:
            yield f"'{turns.name}' took {turns.wall_ns} ns, and its calls {blocks_ns} ns"
    # A job that failed has what was observed before.
    if reply.ok:
        yield from _missing_parts(reply, job)


def _total_ns(result: ModelResult) -> int:
    """Time of everything that was timed of a model."""
    cases = sum(case.wall_ns for case in result.cases.values())
    return cases + (result.load_ns or 0) + (result.first_call_ns or 0)


def _case_problems(label: str, result: ModelResult, job: Job) -> Iterator[str]:
    names = {case.name for case in job.cases}
    for name, case in result.cases.items():
        if name not in names:
            yield f"'{label}' has the case '{name}', which the job did not ask for"
        yield from _time_problems(f"case '{name}' of '{label}'", case)


def _time_problems(name: str, case: CaseTimes) -> Iterator[str]:
    if not case.samples_ns:
        yield f"{name} has no calls"
    # Its calls are a part of it.
    if sum(case.samples_ns) > case.wall_ns:
        yield f"{name} took {case.wall_ns} ns, and its calls {sum(case.samples_ns)} ns"


def _missing_parts(reply: Reply, job: Job) -> Iterator[str]:
    """Yields what a successful reply lacks."""
    for label in job.models:
        if label not in reply.models:
            yield f"it says nothing about '{label}'"
            continue
        result = reply.models[label]
        if "trace" in job.phases:
            calls = sum(len(case.keys) for case in job.cases)
            if len(result.runs) != calls:
                yield f"'{label}' has {len(result.runs)} runs, expected {calls}"
            continue
        if "sustained" in job.phases and result.sustained is None:
            yield f"'{label}' has no sustained calls"
        if "steady" in job.phases and len(result.cases) < len(job.cases):
            yield f"'{label}' has {len(result.cases)} of {len(job.cases)} cases"
    if "outputs" in job.phases and reply.outputs is None:
        yield "it has no outputs"
    results = {result.name: result for result in reply.alternation}
    for alternation in job.alternate:
        result_or_none = results.get(alternation.name)
        if result_or_none is None:
            yield f"it has no blocks of '{alternation.name}'"
        elif _models(result_or_none) != (alternation.first, alternation.second):
            yield f"'{alternation.name}' is about other models"


def _models(result: AlternationResult) -> tuple[str, str]:
    return result.first, result.second
