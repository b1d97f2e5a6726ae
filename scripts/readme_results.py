"""Renders README's table of results from raw records in benchmarks/results.

`scripts/update_docs.py` writes the table between two marks of README.md, so no figure is typed:

    edgedistil run tiny --run demo
    python benchmarks/raw_record.py runs/demo --name demo
    python benchmarks/latency_in_turns.py --run demo
    python scripts/update_docs.py

Without the record of a demo there is no table.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MARKS = ("<!-- results -->", "<!-- end of results -->")
ABSENT = "–"

Raw = Mapping[str, Any]


def readme_page() -> str:
    """Returns README.md with the table of the newest records."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    table = results_table(newest("demo"), newest("latency_in_turns"))
    return f"{before}{MARKS[0]}\n{table}{MARKS[1]}{after}"


def newest(stem: str) -> tuple[str, Raw] | None:
    """Returns name and content of the newest record with a stem; None without any."""
    # Dates of the form 2026-11-30 sort as text.
    paths = sorted(RESULTS.glob(f"{stem}-[0-9]*.json"))
    if not paths:
        return None
    return paths[-1].name, json.loads(paths[-1].read_text(encoding="utf-8"))


def results_table(demo: tuple[str, Raw] | None, turns: tuple[str, Raw] | None) -> str:
    """Returns verdicts and figures of a demo as Markdown; empty without a record.

    Args:
        demo: Name and content of a record of benchmarks/raw_record.py.
        turns: The same of benchmarks/latency_in_turns.py, for the times; None leaves them out.
    """
    if demo is None:
        return ""
    name, raw = demo
    measured = raw["measured"]
    lines = [
        f"`edgedistil run tiny` on {measured['machine']}, {measured['cores']} cores,"
        f" {measured['date']} ([record](benchmarks/results/{name})):",
        "",
        "| claim | verdict | figure |",
        "|---|---|---|",
        *_verdict_lines(raw),
        "",
        "| | teacher | student | student, int8 |",
        "|---|---|---|---|",
        *_size_lines(raw),
    ]
    if turns is not None:
        lines += _time_lines(turns[1])
    lines += [*_heldout_lines(raw), *_search_lines(raw), *_score_lines(raw), ""]
    if turns is not None:
        lines += [*_turns_table(*turns), ""]
    return "\n".join(lines)


def _verdict_lines(raw: Raw) -> Iterator[str]:
    """Yields the report's own verdicts on the paper's claims."""
    from edgedistil.core.distill_records import DistillRecord
    from edgedistil.core.evaluation_records import EvaluationRecord
    from edgedistil.core.profile_records import ProfileRecord
    from edgedistil.report.load import RunResults
    from edgedistil.report.verdicts import judge_claims

    evaluation = None
    if "evaluation" in raw:
        known = set(EvaluationRecord.model_fields)
        fields = {key: value for key, value in raw["evaluation"].items() if key in known}
        # The raw cells hold predictions; verdicts need none of them.
        fields |= {"cells": [], "summaries": []}
        evaluation = EvaluationRecord.model_validate(fields)
    # Verdicts need the claims; the rows of a raw record lack their samples.
    claims = [{**profile, "rows": []} for profile in raw["profiles"]]
    results = RunResults(
        name="demo",
        distill=DistillRecord.model_validate(raw["distill"]),
        corpus=None,
        trim=None,
        trace=[],
        heldout_trace=[],
        evaluation=evaluation,
        ablation=None,
        exports=[],
        parities=[],
        profiles=[ProfileRecord.model_validate(profile) for profile in claims],
        recipe="",
    )
    for verdict in judge_claims(results):
        yield f"| {verdict.title} | {verdict.word} | {verdict.figure} |"


# --- figures -------------------------------------------------------------------------------------

# Columns: role and precision of an encoder.
_ENCODERS = (("teacher", "fp32"), ("student", "fp32"), ("student", "int8"))


def _size_lines(raw: Raw) -> Iterator[str]:
    teacher, student = (raw["distill"][role]["encoder_parameters"] for role in _ROLES)
    cells = [f"{teacher / 1e6:.1f}M", f"{student / 1e6:.1f}M", f"{student / 1e6:.1f}M"]
    yield _line("parameters of the encoder", cells)
    exports = {(e["model"], e["precision"]): e for e in raw["exports"] if e["task"] == _ENCODER}
    sizes = [exports.get(key, {}).get("bytes") for key in _ENCODERS]
    yield _line("encoder on disk", [_mebibytes(size) for size in sizes])
    rows = [row for profile in raw["profiles"] for row in _measured_rows(profile)]
    peaks = {(row["role"], row["precision"]): row["peak_memory_bytes"] for row in rows}
    yield _line("peak memory of its process", [_mebibytes(peaks.get(key)) for key in _ENCODERS])


_ROLES = ("teacher", "student")
_ENCODER = "feature-extraction"


def _measured_rows(profile: Raw) -> list[Raw]:
    """Rows of encoders on this machine, with one thread and no pass over pairs."""
    if profile["method"] != "measured" or profile["device"] != "host":
        return []
    rows = [row for row in profile["rows"] if (row["task"], row["threads"]) == (_ENCODER, 1)]
    return [row for row in rows if row["length"] != "sentence-pairs"]


def _heldout_lines(raw: Raw) -> Iterator[str]:
    """Yields what the models do on held-out text, and what the layers do undistilled."""
    for figure, title, render in _HELDOUT:
        # The last entry of a model counts: the student's trace has one for each evaluation.
        figures = {
            _entry_name(entry): entry[figure]
            for entry in raw["distill"]["heldout"]
            if isinstance(entry.get(figure), float)
        }
        if all(role in figures for role in _ROLES):
            yield _line(title, [*(render(figures[role]) for role in _ROLES), ABSENT])
        if _UNDISTILLED in figures:
            yield _line(_BASELINE, [ABSENT, render(figures[_UNDISTILLED]), ABSENT])


# Figure of a held-out entry, title of its line, format.
_HELDOUT: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("top1_hidden", "words behind a [MASK], right", "{:.1%}".format),
    ("rank_correlation", "similarities of held-out texts, rank correlation", "{:.3f}".format),
)
_UNDISTILLED = "student-step0"
_BASELINE = "&emsp;the same layers, not distilled"


def _entry_name(entry: Raw) -> str:
    """Name of a model in a held-out entry; the student at step 0 is the undistilled one."""
    is_start = entry["model"] == "student" and entry.get("step") == 0
    return _UNDISTILLED if is_start else str(entry["model"])


def _search_lines(raw: Raw) -> Iterator[str]:
    """Yields nDCG@10 of each collection, with its interval over the queries."""
    scores = raw.get("evaluation", {}).get("retrieval", [])
    for name in dict.fromkeys(score["collection"] for score in scores):
        of_model = {score["model"]: score for score in scores if score["collection"] == name}
        columns = [_ndcg(of_model.get(model)) for model in ("teacher", "student", "student int8")]
        yield _line(f"search in `{name}`, nDCG@10 × 100", columns)
        if _UNDISTILLED in of_model:
            yield _line(_BASELINE, [ABSENT, _ndcg(of_model[_UNDISTILLED]), ABSENT])
        if "static" in of_model:
            words = "&emsp;the teacher's word vectors alone, weighted mean"
            yield _line(words, [_ndcg(of_model["static"]), ABSENT, ABSENT])


def _ndcg(score: Raw | None) -> str:
    if score is None:
        return ABSENT
    figures = (score["metrics"]["ndcg@10"], score["low"], score["high"])
    value, low, high = (f"{100 * figure:.1f}" for figure in figures)
    return f"{value} ({low}–{high})"


def _score_lines(raw: Raw) -> Iterator[str]:
    """Yields the mean score over the seeds of each task, with its range."""
    cells = raw.get("evaluation", {}).get("cells", [])
    for task in dict.fromkeys(cell["task"] for cell in cells):
        of_task = [cell for cell in cells if cell["task"] == task]
        reference = "teacher-as-given"
        if reference not in {cell["model"] for cell in of_task}:
            reference = "teacher"
        columns = [_scores(of_task, model) for model in (reference, "student")]
        yield _line(f"{task}, {of_task[0]['metric']} × 100", [*columns, ABSENT])


def _scores(cells: Sequence[Raw], model: str) -> str:
    scores = [100 * cell["score"] for cell in cells if cell["model"] == model]
    if not scores:
        return ABSENT
    span = f"{len(scores)} seeds: {min(scores):.1f}–{max(scores):.1f}"
    return f"{statistics.fmean(scores):.1f} ({span if len(scores) > 1 else 'one seed'})"


def _time_lines(raw: Raw) -> Iterator[str]:
    """Yields p50 of the three encoders; the two of a pair took turns in each process."""
    speed, deploy = (raw["pairs"].get(f"{kind} encoders") for kind in ("speed", "deploy"))
    cells = [ABSENT] * len(_ENCODERS)
    if speed is not None and speed["processes"]:
        cells[:2] = [_p50(speed, "first_ns"), _p50(speed, "second_ns")]
    if deploy is not None and deploy["processes"]:
        cells[2] = _p50(deploy, "second_ns")
    yield _line(f"p50 at {raw['settings']['length']} tokens, one thread", cells)


def _p50(pair: Raw, side: str) -> str:
    """Median over the processes of each one's median call."""
    medians = [
        statistics.median([ns for block in blocks for ns in block[side]])
        for blocks in pair["processes"]
    ]
    return f"{statistics.median(medians) / 1e6:.1f} ms"


def _turns_table(name: str, raw: Raw) -> Iterator[str]:
    """Yields the times of models that took turns, and their ratios with intervals."""
    from edgedistil.profiling.latency import speed_ratio

    settings = raw["settings"]
    yield (
        f"Times at {settings['length']} tokens of models that took turns in {settings['processes']}"
        f" processes, one thread ([record](benchmarks/results/{name})):"
    )
    yield from ("", "| | first | second | first / second, with its interval |", "|---|---|---|---|")
    for pair in raw["pairs"].values():
        processes = [
            [(sum(block["first_ns"]), sum(block["second_ns"])) for block in blocks]
            for blocks in pair["processes"]
        ]
        ratio = "too few undisturbed processes"
        if len(processes) >= settings["processes"]:
            figure = speed_ratio(processes)
            ratio = f"{figure.value:.2f} ({figure.low:.2f}–{figure.high:.2f})"
        names = ", ".join(_short(pair[side]) for side in ("first", "second"))
        yield _line(names, [_p50(pair, "first_ns"), _p50(pair, "second_ns"), ratio])


def _short(label: str) -> str:
    """Name of an encoder without its task."""
    return label.replace(f"-{_ENCODER}.", " ")


def _mebibytes(value: Any) -> str:
    return f"{value / 2**20:.0f} MiB" if isinstance(value, int | float) else ABSENT


def _line(title: str, cells: Sequence[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"
