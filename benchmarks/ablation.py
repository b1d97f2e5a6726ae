"""The shipped ablation recipes with the teacher, text and task of the long run, on a small budget.

    python benchmarks/ablation.py --tokens 1000000 --write benchmarks/results

Writes the recipes to ./ablation and does what `edgedistil ablate ablation` does; completed runs
are not repeated. The page adds the held-out figures of each run: they show the effect of a loss on
masked tokens long before a labelled task does.
"""

from __future__ import annotations

from pathlib import Path

from page import argument_parser, host_line, today, version_list, write_page, write_raw

from edgedistil.ablate import ablate
from edgedistil.core.distill_records import DistillRecord, HeldoutMlm
from edgedistil.core.evaluation_records import AblationRecord, Variation
from edgedistil.core.format import ABSENT, hundredths, number, percent
from edgedistil.core.options import TaskOptions
from edgedistil.core.places import runs_root
from edgedistil.core.recipe import Recipe, Train, load_recipe, write_recipe
from edgedistil.core.recipe_stages import Evaluate
from edgedistil.core.records import NotMeasured, read_record
from edgedistil.core.rundir import RunDir

HERE = Path(__file__).resolve().parent
# Of the task's 4 epochs: at the student's learning rate, two score 0.4 points below four.
EPOCHS = 2
COLUMNS = (
    "recipe",
    "score",
    "change",
    "interval",
    "sd over seeds",
    "difference",
    "paper, GLUE",
    "MLM, nats",
    "top-1",
    "agreement",
    "KL, nats",
)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="of each distillation")
    parser.add_argument("--seeds", type=int, default=3, help="of each fine-tuning")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="for the dated result page")
    arguments = parser.parse_args()
    folder = Path("ablation")
    write_recipes(folder, tokens=arguments.tokens, seeds=arguments.seeds)
    _, record = ablate(folder, TaskOptions())
    page = render(record)
    print(page)
    if arguments.write is not None:
        write_page(arguments.write, "ablation", page)
        heldout = {variation.name: heldout_of(variation) for variation in record.variations}
        write_raw(arguments.write, "ablation", {"ablation": record, "heldout": heldout})


def write_recipes(folder: Path, *, tokens: int, seeds: int) -> None:
    """Writes each shipped variation with the long run's teacher and corpus, and the budget."""
    folder.mkdir(exist_ok=True)
    long_run = load_recipe(HERE / "serious.toml")
    for path in sorted((HERE.parent / "recipes" / "ablation").glob("*.toml")):
        recipe = _with_budget(load_recipe(path), long_run, tokens=tokens, seeds=seeds)
        write_recipe(folder / path.name, recipe)


def _with_budget(recipe: Recipe, long_run: Recipe, *, tokens: int, seeds: int) -> Recipe:
    evaluate = {
        "tasks": [str(HERE / "tasks" / "sentiment-5k.toml")],
        "models": ["student"],
        "seeds": seeds,
        "epochs": EPOCHS,
    }
    changes = {
        "teacher": long_run.teacher,
        "corpus": long_run.corpus,
        "train": Train.model_validate({**recipe.train.model_dump(), "tokens": tokens}),
        "evaluate": Evaluate.model_validate(evaluate),
    }
    return recipe.model_copy(update=changes)


def render(record: AblationRecord) -> str:
    """Renders the result page."""
    full = record.variations[0]
    lines = [
        f"# Ablations at {full.tokens_seen / 1e6:.1f} million tokens, {today()}",
        "",
        f"{host_line()} · {version_list(record.provenance.versions)}",
        "Command: at the top of `benchmarks/ablation.py`.",
        "Recipes: `recipes/ablation` with teacher and text of `benchmarks/serious.toml`.",
        "",
        f"Score: {', '.join(record.tasks)}, × 100, median of {len(record.seeds)} seeds."
        f" Interval: {record.interval}.",
        "Held-out figures: on the same documents and masks for all.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + "---|" * len(COLUMNS),
    ]
    lines += [f"| {' | '.join(cells(variation))} |" for variation in record.variations]
    return "\n".join([*lines, "", record.agrees_with_paper]) + "\n"


def heldout_of(variation: Variation) -> HeldoutMlm:
    """Held-out figures of a variation's student after training."""
    run = RunDir(runs_root() / variation.run)
    return read_record(run.distill, DistillRecord).heldout[-1]


def cells(variation: Variation) -> list[str]:
    """Cells of a variation's row: its score, its change, and its held-out figures."""
    heldout = heldout_of(variation)
    difference = ABSENT
    if not isinstance(variation.change, NotMeasured):
        difference = "within noise" if variation.within_noise else "significant"
    low = hundredths(variation.change_low, sign=True)
    high = hundredths(variation.change_high, sign=True)
    return [
        variation.name,
        hundredths(variation.score),
        hundredths(variation.change, sign=True),
        f"{low} … {high}",
        hundredths(variation.spread),
        difference,
        hundredths(variation.paper_change, sign=True),
        number(heldout.mlm_loss_nats),
        percent(heldout.top1),
        percent(heldout.agreement),
        number(heldout.kl_nats),
    ]


if __name__ == "__main__":
    main()
