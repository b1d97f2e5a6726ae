"""The shipped ablations with the long run's teacher, text and task, at a budget of your own.

    python benchmarks/ablation.py --tokens 1000000 --write benchmarks/results

Writes the recipes to ./ablation, runs `edgedistil ablate ablation` on them (what is done already is not done again) and
adds each run's held-out figures: what a loss is worth to the words is seen there long before it is seen in a task.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from edgedistil.ablate import ablate
from edgedistil.core.recipe import Evaluate, Train, load_recipe, write_recipe
from edgedistil.core.records import (
    AblationRecord,
    DistillRecord,
    NotMeasured,
    read_record,
    this_host,
)
from edgedistil.core.rundir import RunDir, runs_root

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1_000_000, help="of each distillation")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", type=Path, metavar="FOLDER")
    asked = parser.parse_args()
    folder = Path("ablation")
    write_recipes(folder, tokens=asked.tokens, seeds=asked.seeds)
    _, record = ablate(folder)
    page = told(record)
    print(page)
    if asked.write is not None:
        (asked.write / f"ablation-{datetime.now(UTC):%Y-%m-%d}.md").write_text(
            page, encoding="utf-8"
        )


def write_recipes(folder: Path, *, tokens: int, seeds: int) -> None:
    """Each shipped variation with what the long run gives: teacher, corpus, task; and the budget."""
    folder.mkdir(exist_ok=True)
    long_run = load_recipe(HERE / "serious.toml")
    for shipped in sorted((HERE.parent / "recipes" / "ablation").glob("*.toml")):
        recipe = load_recipe(shipped)
        changed = {
            "teacher": long_run.teacher,
            "corpus": long_run.corpus,
            "train": Train.model_validate({**recipe.train.model_dump(), "tokens": tokens}),
            "evaluate": Evaluate.model_validate(
                {
                    "tasks": [str(HERE / "tasks" / "sentiment-5k.toml")],
                    "models": ["student"],
                    "seeds": seeds,
                    "epochs": 2,  # of the task's 4: at the student's rate two are 0.4 points below four
                }
            ),
        }
        write_recipe(folder / shipped.name, recipe.model_copy(update=changed))


def told(record: AblationRecord) -> str:
    host = this_host()
    full = record.variations[0]
    versions = ", ".join(
        f"{name} {version}" for name, version in sorted(record.provenance.versions.items())
    )
    lines = [
        f"# Ablations at {full.tokens_seen / 1e6:.1f} million tokens, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"{host.cpu}, {host.cores} cores · {versions}",
        "Command: at the top of `benchmarks/ablation.py`.",
        "Recipes: `recipes/ablation` with teacher and text of `benchmarks/serious.toml`.",
        "",
        f"Score: {', '.join(record.tasks)}, x 100, median of {len(record.seeds)} seeds. Interval: {record.interval}.",
        "Held-out figures: of the same documents and masks for all.",
        "",
        "| recipe | score | change | interval | sd over seeds | noise? | paper, GLUE "
        "| MLM, nats | top-1 | agreement | KL, nats |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in record.variations:
        seen = read_record(RunDir(runs_root() / each.run).distill, DistillRecord).heldout[-1]
        verdict = "" if each is full else ("within it" if each.within_noise else "real")
        lines.append(
            f"| {each.name} | {100 * each.score:.2f} | {points(each.change)} | {points(each.change_low)} … "
            f"{points(each.change_high)} | {points(each.spread)} | {verdict} | {points(each.paper_change)} | "
            f"{seen.mlm_loss_nats:.3f} | {seen.top1:.1%} | {seen.agreement:.1%} | {seen.kl_nats:.3f} |"
        )
    return "\n".join([*lines, "", record.agrees_with_paper]) + "\n"


def points(value: float | NotMeasured) -> str:
    return "—" if isinstance(value, NotMeasured) else f"{100 * value:+.2f}"


if __name__ == "__main__":
    main()
