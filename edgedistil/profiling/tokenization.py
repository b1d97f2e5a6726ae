"""Time that turning a text into token ids takes on this machine, next to the time of a call."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgedistil.core.echo import echo, printable
from edgedistil.core.errors import InputError, TargetError
from edgedistil.core.format import plural
from edgedistil.core.processes import ending_with_this_process
from edgedistil.core.profile_records import ProfileRow
from edgedistil.core.records import Figure, NotMeasured
from edgedistil.core.rundir import sha256_file
from edgedistil.core.tokenizer import TextTokenizer, read_tokenizer
from edgedistil.core.tokenizer_files import TOKENIZER_FILE
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.workload import PAIRS, Workload, Workloads
from edgedistil.runtime.browser.target import PAGE_TOKENIZER_FILES, BrowserTarget

_WARMUP_CALLS = 5
# A browser compiles a function after some dozens of calls.
_PAGE_WARMUP_CALLS = 60
# As many as the p95 of a steady case needs: a text takes some 0.1 ms.
_CALLS = 60
_PAIRS = NotMeasured(not_measured="measured for single texts")
_NO_MODULE = NotMeasured(not_measured="the artefact's folder has no tokenizer in JavaScript")
_OTHER_TOKENIZER = NotMeasured(not_measured="the C++ bundle has another tokenizer")
# Program of a compiled C++ bundle.
_CPP_PROGRAM = Path("build", "time_texts")
# Far above the second that reading the largest tokenizer and all calls take.
_CPP_TIMEOUT_S = 120.0
_COMPILE_HINT = "compile it: cmake -S FOLDER -B FOLDER/build && cmake --build FOLDER/build"

# Length → texts of so many tokens.
Texts = Mapping[int, Sequence[str]]
# Gets the folder of a tokenizer and texts; returns the median milliseconds of a text by length.
Timer = Callable[[Path, Texts], Mapping[int, Figure]]


def add_tokenization(
    rows: Sequence[ProfileRow], artefacts: Sequence[Artefact], workloads: Workloads
) -> list[ProfileRow]:
    """Returns rows of this machine with the tokenization times of their texts.

    Args:
        rows: Rows of a profile of this machine.
        artefacts: The artefacts of the rows.
        workloads: Their inputs; the texts are those that the tokens decode to.
    Conditions:
        The tokenizers library in this process, one text at a time, special tokens and character
        offsets included; the median of 60 calls after 5, over the texts of a length.
    """
    figures = _figures(rows, artefacts, workloads, _time_in_python)
    return [
        row.model_copy(update={"tokenization_ms": figure, "tokenization_in": "Python"})
        for row, figure in zip(rows, figures, strict=True)
    ]


def add_page_tokenization(
    rows: Sequence[ProfileRow],
    artefacts: Sequence[Artefact],
    workloads: Workloads,
    target: BrowserTarget,
) -> list[ProfileRow]:
    """Returns rows of a browser with the tokenization times of their texts.

    Args:
        rows: Rows of a profile in a browser.
        artefacts: The artefacts of the rows.
        workloads: Their inputs, as for `add_tokenization`.
        target: The browser.
    Conditions:
        The export's own module in a page, one text at a time; the median of 60 calls after 60.
    """

    def time_in_page(folder: Path, texts: Texts) -> Mapping[int, Figure]:
        if not all((folder / name).is_file() for name in PAGE_TOKENIZER_FILES):
            return dict.fromkeys(texts, _NO_MODULE)
        try:
            samples = target.time_texts(folder, texts, warmup=_PAGE_WARMUP_CALLS, calls=_CALLS)
        # The rows are measured, whether or not the tokenizer has all parts in JavaScript.
        except TargetError as error:
            return dict.fromkeys(texts, NotMeasured(not_measured=error.message))
        return {length: statistics.median(times) for length, times in samples.items()}

    figures = _figures(rows, artefacts, workloads, time_in_page)
    return [
        row.model_copy(update={"tokenization_ms": figure, "tokenization_in": "JavaScript"})
        for row, figure in zip(rows, figures, strict=True)
    ]


def add_cpp_tokenization(
    rows: Sequence[ProfileRow], artefacts: Sequence[Artefact], workloads: Workloads, bundle: Path
) -> list[ProfileRow]:
    """Returns rows of this machine with the tokenization times of a C++ bundle.

    Args:
        rows: Rows of a profile of this machine.
        artefacts: The artefacts of the rows.
        workloads: Their inputs, as for `add_tokenization`.
        bundle: A bundle in C++, compiled in its folder build.
    Raises:
        InputError: The bundle is not compiled, or has the tokenizer of no artefact.
    Conditions:
        The bundle's library in a process of its own, one text at a time; the median of 60 calls
        after 5.
    """
    require_cpp_program(bundle)
    # A bundle's tokenizer is a copy; the graph may be another precision's.
    digest = sha256_file(bundle / "model" / TOKENIZER_FILE)

    def time_in_cpp(folder: Path, texts: Texts) -> Mapping[int, Figure]:
        path = folder / TOKENIZER_FILE
        if not path.is_file() or sha256_file(path) != digest:
            return dict.fromkeys(texts, _OTHER_TOKENIZER)
        return _time_in_cpp(bundle, texts)

    figures = _figures(rows, artefacts, workloads, time_in_cpp)
    # The user named a bundle, so a profile without its times is not what was asked for.
    if all(figure in (_OTHER_TOKENIZER, _PAIRS) for figure in figures):
        raise InputError(
            f"{bundle} has the tokenizer of none of the artefacts",
            hint="make the bundle from an export of this run",
        )
    return [
        row.model_copy(update={"tokenization_cpp_ms": figure})
        for row, figure in zip(rows, figures, strict=True)
    ]


def require_cpp_program(bundle: Path) -> None:
    """Raises InputError if a folder is not a compiled bundle in C++."""
    for path in (bundle / "model" / TOKENIZER_FILE, bundle / "CMakeLists.txt"):
        if not path.is_file():
            raise InputError(
                f"{bundle} is not a bundle in C++: it has no {path.relative_to(bundle)}",
                hint="edgedistil bundle --for cpp makes one",
            )
    if not (bundle / _CPP_PROGRAM).is_file():
        raise InputError(f"{bundle} has no {_CPP_PROGRAM}", hint=_COMPILE_HINT)


def _figures(
    rows: Sequence[ProfileRow],
    artefacts: Sequence[Artefact],
    workloads: Workloads,
    timer: Timer,
) -> list[Figure]:
    """Times the texts of every tokenizer, and returns the time of each row."""
    times: dict[Path, Mapping[int, Figure]] = {}
    for folder in {artefact.tokenizer for artefact in artefacts}:
        tokenizer = read_tokenizer(folder)
        workload = workloads.by_tokenizer[folder]
        texts = {length: _texts(tokenizer, workload, length) for length in workload.lengths}
        times[folder] = timer(folder, texts)
    folders = {artefact.sha256: artefact.tokenizer for artefact in artefacts}
    return [
        _PAIRS if row.length == PAIRS else times[folders[row.artefact_sha256]][int(row.length)]
        for row in rows
    ]


def _texts(tokenizer: TextTokenizer, workload: Workload, length: int) -> list[str]:
    """Returns texts of a number of tokens."""
    # The workload has token ids only; special tokens come back when the text is tokenized.
    rows = [workload.inputs[key]["input_ids"][0].tolist() for key in workload.lengths[length]]
    return [tokenizer.backend.decode(ids, skip_special_tokens=True) for ids in rows]


def _time_in_python(folder: Path, texts: Texts) -> Mapping[int, Figure]:
    tokenizer = read_tokenizer(folder)
    return {length: _time_ms(tokenizer, group) for length, group in texts.items()}


def _time_ms(tokenizer: TextTokenizer, texts: Sequence[str]) -> float:
    """Returns the median milliseconds of a call."""
    samples = []
    for number in range(_WARMUP_CALLS + _CALLS):
        text = texts[number % len(texts)]
        started = time.perf_counter_ns()
        tokenizer.backend.encode(text)
        samples.append(time.perf_counter_ns() - started)
    return statistics.median(samples[_WARMUP_CALLS:]) / 1e6


def _time_in_cpp(bundle: Path, texts: Texts) -> Mapping[int, Figure]:
    program = bundle / _CPP_PROGRAM
    output = _run_cpp_program(program, bundle / "model" / TOKENIZER_FILE, texts)
    return dict(zip(texts, _parse_times(output, len(texts), program), strict=True))


def _run_cpp_program(program: Path, tokenizer: Path, texts: Texts) -> str:
    """Returns what a bundle's program prints; raises InputError if it fails or does not end."""
    # One process for all lengths: starting it takes longer than its calls.
    command = [str(program.resolve()), str(tokenizer), str(_CALLS)]
    try:
        done = subprocess.run(  # noqa: S603 - the program of the user's own bundle
            ending_with_this_process(command),
            input="".join(f"{json.dumps(list(group))}\n" for group in texts.values()),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=_CPP_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"{program} did not end within {error.timeout:g} s", hint=_COMPILE_HINT
        ) from error
    if done.returncode != 0:
        # The last line of a program that could not be started is the system's error.
        lines = done.stderr.strip().splitlines()
        reason = printable(lines[-1]) if lines else f"exit code {done.returncode}"
        raise InputError(f"{program} failed: {reason}", hint=_COMPILE_HINT)
    return done.stdout


def _parse_times(output: str, count: int, program: Path) -> list[float]:
    """Returns the milliseconds in a program's output; raises InputError if it is anything else."""
    try:
        times = [float(word) for word in output.split()]
    except ValueError:
        times = []
    if len(times) != count or not all(0 <= time_ms < math.inf for time_ms in times):
        raise InputError(
            f"{program} printed '{echo(output.strip())}', expected {plural(count, 'time')} in "
            "milliseconds",
            hint="make the bundle again with edgedistil bundle --for cpp, and compile it",
        )
    return times
