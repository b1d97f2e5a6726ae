"""A run directory with all records; their figures are invented and easy to recognise."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from edgedistil.core.distill_records import (
    CorpusRecord,
    CorpusSource,
    DistillRecord,
    HeldoutMlm,
    ModelFacts,
)
from edgedistil.core.evaluation_records import (
    AblationRecord,
    ArtefactScore,
    Cell,
    EvaluationRecord,
    MacroScore,
    PaperRow,
    Retention,
    Summary,
    TaskFacts,
    Variation,
)
from edgedistil.core.export_records import (
    ExportRecord,
    FileFacts,
    ParityFigures,
    ParityRecord,
    Tolerance,
    ToleranceResult,
)
from edgedistil.core.profile_records import (
    Claim,
    LatencyStats,
    MemoryStats,
    ProfileRecord,
    ProfileRow,
)
from edgedistil.core.records import Band, NotMeasured, provenance, write_record
from edgedistil.core.rundir import RunDir, write_text

BOARD_BAND = Band(low=101.0, high=211.0)
NO_BOARD = NotMeasured(not_measured="no board was reached: this is a prediction")


def model(name: str, layers: int, parameters: int, encoder: int) -> ModelFacts:
    return ModelFacts(
        name=name,
        model_type="bert",
        architecture="BertForMaskedLM",
        layers=layers,
        hidden=384,
        vocabulary=30522,
        parameters=parameters,
        encoder_parameters=encoder,
        weights_sha256="ab" * 32,
    )


def heldout(
    name: str, step: int, loss: float, top1: float, agreement: float | NotMeasured
) -> HeldoutMlm:
    kl = 0.7 if isinstance(agreement, float) else agreement
    itself = NotMeasured(not_measured="not of interest")
    return HeldoutMlm(
        model=name,
        step=step,
        masked_tokens=1234,
        mlm_loss_nats=loss,
        top1=top1,
        top1_hidden=top1 - 0.05 if step else itself,
        hidden_tokens=987,
        agreement=agreement,
        kl_nats=kl,
    )


def distilled() -> DistillRecord:
    itself = NotMeasured(not_measured="the teacher is the reference")
    return DistillRecord(
        recipe_sha256="cd" * 32,
        teacher=model("minilm", 6, 22_861_000, 22_565_000),
        student=model("student", 3, 17_290_000, 17_110_000),
        layer_map=[0, 2, 5],
        steps=200,
        tokens_seen=820_000,
        seconds=250.0,
        tokens_per_s=3280.0,
        heldout=[
            heldout("teacher", 0, 3.1, 0.41, itself),
            heldout("student", 0, 6.6, 0.11, 0.17),
            heldout("student", 200, 3.7, 0.34, 0.53),
        ],
        provenance=provenance("edgedistil distill x"),
    )


def evaluated() -> EvaluationRecord:
    scores = {"teacher": 0.83, "student-step0": 0.80, "student": 0.82}
    cells = [
        Cell(
            task="sentiment",
            model=name,
            seed=1,
            scores={"accuracy": score},
            metric="accuracy",
            dev_examples=1300,
            train_examples=4000,
            seconds=41.0,
            provenance=provenance("edgedistil evaluate"),
        )
        for name, score in scores.items()
    ]
    summaries = [
        Summary(
            task="sentiment",
            model=name,
            metric="accuracy",
            seeds=[1],
            median=score,
            mean=score,
            lowest=score,
            highest=score,
        )
        for name, score in scores.items()
    ]
    retentions = [
        Retention(
            task="sentiment",
            model="student",
            metric="accuracy",
            reference="teacher",
            seeds=3,
            baseline=0.57,
            retention=0.988,
            retention_low=0.975,
            retention_high=1.002,
            retention_above_baseline=0.962,
            retention_above_baseline_low=0.92,
            retention_above_baseline_high=1.01,
        )
    ]
    return EvaluationRecord(
        cells=cells,
        summaries=summaries,
        retentions=retentions,
        tasks=[task_facts()],
        macros=[macro()],
        artefacts=[
            artefact_score("pytorch", 0.82, 0.0),
            artefact_score("int8", 0.8087, 0.0113, mebibytes=17, latency_ms=1.9),
            artefact_score("pytorch", 0.83, 0.0, model="teacher", mebibytes=87, latency_ms=9.7),
        ],
        provenance=provenance("edgedistil evaluate"),
    )


def task_facts() -> TaskFacts:
    return TaskFacts(
        name="sentiment",
        title="Sentence sentiment",
        kind="classification",
        metric="accuracy",
        train_examples=4001,
        dev_examples=1301,
        baseline=0.57,
        baseline_rule="the majority class",
        origin="made up",
        licence="CC0",
        settings_source="made up",
        paper=PaperRow(metric="accuracy", teacher=0.931, student=0.917, source="made up"),
        warnings=["a warning of the task"],
    )


def macro() -> MacroScore:
    return MacroScore(
        suite="GLUE",
        model="student",
        score=0.7613,
        tasks=["a", "b"],
        how="how the macro-score was computed",
        paper=0.77,
    )


def artefact_score(
    form: str,
    median: float,
    drop: float,
    *,
    model: str = "student",
    mebibytes: int = 67,
    latency_ms: float = 4.7,
) -> ArtefactScore:
    return ArtefactScore(
        task="sentiment",
        model=model,
        artefact=form,
        metric="accuracy",
        seeds=[1],
        median=median,
        drop=drop,
        bytes=mebibytes * 2**20,
        latency_ms=latency_ms,
        latency_conditions="one thread of a made-up host",
    )


def ablated() -> AblationRecord:
    none = NotMeasured(not_measured="it is the full recipe")
    full = Variation(
        name="full recipe",
        description="all three losses",
        run="made-up",
        changed={},
        tokens_seen=820_000,
        score=0.8117,
        per_task={"sentiment": 0.8117},
        change=none,
        change_low=none,
        change_high=none,
        spread=none,
        within_noise=False,
        paper_change=none,
    )
    without = full.model_copy(
        update={
            "name": "without the cosine loss",
            "score": 0.8004,
            "change": -0.0113,
            "change_low": -0.0171,
            "change_high": -0.0053,
            "spread": 0.0031,
            "paper_change": -0.0146,
        }
    )
    return AblationRecord(
        tasks=["sentiment"],
        seeds=[1, 2],
        interval="95% by resampling",
        variations=[full, without],
        agrees_with_paper="the order is the paper's",
        provenance=provenance("edgedistil distill --ablate"),
    )


def figures(length: int | None, error: float) -> ParityFigures:
    return ParityFigures(
        sequences=16,
        length=length if length else NotMeasured(not_measured="all lengths together"),
        max_abs=error,
        mean_abs=error / 10,
        cosine_min=1 - error / 100,
        cosine_mean=1 - error / 1000,
        kl_nats=error / 50,
        agreement=1 - error / 30,
    )


def artefact(role: str, task: str, precision: str, size: int) -> tuple[ExportRecord, ParityRecord]:
    suffix = {"fp32": "", "int8": "_int8"}[precision]
    error = {"fp32": 2e-6, "int8": 0.31}[precision]
    export = ExportRecord(
        model=role,
        role=role,
        task=task,
        precision=precision,
        files=[FileFacts(path=f"onnx/model{suffix}.onnx", bytes=size, sha256="ef" * 32)],
        source_sha256="ab" * 32,
        parameters=17_110_000,
        opset=20,
        ir_version=10,
        target_device="host",
        reasons={"weights": "signed, because the host has VNNI"},
        fused={"Gelu": 3},
        kept_float=["embeddings"],
        bytes_by_part={"embeddings": size // 2, "attention": size // 4, "feed-forward": size // 4},
        seconds=3.0,
        provenance=provenance("edgedistil export"),
    )
    tolerance = Tolerance(
        figure="max_abs", bound="at most", value=1.0, reason="invented for a test"
    )
    parity = ParityRecord(
        model=role,
        task=task,
        precision=precision,
        artefact_sha256="ef" * 32,
        runtime="onnxruntime 1.32.0",
        overall=figures(None, error),
        by_length=[figures(length, error * (1 + i / 7)) for i, length in enumerate((8, 32, 128))],
        results=[ToleranceResult(tolerance=tolerance, got=error, holds=True)],
        passed=True,
        provenance=provenance("edgedistil export"),
    )
    return export, parity


ARTEFACTS = [
    ("teacher", "feature-extraction", "fp32", 90_000_000, 19.0),
    ("student", "feature-extraction", "fp32", 68_000_000, 9.7),
    ("student", "feature-extraction", "int8", 18_000_000, 4.1),
    ("student", "fill-mask", "fp32", 69_000_000, 24.0),
]


def latency(centre: float) -> LatencyStats:
    samples = sorted(
        centre * (1 + 0.06 * math.sin(7 * i) ** 2 + (0.4 if i % 61 == 0 else 0)) for i in range(120)
    )
    return LatencyStats(
        calls=120,
        window_s=sum(samples) / 1000,
        p50_ms=samples[59],
        p90_ms=samples[107],
        p95_ms=samples[113],
        p99_ms=samples[118],
        min_ms=samples[0],
        mean_ms=sum(samples) / 120,
        drift=0.01,
        samples_ms=samples,
    )


def row(
    role: str, task: str, precision: str, size: int, centre: float, *, measured: bool
) -> ProfileRow:
    stats = latency(centre)
    return ProfileRow(
        model=role,
        role=role,
        task=task,
        precision=precision,
        file_bytes=size,
        parameters=17_110_000,
        artefact_sha256="ef" * 32,
        device="host" if measured else "rpi4",
        method="measured" if measured else "predicted",
        runtime="onnxruntime 1.32.0",
        threads=1,
        batch=1,
        length=128,
        latency_ms=stats.p50_ms if measured else BOARD_BAND,
        latency=stats if measured else NO_BOARD,
        load_ms=45.0 if measured else NO_BOARD,
        first_call_ms=centre * 1.8 if measured else NO_BOARD,
        start_to_first_result_ms=300.0 if measured else NO_BOARD,
        memory=MemoryStats(
            after_import_bytes=50 * 2**20,
            after_load_bytes=120 * 2**20,
            after_run_bytes=140 * 2**20,
            peak_bytes=150 * 2**20,
        )
        if measured
        else NO_BOARD,
        peak_memory_bytes=150 * 2**20 if measured else Band(low=110 * 2**20, high=190 * 2**20),
        valid=True,
        conditions={"governor": "performance"},
    )


def speed_claim(method: str, device: str) -> Claim:
    return Claim(
        claim="speed",
        verdict="holds",
        sentence=f"the student's encoder is 1.96 times as fast as the teacher's on {device}",
        method=method,
        device=device,
        conditions="feature-extraction, fp32, onnxruntime 1.32.0, 1 thread, sentence pairs",
        figure="speed ratio, encoders, 1 thread",
        value=1.96,
        low=1.91,
        high=2.02,
        threshold=1.6,
        paper="668 s / 410 s = 1.63x",
    )


@pytest.fixture
def full_run(tmp_path: Path) -> RunDir:
    """A run in which every stage has finished."""
    run = RunDir(tmp_path / "runs" / "made-up")
    write_record(run.distill, distilled())
    write_record(run.evaluation, evaluated())
    write_record(run.ablation, ablated())
    source = CorpusSource(
        name="<b>hostile</b>",
        licence="CC0",
        origin="PyPI x 1",
        sha256="12" * 32,
        documents=7,
        text_bytes=11_000_000,
    )
    corpus = CorpusRecord(
        sources=[source],
        layout="packed",
        block_length=128,
        vocabulary=30522,
        train_tokens=2_700_000,
        heldout_tokens=31_000,
        heldout_documents=301,
        cache_key="k",
        cached_at="c",
    )
    write_record(run.corpus, corpus)
    write_text(run.recipe, 'name = "made-up"\n')
    for role, task, precision, size, _ in ARTEFACTS:
        export, parity = artefact(role, task, precision, size)
        write_record(run.export(role, task) / f"export.{precision}.json", export)
        write_record(run.parity(role, task, precision), parity)
    for device, method in (("host", "measured"), ("rpi4", "predicted")):
        rows = [row(*artefact, measured=method == "measured") for artefact in ARTEFACTS]
        record = ProfileRecord(
            device=device,
            method=method,
            rows=rows,
            claims=[speed_claim(method, device)],
            provenance=provenance("edgedistil profile"),
        )
        write_record(run.profile(device, method), record)
    write_text(run.metrics, "".join(json.dumps(entry) + "\n" for entry in trace()))
    return run


def trace() -> list[dict[str, object]]:
    entries: list[dict[str, object]] = []
    for step in range(1, 201):
        decay = math.exp(-step / 60)
        wave = 0.1 * math.sin(step * 1.7)
        entries.append(
            {
                "kind": "train",
                "step": step,
                "tokens": step * 4096,
                "soft_target": 1.1 + 4 * decay + wave,
                "mlm": 3.4 + 3 * decay + wave,
                "cosine": 0.05 + 0.3 * decay,
            }
        )
        if step % 20 == 0:
            entries.append(
                {
                    "kind": "heldout",
                    "model": "student",
                    "step": step,
                    "mlm_loss_nats": 3.6 + 3 * decay,
                    "top1": 0.34 - 0.23 * decay,
                    "agreement": 0.53 - 0.36 * decay,
                    "kl_nats": 0.7 + decay,
                }
            )
    return entries
