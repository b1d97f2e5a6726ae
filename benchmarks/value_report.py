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
from value_data import COLLECTIONS, FEW_LABELS, Ints, judged_groups
from value_judge import FINE_TUNED, FOLDER
from value_scores import (
    DRAWN_TASKS,
    Floats,
    PairScores,
    Record,
    TextScores,
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
from edgedistil.evaluate.retention import t_interval

TEACHER, CONTROL = "teacher", "A0"
DECIDING_ARMS = ("A1", "A2")
DISTILLATIONS = 3
# Two arms are two tries.
LEVEL = 0.975
# Tokens of the longest run for each token of the shortest: steps have different numbers of them.
_EQUAL_BUDGETS = 1.02
# Arms of the rule that need not be judged, and parts that records may lack.
_OTHER_ARMS = {"A3": "the paper's losses", "A4": "the paper's losses on a changed teacher"}

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
    scores: Callable[[Sequence[Record]], TextScores | PairScores]
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
    measures = all_measures(arms, judged_groups())
    differences = dict(differences_from_control(arms, measures))
    page = render(arms, measures, differences)
    print(page)
    if arguments.write is not None:
        write_page(arguments.write, "value", page)
        means, rows = mean_rows(arms, measures), raw_rows(differences)
        write_raw(arguments.write, "value", {"means": means, "differences": rows})


def read_arms(folder: Path) -> dict[str, list[Record]]:
    """Reads all records of a folder, by arm, in the order of names and seeds.

    Raises:
        SystemExit: Teacher or control are missing, or records do not belong together.
    """
    arms: dict[str, list[Record]] = {}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        arms.setdefault(record["arm"], []).append(record)
    for name in (TEACHER, CONTROL):
        if name not in arms:
            raise SystemExit(f"{folder} has no record of {name}; write it with value_judge.py")
    check_records(arms)
    return arms


def check_records(arms: Arms) -> None:
    """Raises SystemExit unless all students are different ones of one teacher and one budget."""
    [teacher] = arms[TEACHER]
    budgets = []
    for name, arm in arms.items():
        if len({record["weights_sha256"] for record in arm}) < len(arm):
            raise SystemExit(f"two records of arm {name} are of the same weights")
        for record in arm:
            if record["teacher_sha256"] != teacher["weights_sha256"]:
                raise SystemExit(f"{name}, seed {record['seed']}: of another teacher")
            if record["tokens"] > 0:
                budgets.append(record["tokens"])
    if budgets and max(budgets) > _EQUAL_BUDGETS * min(budgets):
        raise SystemExit(f"students of {min(budgets):,} to {max(budgets):,} tokens do not compare")


# --- measures ------------------------------------------------------------------------------------


def all_measures(arms: Arms, groups: Mapping[str, Ints]) -> list[Measure]:
    """Returns the measures of the rule; those of (c) where records have them.

    Args:
        arms: All arms.
        groups: Name of a collection or a task → groups of its queries or judged texts; where one
            is missing, each is alone.
    """
    of_teacher = np.array(arms[TEACHER][0]["cosines"])
    values: dict[str, Callable[[Record], Floats]] = {
        "verses": lambda record: ndcg_of_ranks(record["ranks"])
    }
    values |= {name: _of_collection(name) for name in COLLECTIONS}
    searches = [
        Measure(f"nDCG@10, {name}", "a", _of_texts(of_query, groups.get(name)))
        for name, of_query in values.items()
    ]
    frozen = f"{FEW_LABELS:,} labels, frozen"
    few = [
        Measure(f"{task}, {frozen}", "b", _frozen(task, groups.get(task))) for task in DRAWN_TASKS
    ]
    # Judged on one fold, of which the groups are few: each text counts as one.
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
        _mean(f"{frozen}, mean of the two", "b", few),
        *few,
        *tuned,
    ]


def _mean(name: str, part: str, parts: Sequence[Measure]) -> Measure:
    """The mean of several measures of texts, which decides."""

    def scores(arm: Sequence[Record]) -> TextScores:
        return mean_of([cast(TextScores, measure.scores(arm)) for measure in parts])

    return Measure(name, part, scores, decides=True)


def _of_collection(name: str) -> Callable[[Record], Floats]:
    return lambda record: np.array(record["ndcg"][name])


def _of_texts(
    values: Callable[[Record], Floats], group_N: Ints | None
) -> Callable[[Sequence[Record]], TextScores]:
    return lambda arm: text_scores(np.stack([values(record) for record in arm]), group_N)


def _frozen(task: str, group_N: Ints | None) -> Callable[[Sequence[Record]], TextScores]:
    return lambda arm: few_label_scores(arm, task, group_N)


def _tuned(task: str, labels: int) -> Callable[[Sequence[Record]], TextScores]:
    return lambda arm: accuracies([record["fine_tuned"][task][str(labels)] for record in arm])


# --- comparison and verdict ----------------------------------------------------------------------


def differences_from_control(
    arms: Arms, measures: Sequence[Measure]
) -> Iterator[tuple[str, list[Difference]]]:
    """Yields each arm's name and its differences."""
    for name, arm in arms.items():
        if name not in (TEACHER, CONTROL):
            of_arm = measures_of(arm, measures)
            yield name, [compare(arm, arms[CONTROL], measure) for measure in of_arm]


def mean_rows(arms: Arms, measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """Each arm's means before any rounding."""
    return [
        {"arm": name, "measure": measure.name, "is": measure.scores(arm).mean}
        for name, arm in arms.items()
        for measure in measures_of(arm, measures)
    ]


def raw_rows(differences: Mapping[str, Sequence[Difference]]) -> list[dict[str, Any]]:
    """The differences before any rounding."""
    return [
        {
            "arm": name,
            "measure": difference.measure.name,
            "is": difference.value,
            "low": difference.low,
            "high": difference.high,
        }
        for name, of_arm in differences.items()
        for difference in of_arm
    ]


def compare(arm: Sequence[Record], control: Sequence[Record], measure: Measure) -> Difference:
    """Compares an arm with the control."""
    # The control is one model, which no seed changes.
    of_arm, of_control = measure.scores(arm), replace(measure.scores(control), trained=False)
    value = of_arm.mean - of_control.mean
    interval = t_interval(value, difference_noise(of_arm, of_control), level=LEVEL)
    if not isinstance(interval.low, float) or not isinstance(interval.high, float):
        return Difference(measure, value, None, None)
    return Difference(measure, value, interval.low, interval.high)


def verdict(name: str, arm: Sequence[Record], differences: Sequence[Difference]) -> str:
    """States what the rule says of an arm."""
    if len(arm) < DISTILLATIONS:
        return f"{name}: no verdict, {len(arm)} of {DISTILLATIONS} distillations"
    deciding = [difference.outcome for difference in differences if difference.measure.decides]
    outcome = "inconclusive"
    if all(word == "ahead" for word in deciding):
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
    arms: Arms, measures: Sequence[Measure], differences: Mapping[str, Sequence[Difference]]
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
        "Arms and rule: `benchmarks/value/README.md`, written before the runs; how intervals take "
        "texts of one source and few draws into account is newer, and wider. "
        "Records: `benchmarks/results/value`.",
        "\n".join(verdicts) or "No deciding arm was judged.",
        "\n".join(f"- {absent}" for absent in not_judged(arms)),
        "## Figures",
        markdown.table(("arm", "distillations", "tokens", "cloze"), list(arm_rows(arms))),
        markdown.table(("", *arms), list(figure_rows(measures, arms))),
        "× 100; means over the distillations. Cloze: top-1 behind a real [MASK] on held-out text.",
        f"## Differences from {CONTROL}, with intervals of {LEVEL:.1%}",
        markdown.table(("", "decides", *differences), list(difference_rows(measures, differences))),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def not_judged(arms: Arms) -> Iterator[str]:
    """Yields what the rule names and no record has."""
    for name, description in _OTHER_ARMS.items():
        if name not in arms:
            yield f"{name}, {description}: not judged"
    students = [record for name, arm in arms.items() if name != TEACHER for record in arm]
    if not all("fine_tuned" in record for record in students):
        yield "(c), fine-tuned with few labels: not judged for every arm"


def measures_of(arm: Sequence[Record], measures: Sequence[Measure]) -> list[Measure]:
    """Returns the measures that all records of an arm have."""
    is_tuned = all("fine_tuned" in record for record in arm)
    return [measure for measure in measures if measure.part != "c" or is_tuned]


def arm_rows(arms: Arms) -> Iterator[tuple[str, str, str, str]]:
    """Yields name, distillations, tokens and cloze of each arm."""
    for name, arm in arms.items():
        cloze = [record["cloze"] for record in arm if record["cloze"] is not None]
        tokens = float(np.mean([record["tokens"] for record in arm]))
        yield (
            name,
            str(len(arm)) if name not in (TEACHER, CONTROL) else ABSENT,
            millions(tokens) if tokens else ABSENT,
            percent(float(np.mean(cloze))) if cloze else ABSENT,
        )


def figure_rows(measures: Sequence[Measure], arms: Arms) -> Iterator[tuple[str, ...]]:
    """Yields each measure's mean for each arm."""
    for measure in measures:
        figures = [
            hundredths(measure.scores(arm).mean, 1)
            if measure in measures_of(arm, measures)
            else ABSENT
            for arm in arms.values()
        ]
        yield measure.name, *figures


def difference_rows(
    measures: Sequence[Measure], differences: Mapping[str, Sequence[Difference]]
) -> Iterator[tuple[str, ...]]:
    """Yields each measure's differences with their intervals."""
    for measure in measures:
        cells = []
        for of_arm in differences.values():
            of_measure = [row for row in of_arm if row.measure is measure]
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
