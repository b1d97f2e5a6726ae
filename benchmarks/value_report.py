"""What distillation is worth: figures, intervals and verdict from the records of value_judge.py.

    python benchmarks/value_report.py [--write benchmarks/results]

The rule is in benchmarks/value/README.md, which was written before any arm was trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from page import argument_parser, measured_lines, today, write_page, write_raw
from value_judge import FINE_TUNED, FOLDER
from value_scores import (
    DRAWN_TASKS,
    Floats,
    PairScores,
    Record,
    accuracies,
    correlations,
    difference_noise,
    few_label_scores,
    mean_of,
    ndcg_of_ranks,
    text_scores,
)

from edgedistil.core import markdown
from edgedistil.core.format import ABSENT, hundredths, millions, percent, with_interval
from edgedistil.evaluate.retention import SeedScores, t_interval

TEACHER, CONTROL = "teacher", "A0"
DECIDING_ARMS = ("A1", "A2")
DISTILLATIONS = 3
# Two arms are two tries.
LEVEL = 0.975

# Name of an arm → its records, one for each distillation.
Arms = Mapping[str, Sequence[Record]]


@dataclass(frozen=True)
class Measure:
    """A figure that arms are compared by.

    Attributes:
        name: Name on the page.
        part: Part of the rule, a to c.
        scores: Returns the scores of an arm's records.
        decides: Whether the verdict depends on it.
    """

    name: str
    part: str
    scores: Callable[[Sequence[Record]], SeedScores | PairScores]
    decides: bool = False


@dataclass(frozen=True)
class Difference:
    """An arm minus the control in one measure; without bounds where there is no interval."""

    measure: Measure
    value: float
    low: float | None
    high: float | None

    @property
    def outcome(self) -> str:
        """Whether the arm is ahead or behind by more than the interval."""
        if self.low is None or self.high is None:
            return "no interval"
        if self.low > 0:
            return "ahead"
        return "behind" if self.high < 0 else "inconclusive"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--records", type=Path, default=FOLDER, help="folder of the records")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="for the dated result page")
    arguments = parser.parse_args()
    arms = read_arms(arguments.records)
    everything = measures(arms)
    differences = dict(differences_from_control(arms, everything))
    page = render(arms, everything, differences)
    print(page)
    if arguments.write is not None:
        write_page(arguments.write, "value", page)
        means, rows = mean_rows(arms, everything), raw_rows(differences)
        write_raw(arguments.write, "value", {"means": means, "differences": rows})


def read_arms(folder: Path) -> dict[str, list[Record]]:
    """Reads all records of a folder, by arm, in the order of names and seeds."""
    arms: dict[str, list[Record]] = {}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        arms.setdefault(record["arm"], []).append(record)
    for name in (TEACHER, CONTROL):
        if name not in arms:
            raise SystemExit(f"{folder} has no record of {name}; write it with value_judge.py")
    return arms


# --- measures ------------------------------------------------------------------------------------


def measures(arms: Arms) -> list[Measure]:
    """Returns the measures of the rule; those of (c) where records have them."""
    of_teacher = np.array(arms[TEACHER][0]["cosines"])
    collections = {
        "verses": lambda record: ndcg_of_ranks(record["ranks"]),
        "code": lambda record: np.array(record["ndcg"]["code"]),
        "manual": lambda record: np.array(record["ndcg"]["manual"]),
    }
    searches = [
        Measure(f"nDCG@10, {name}", "a", _of_texts(values)) for name, values in collections.items()
    ]
    few = [Measure(f"{task}, 1,000 labels, frozen", "b", _frozen(task)) for task in DRAWN_TASKS]
    tuned = [
        Measure(f"{task}, {labels:,} labels, fine-tuned", "c", _tuned(task, labels))
        for task in DRAWN_TASKS
        for labels in FINE_TUNED
        if all("fine_tuned" in record for record in arms[CONTROL])
    ]
    return [
        Measure("rank correlation", "a", lambda arm: correlations(arm, of_teacher), decides=True),
        _mean("nDCG@10, mean of the three", "a", searches),
        *searches,
        _mean("1,000 labels, frozen, mean of the two", "b", few),
        *few,
        *tuned,
    ]


def _mean(name: str, part: str, parts: Sequence[Measure]) -> Measure:
    """The mean of several measures of texts, which decides."""

    def scores(arm: Sequence[Record]) -> SeedScores:
        return mean_of([cast(SeedScores, measure.scores(arm)) for measure in parts])

    return Measure(name, part, scores, decides=True)


def _of_texts(values: Callable[[Record], Floats]) -> Callable[[Sequence[Record]], SeedScores]:
    return lambda arm: text_scores(np.stack([values(record) for record in arm]))


def _frozen(task: str) -> Callable[[Sequence[Record]], SeedScores]:
    return lambda arm: few_label_scores(arm, task)


def _tuned(task: str, labels: int) -> Callable[[Sequence[Record]], SeedScores]:
    return lambda arm: accuracies([record["fine_tuned"][task][str(labels)] for record in arm])


# --- comparison and verdict ----------------------------------------------------------------------


def differences_from_control(
    arms: Arms, everything: Sequence[Measure]
) -> Iterator[tuple[str, list[Difference]]]:
    """Yields each arm's name and its differences."""
    for name, arm in arms.items():
        if name not in (TEACHER, CONTROL):
            of_this = of_arm(everything, arm)
            yield name, [compare(arm, arms[CONTROL], measure) for measure in of_this]


def mean_rows(arms: Arms, everything: Sequence[Measure]) -> list[dict[str, Any]]:
    """Each arm's means before any rounding."""
    return [
        {"arm": name, "measure": measure.name, "is": measure.scores(arm).mean}
        for name, arm in arms.items()
        for measure in of_arm(everything, arm)
    ]


def raw_rows(differences: Mapping[str, Sequence[Difference]]) -> list[dict[str, Any]]:
    """The differences before any rounding."""
    return [
        {
            "arm": name,
            "measure": one.measure.name,
            "is": one.value,
            "low": one.low,
            "high": one.high,
        }
        for name, of_this in differences.items()
        for one in of_this
    ]


def compare(arm: Sequence[Record], control: Sequence[Record], measure: Measure) -> Difference:
    """Compares an arm with the control."""
    # The control is one model, which no seed changes.
    ours, theirs = measure.scores(arm), replace(measure.scores(control), trained=False)
    value = ours.mean - theirs.mean
    interval = t_interval(value, difference_noise(ours, theirs), level=LEVEL)
    if not isinstance(interval.low, float) or not isinstance(interval.high, float):
        return Difference(measure, value, None, None)
    return Difference(measure, value, interval.low, interval.high)


def verdict(name: str, arm: Sequence[Record], differences: Sequence[Difference]) -> str:
    """States what the rule says of an arm."""
    if len(arm) < DISTILLATIONS:
        return f"{name}: no verdict, {len(arm)} of {DISTILLATIONS} distillations"
    deciding = [difference.outcome for difference in differences if difference.measure.decides]
    outcome = "inconclusive"
    if all(one == "ahead" for one in deciding):
        outcome = "distillation helps"
    elif "behind" in deciding:
        outcome = "distillation harms"
    behind = [
        difference.measure.name
        for difference in differences
        if difference.measure.part in "ab"
        and not difference.measure.decides
        and difference.outcome == "behind"
    ]
    return f"{name}: {outcome}" + (f"; behind on {', '.join(behind)}" if behind else "")


# --- page ----------------------------------------------------------------------------------------


def render(
    arms: Arms, everything: Sequence[Measure], differences: Mapping[str, Sequence[Difference]]
) -> str:
    """Renders the result page."""
    verdicts = [
        f"- {verdict(name, arms[name], differences[name])}"
        for name in DECIDING_ARMS
        if name in arms
    ]
    parts = [
        f"# What distillation is worth, {today()}",
        measured_lines(record for arm in arms.values() for record in arm),
        "Arms and rule: `benchmarks/value/README.md`, written before the runs; the method of the "
        "rank correlation's interval is newer. Records: `benchmarks/results/value`.",
        "\n".join(verdicts) or "No deciding arm was judged.",
        "## Figures",
        markdown.table(("arm", "distillations", "tokens", "cloze"), list(arm_rows(arms))),
        markdown.table(("", *arms), list(figure_rows(everything, arms))),
        "× 100; means over the distillations. Cloze: top-1 behind a real [MASK] on held-out text.",
        f"## Differences from {CONTROL}, with intervals of {LEVEL:.1%}",
        markdown.table(
            ("", "decides", *differences), list(difference_rows(everything, differences))
        ),
    ]
    return "\n\n".join(parts) + "\n"


def of_arm(everything: Sequence[Measure], arm: Sequence[Record]) -> list[Measure]:
    """Returns the measures that all records of an arm have."""
    is_tuned = all("fine_tuned" in record for record in arm)
    return [measure for measure in everything if measure.part != "c" or is_tuned]


def arm_rows(arms: Arms) -> Iterator[tuple[str, str, str, str]]:
    """Yields name, distillations, tokens and cloze of each arm."""
    for name, arm in arms.items():
        cloze = [record["cloze"] for record in arm if record["cloze"] is not None]
        yield (
            name,
            str(len(arm)) if name not in (TEACHER, CONTROL) else ABSENT,
            millions(arm[0]["tokens"]) if arm[0]["tokens"] else ABSENT,
            percent(float(np.mean(cloze))) if cloze else ABSENT,
        )


def figure_rows(everything: Sequence[Measure], arms: Arms) -> Iterator[tuple[str, ...]]:
    """Yields each measure's mean for each arm."""
    for measure in everything:
        figures = [
            hundredths(measure.scores(arm).mean, 1)
            if measure in of_arm(everything, arm)
            else ABSENT
            for arm in arms.values()
        ]
        yield measure.name, *figures


def difference_rows(
    everything: Sequence[Measure], differences: Mapping[str, Sequence[Difference]]
) -> Iterator[tuple[str, ...]]:
    """Yields each measure's differences with their intervals."""
    for measure in everything:
        cells = []
        for of_this in differences.values():
            of_measure = [one for one in of_this if one.measure is measure]
            cells.append(_cell(of_measure[0]) if of_measure else ABSENT)
        yield measure.name, "yes" if measure.decides else "", *cells


def _cell(difference: Difference) -> str:
    if difference.low is None or difference.high is None:
        return f"{hundredths(difference.value, 1, sign=True)} (no interval)"
    figures = with_interval(difference.value, difference.low, difference.high, _signed)
    return f"{figures}: {difference.outcome}"


def _signed(value: Any) -> str:
    return hundredths(value, 1, sign=True)


if __name__ == "__main__":
    main()
