"""Tables of a distillation and of its plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgedistil.core.distill_records import (
    DistillRecord,
    HeldoutFigures,
    HeldoutMlm,
    HeldoutVectors,
    ModelFacts,
    PlannedDevice,
    PlannedModel,
    PlanRecord,
)
from edgedistil.core.family import FAMILIES
from edgedistil.core.format import (
    duration,
    gibibytes,
    millions,
    number,
    percent,
    planned_duration,
    rate,
)
from edgedistil.core.records import NotMeasured
from edgedistil.report.table import TableData


def model_table(models: Iterable[tuple[str, ModelFacts]]) -> TableData:
    """Sizes of models, counted on their weights.

    Args:
        models: (role, facts) of each model.
    """
    rows = [[role, *_model_cells(model)] for role, model in models]
    columns = [
        "role",
        "name",
        "architecture",
        "layers",
        "hidden",
        "parameters",
        "encoder parameters",
    ]
    return TableData("Models", columns, rows)


def _model_cells(model: ModelFacts) -> list[str]:
    return [
        model.name,
        model.architecture,
        str(model.layers),
        str(model.hidden),
        millions(model.parameters),
        millions(model.encoder_parameters),
    ]


def heldout_table(heldout: Sequence[HeldoutFigures]) -> TableData:
    """Figures on held-out text, one row per model and step: sentence vectors or masked tokens."""
    vectors = [figures for figures in heldout if isinstance(figures, HeldoutVectors)]
    if vectors:
        return _vector_table(vectors)
    return _masked_table([figures for figures in heldout if isinstance(figures, HeldoutMlm)])


def _vector_table(heldout: Sequence[HeldoutVectors]) -> TableData:
    rows = [
        [
            figures.model,
            str(figures.step),
            number(figures.rank_correlation, 3),
            percent(figures.top10_overlap),
            percent(figures.asymmetric_top10_overlap),
            number(figures.cosine, 3),
        ]
        for figures in heldout
    ]
    columns = [
        "model",
        "step",
        "rank correlation",
        "top-10 overlap",
        "top-10 among the teacher's vectors",
        "cosine to teacher",
    ]
    note = (
        f"the same {heldout[0].texts} texts for every model; rank correlation is Spearman's, of"
        " the similarities of all pairs of texts with the teacher's; no model was trained on them"
    )
    return TableData("Sentence vectors of held-out text", columns, rows, [note])


def _masked_table(heldout: Sequence[HeldoutMlm]) -> TableData:
    rows = [_heldout_cells(evaluation) for evaluation in heldout]
    columns = [
        "model",
        "step",
        "MLM loss (nats)",
        "top-1 behind [MASK]",
        "top-1 of all",
        "agreement with teacher",
        "KL from teacher (nats)",
    ]
    # Every model is evaluated at the same masked positions, so one count holds for all rows.
    masked_tokens, hidden_tokens = 0, 0
    if heldout:
        masked_tokens, hidden_tokens = heldout[0].masked_tokens, heldout[0].hidden_tokens
    note = (
        f"the same {masked_tokens} selected tokens for every model, as BERT masks (80% hidden by"
        f" [MASK], 10% replaced, 10% visible); {hidden_tokens} of them are behind [MASK]; no model"
        " was trained on the text"
    )
    return TableData("Masked tokens of held-out text", columns, rows, [note])


def _heldout_cells(evaluation: HeldoutMlm) -> list[str]:
    return [
        evaluation.model,
        str(evaluation.step),
        number(evaluation.mlm_loss_nats),
        percent(evaluation.top1_hidden),
        percent(evaluation.top1),
        percent(evaluation.agreement),
        number(evaluation.kl_nats),
    ]


def describe_training(record: DistillRecord) -> str:
    """Describes the length and speed of a training run in one sentence."""
    return (
        f"{record.steps} steps, {record.tokens_seen / 1e6:.2f}M tokens"
        f" in {duration(record.seconds)} ({record.tokens_per_s:,.0f} tokens/s);"
        f" {describe_initialization(record)}"
    )


def describe_initialization(record: DistillRecord) -> str:
    """Describes how the student's weights were initialized."""
    # "teacher" and "random" are words of the recipe; anything else is the folder of a student.
    if record.student_init == "teacher":
        layers = ", ".join(map(str, record.layer_map))
        text = f"student layers initialized from teacher layers {layers}"
        family = FAMILIES.get(record.student.model_type)
        if family is not None and family.shares_layers:
            text += "; all layers share their weights, so fewer layers save time, not parameters"
        return text
    if record.student_init == "random":
        return "student initialized at random"
    return f"student initialized from {record.student_init}"


# --- plan ----------------------------------------------------------------------------------------


def plan_tables(plan: PlanRecord) -> list[TableData]:
    """Models of a planned run, and the estimated time and memory on each device."""
    # Two tables: what would be trained, then what it would take on each device.
    models = [_planned_model("teacher", plan.teacher), _planned_model("student", plan.student)]
    # One sentence below the models, as these figures belong to the run and not to a model.
    total = (
        f"{plan.tokens / 1e6:,.1f}M tokens in {plan.steps:,} steps of {plan.tokens_per_step:,}"
        f" tokens; corpus: {_corpus_size(plan)}; {plan.precision}"
    )
    model_columns = ["role", "name", "layers", "hidden", "vocabulary", "parameters", "basis"]
    device_columns = [
        "device",
        "method",
        "processes",
        "micro-batch",
        "tokens/s",
        "time",
        "GiB needed",
        "GiB available",
        "basis",
    ]
    devices = [_planned_device(device) for device in plan.devices]
    return [
        TableData("Plan", model_columns, models, [total]),
        TableData("Estimated time and memory", device_columns, devices, list(plan.notes)),
    ]


def _corpus_size(plan: PlanRecord) -> str:
    if isinstance(plan.corpus_tokens, NotMeasured):
        return plan.corpus_tokens.not_measured
    return f"{plan.corpus_tokens / 1e6:,.1f}M tokens ({plan.corpus_how})"


def _planned_model(role: str, model: PlannedModel) -> list[str]:
    return [
        role,
        model.name,
        str(model.layers),
        str(model.hidden),
        str(model.vocabulary),
        millions(model.parameters),
        model.how,
    ]


def _planned_device(device: PlannedDevice) -> list[str]:
    # The reason replaces the time: it is what a reader of a plan needs to know.
    time = planned_duration(device.seconds)
    if isinstance(device.seconds, NotMeasured):
        time = device.seconds.not_measured
    return [
        device.device,
        device.method,
        str(device.processes),
        str(device.micro_batch),
        rate(device.tokens_per_s),
        time,
        gibibytes(device.memory_bytes),
        gibibytes(device.device_memory_bytes),
        # How the estimate was made, in words: timed on this machine, or computed from shapes.
        device.how,
    ]
