"""Records → tables. The terminal, the page, and the text form all show these, so they cannot differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from edgedistil.core import console
from edgedistil.core.format import ABSENT, duration, gibibytes, mebibytes, millions, number, percent
from edgedistil.core.records import (
    AblationRecord,
    DistillRecord,
    EvaluationRecord,
    ExportRecord,
    HeldoutMlm,
    ModelFacts,
    NotMeasured,
    ParityRecord,
    PlanRecord,
    Retention,
    TaskFacts,
)
from edgedistil.core.rundir import RunDir


@dataclass(frozen=True)
class TableData:
    """A table to be shown anywhere; `notes` stand below it."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

    def show(self) -> None:
        console.table(self.title, self.columns, self.rows)
        for note in self.notes:
            console.result(f"  {note}")


# --- distil -------------------------------------------------------------------------------------------


def model_table(models: Iterable[tuple[str, ModelFacts]]) -> TableData:
    rows = [
        [
            role,
            m.name,
            m.architecture,
            str(m.layers),
            str(m.hidden),
            millions(m.parameters),
            millions(m.encoder_parameters),
        ]
        for role, m in models
    ]
    return TableData(
        "Models",
        ["role", "name", "class", "layers", "hidden", "parameters", "of them encoder"],
        rows,
    )


def heldout_table(heldout: Sequence[HeldoutMlm]) -> TableData:
    rows = [
        [
            h.model,
            str(h.step),
            number(h.mlm_loss_nats),
            percent(h.top1),
            percent(h.agreement),
            number(h.kl_nats),
        ]
        for h in heldout
    ]
    tokens = heldout[0].masked_tokens if heldout else 0
    return TableData(
        "Held-out masked words",
        [
            "model",
            "step",
            "MLM loss (nats)",
            "top-1",
            "agreement with teacher",
            "KL from teacher (nats)",
        ],
        rows,
        [f"the same {tokens} masked tokens of text that nothing was trained on"],
    )


def show_distill(run: RunDir, record: DistillRecord) -> None:
    console.result(f"\nrun {run.name} ({run.path})")
    model_table([("teacher", record.teacher), ("student", record.student)]).show()
    heldout_table(record.heldout).show()
    console.result(
        f"  {record.steps} steps, {record.tokens_seen / 1e6:.2f}M tokens in {duration(record.seconds)}"
        f" ({record.tokens_per_s:.0f} tokens/s); {started_from(record)}"
    )


def started_from(record: DistillRecord) -> str:
    """What the student was before the first step."""
    if record.student_init == "teacher":
        return f"student layers began as teacher layers {', '.join(map(str, record.layer_map))}"
    return (
        "student drawn at random"
        if record.student_init == "random"
        else f"student began as {record.student_init}"
    )


def show_plan(plan: PlanRecord) -> None:
    for table in plan_tables(plan):
        table.show()


def plan_tables(plan: PlanRecord) -> list[TableData]:
    """What would be trained, and what it would take on each device."""
    models = [
        [
            role,
            m.name,
            str(m.layers),
            str(m.hidden),
            str(m.vocabulary),
            millions(m.parameters),
            m.how,
        ]
        for role, m in (("teacher", plan.teacher), ("student", plan.student))
    ]
    devices = [
        [
            d.device,
            d.method,
            str(d.processes),
            str(d.micro_batch),
            ABSENT if isinstance(d.tokens_per_s, NotMeasured) else f"{d.tokens_per_s:,.0f}",
            d.seconds.not_measured if isinstance(d.seconds, NotMeasured) else duration(d.seconds),
            gibibytes(d.memory_bytes),
            gibibytes(d.device_memory_bytes),
            d.how,
        ]
        for d in plan.devices
    ]
    work = (
        f"{plan.tokens / 1e6:,.1f}M tokens in {plan.steps:,} steps of {plan.tokens_per_step:,} tokens;"
        f" the corpus has {plan.corpus_tokens / 1e6:,.1f}M ({plan.corpus_how}); {plan.precision}"
    )
    columns = [
        "device",
        "method",
        "processes",
        "micro-batch",
        "tokens/s",
        "time",
        "GiB needed",
        "GiB there",
        "how",
    ]
    return [
        TableData(
            "Plan",
            ["role", "name", "layers", "hidden", "vocabulary", "parameters", "how"],
            models,
            [work],
        ),
        TableData("What it would take", columns, devices, list(plan.notes)),
    ]


# --- evaluate -------------------------------------------------------------------------------------------


def evaluation_table(record: EvaluationRecord) -> TableData:
    kept = {(r.task, r.model, r.artefact): r for r in record.retentions}
    rows = []
    for s in record.summaries:
        retention = kept.get((s.task, s.model, s.artefact))
        rows.append(
            [
                s.task,
                s.model if s.artefact == "pytorch" else f"{s.model} {s.artefact}",
                f"{100 * s.median:.1f}",
                f"{100 * s.lowest:.1f}–{100 * s.highest:.1f}" if len(s.seeds) > 1 else ABSENT,
                str(len(s.seeds)),
                *_retention_cells(retention),
            ]
        )
    metrics = ", ".join(sorted({f"{s.task}: {s.metric}" for s in record.summaries}))
    return TableData(
        "Fine-tuned on labelled tasks",
        ["task", "model", "median", "range", "seeds", "retention", "of what lies above a constant"],
        rows,
        [f"scores x 100 ({metrics})"],
    )


def _retention_cells(retention: Retention | None) -> list[str]:
    if retention is None:
        return [ABSENT, ABSENT]
    return [
        _with_interval(retention.retention, retention.retention_low, retention.retention_high),
        _with_interval(
            retention.retention_above_baseline,
            retention.retention_above_baseline_low,
            retention.retention_above_baseline_high,
        ),
    ]


def _with_interval(
    value: float | NotMeasured, low: float | NotMeasured, high: float | NotMeasured
) -> str:
    if isinstance(value, NotMeasured):
        return ABSENT
    if isinstance(low, NotMeasured) or isinstance(high, NotMeasured):
        return percent(value)
    return f"{percent(value)} ({percent(low)}–{percent(high)})"


def task_table(record: EvaluationRecord) -> TableData:
    """The tasks as they were used, with the paper's row where there is one."""
    rows = [
        [
            t.title or t.name,
            t.metric,
            f"{t.train_examples:,}",
            f"{t.dev_examples:,}",
            f"{100 * t.baseline:.1f}",
            ABSENT
            if t.paper is None
            else f"{100 * t.paper.teacher:.1f} / {100 * t.paper.student:.1f}",
        ]
        for t in record.tasks
    ]
    notes = list(
        dict.fromkeys(
            f"{t.title or t.name}: {warning}" for t in record.tasks for warning in t.warnings
        )
    )
    notes += [
        note for t in record.tasks for note in (_rates(t, record), _untold(t, record)) if note
    ]
    return TableData(
        "Tasks",
        ["task", "metric", "train", "dev", "constant", "paper: BERT / DistilBERT"],
        rows,
        notes,
    )


def _rates(task: TaskFacts, record: EvaluationRecord) -> str:
    """Which models were fine-tuned at which learning rate, where it is not the same for all."""
    models: dict[float, list[str]] = {}
    for cell in record.cells:
        if cell.task == task.name and "learning_rate" in cell.hyper_parameters:
            at_rate = models.setdefault(float(cell.hyper_parameters["learning_rate"]), [])
            at_rate += [] if cell.model in at_rate else [cell.model]
    if len(models) < 2:
        return ""
    told = "; ".join(f"{rate:g} for {', '.join(names)}" for rate, names in models.items())
    return f"{task.title or task.name}: learning rate {told} ({task.settings_source})"


def _untold(task: TaskFacts, record: EvaluationRecord) -> str:
    """Which models were taught by texts without labels, beyond what the others learnt from."""
    models: dict[int, list[str]] = {}
    for cell in record.cells:
        if cell.task == task.name and int(cell.hyper_parameters.get("unlabelled", 0)):
            given = models.setdefault(int(cell.hyper_parameters["unlabelled"]), [])
            given += [] if cell.model in given else [cell.model]
    told = "; ".join(
        f"{', '.join(names)} from {count:,} texts more" for count, names in models.items()
    )
    return (
        f"{task.title or task.name}: {told}, without labels: the teacher's soft targets alone"
        if told
        else ""
    )


def macro_table(record: EvaluationRecord) -> TableData:
    rows = [
        [m.suite, m.model, _hundredfold(m.score), _hundredfold(m.paper), str(len(m.tasks))]
        for m in record.macros
    ]
    return TableData(
        "Macro-score", ["suite", "model", "score", "paper", "tasks"], rows, [record.macros[0].how]
    )


def artefact_score_table(record: EvaluationRecord) -> TableData:
    """The fine-tuned model as PyTorch and as artefacts: score, drop, size and latency side by side."""
    rows = [
        [
            f"{a.task} {a.model}",
            a.artefact,
            f"{100 * a.median:.1f}",
            f"{100 * a.drop:+.2f}",
            mebibytes(a.bytes),
            ABSENT if isinstance(a.latency_ms, NotMeasured) else f"{a.latency_ms:.1f}",
        ]
        for a in record.artefacts
    ]
    conditions = list(dict.fromkeys(f"latency: {a.latency_conditions}" for a in record.artefacts))
    return TableData(
        "The artefact on the same dev set",
        ["model", "as", "score", "drop", "MiB", "p50 ms"],
        rows,
        conditions,
    )


def ablation_table(record: AblationRecord) -> TableData:
    """What each variation costs against the full recipe, and whether that is more than the noise."""
    rows = [
        [
            v.name,
            f"{100 * v.score:.2f}",
            _hundredfold(v.change, sign=True),
            ABSENT if isinstance(v.change, NotMeasured) else _range(v.change_low, v.change_high),
            _hundredfold(v.spread),
            ABSENT
            if isinstance(v.change, NotMeasured)
            else ("within the noise" if v.within_noise else "real"),
            _hundredfold(v.paper_change, sign=True),
        ]
        for v in record.variations
    ]
    columns = [
        "recipe",
        "score",
        "change",
        "interval",
        "sd over seeds",
        "difference",
        "paper (GLUE)",
    ]
    notes = [
        f"mean of {', '.join(record.tasks)}, {len(record.seeds)} seeds; {record.interval}",
        record.agrees_with_paper,
    ]
    return TableData("Ablation", columns, rows, notes)


def _hundredfold(value: float | NotMeasured, *, sign: bool = False) -> str:
    if isinstance(value, NotMeasured):
        return ABSENT
    return f"{100 * value:+.2f}" if sign else f"{100 * value:.2f}"


def _range(low: float | NotMeasured, high: float | NotMeasured) -> str:
    return f"{_hundredfold(low, sign=True)} … {_hundredfold(high, sign=True)}"


def show_evaluation(run: RunDir, record: EvaluationRecord) -> None:
    console.result(f"\nrun {run.name} ({run.path})")
    if record.tasks:
        task_table(record).show()
    evaluation_table(record).show()
    if record.macros:
        macro_table(record).show()
    if record.artefacts:
        artefact_score_table(record).show()


def show_ablation(run: RunDir, record: AblationRecord) -> None:
    console.result(f"\nrun {run.name} ({run.ablation})")
    ablation_table(record).show()


# --- export ---------------------------------------------------------------------------------------------


Artefacts = Sequence[tuple[ExportRecord, ParityRecord]]


def export_table(artefacts: Artefacts) -> TableData:
    rows = [
        [
            f"{e.model} {e.task}",
            e.precision,
            mebibytes(sum(f.bytes for f in e.files)),
            f"{p.overall.max_abs:.2g}",
            f"{p.overall.mean_abs:.2g}",
            number(p.overall.cosine_min, 5),
            percent(p.overall.agreement),
            "passed" if p.passed else "FAILED",
        ]
        for e, p in artefacts
    ]
    return TableData(
        "Artefacts and their parity with PyTorch",
        [
            "artefact",
            "precision",
            "MiB",
            "max error",
            "mean error",
            "least cosine",
            "agreement",
            "gate",
        ],
        rows,
    )


def parity_length_table(record: ParityRecord) -> TableData:
    rows = [
        [
            str(f.length) if isinstance(f.length, int) else "mixed",
            str(f.sequences),
            f"{f.max_abs:.2g}",
            f"{f.mean_abs:.2g}",
            number(f.cosine_min, 5),
            number(f.cosine_mean, 5),
            number(f.kl_nats, 5),
            percent(f.agreement),
        ]
        for f in record.by_length
    ]
    return TableData(
        f"{record.model} {record.task}, {record.precision}",
        [
            "length",
            "sequences",
            "max error",
            "mean error",
            "least cosine",
            "mean cosine",
            "KL (nats)",
            "agreement",
        ],
        rows,
    )


def tolerance_table(record: ParityRecord) -> TableData:
    rows = [
        [
            r.tolerance.figure,
            f"{r.tolerance.bound} {r.tolerance.value:g}",
            f"{r.got:.3g}",
            "holds" if r.holds else "FAILS",
            r.tolerance.reason,
        ]
        for r in record.results
    ]
    return TableData(
        f"Tolerances of {record.precision}",
        ["figure", "bound", "got", "result", "why this bound"],
        rows,
    )


def show_export(run: RunDir, artefacts: Artefacts) -> None:
    console.result(f"\nrun {run.name} ({run.exports})")
    export_table(artefacts).show()
