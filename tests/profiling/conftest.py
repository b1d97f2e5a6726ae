"""Helpers of the profiling tests: short profiles of the latest run, artefacts, replies and rows."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase
from typing import Any

from edgedistil.core.device import DeviceSpec
from edgedistil.core.options import ProfileOptions
from edgedistil.core.profile_records import (
    AtLeast,
    Claim,
    LatencyStats,
    MemoryStats,
    ProfileRecord,
    ProfileRow,
)
from edgedistil.core.records import NotMeasured, provenance
from edgedistil.core.rundir import RunDir
from edgedistil.profiling import stage
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.graph import GraphFacts
from edgedistil.runtime.protocol import Reply


def profile_latest(**changes: Any) -> tuple[RunDir | None, list[ProfileRecord]]:
    """Profiles the latest run with short inputs."""
    options: dict[str, Any] = {"lengths": [5, 17], "threads": [1], "sentence_pairs": 30}
    return stage.profile("latest", ProfileOptions(**{**options, **changes}))


def letter_tokenizer(source: Path, target: Path) -> Path:
    """Saves the tokenizer of a folder with a token for each letter instead of words."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    backend = Tokenizer.from_file(str(source / "tokenizer.json"))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    ids = {token: number for number, token in enumerate([*special, *ascii_lowercase])}
    backend.model = models.WordLevel(ids, unk_token="[UNK]")
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.save(str(target / "tokenizer.json"))
    return target


def make_artefact(
    role: Any,
    precision: Any = "fp32",
    *,
    parameters: int = 100,
    task: str = "feature-extraction",
) -> Artefact:
    """An artefact whose files do not exist, for functions that read none."""
    return Artefact(
        model=role,
        role=role,
        task=task,
        precision=precision,
        path=Path("model.onnx"),
        external=(),
        file_bytes=5_000_000,
        parameters=parameters,
        sha256="ab",
        tokenizer=Path(),
        graph=GraphFacts(inputs={"input_ids": "input_ids"}),
        max_length=None,
    )


def make_reply(label: str, **changes: Any) -> Reply:
    """A successful reply with one model and one call at 13 tokens."""
    case = {
        "samples_ns": [7],
        "wall_ns": 7,
        "cpu_ns": 7,
        "faults": {"minor": 0, "major": 0},
        "truncated": False,
    }
    model = {
        "memory": {"load": 11, "run": 13, "peak": 17},
        "load_ns": 5,
        "cases": {"13": case},
    }
    reply = {
        "format": 1,
        "ok": True,
        "phase": "done",
        "runner_sha256": "ab",
        "identity": {"onnxruntime": "1.32.0"},
        "models": {label: model},
    }
    return Reply.model_validate({**reply, **changes})


def make_row(p50_ms: Any = 7.0, peak_bytes: Any = 2**20, **changes: Any) -> ProfileRow:
    """A row of the student with three samples; a predicted row where `p50_ms` is a band."""
    latency: LatencyStats | NotMeasured = NotMeasured(not_measured="predicted")
    if isinstance(p50_ms, float):
        latency = LatencyStats(
            calls=3,
            window_s=0.02,
            p50_ms=p50_ms,
            p90_ms=NotMeasured(not_measured="too few"),
            p95_ms=AtLeast(at_least=6.0, reason="p95 needs 60 samples, got 3"),
            p99_ms=NotMeasured(not_measured="too few"),
            min_ms=1,
            mean_ms=1,
            drift=0.0,
            samples_ms=[1],
        )
    memory = MemoryStats(after_import_bytes=1, after_load_bytes=1, after_run_bytes=1, peak_bytes=1)
    fields: dict[str, Any] = {
        "model": "student",
        "role": "student",
        "task": "feature-extraction",
        "precision": "fp32",
        "file_bytes": 1,
        "parameters": 1,
        "artefact_sha256": "ab",
        "device": "host",
        "method": "measured",
        "runtime": "x",
        "threads": 1,
        "batch": 1,
        "length": 16,
        "latency_ms": p50_ms,
        "latency": latency,
        "load_ms": 1.0,
        "first_call_ms": 1.0,
        "start_to_first_result_ms": 1.0,
        "memory": memory,
        "peak_memory_bytes": peak_bytes,
        "valid": True,
        "conditions": {},
    }
    return ProfileRow(**{**fields, **changes})


def make_record(*claims: Claim, rows: list[ProfileRow] | None = None) -> ProfileRecord:
    """A measured record of the host."""
    return ProfileRecord(
        device="host",
        method="measured",
        rows=rows or [],
        claims=list(claims),
        provenance=provenance("test"),
    )


def fp32_gmacs_per_s(spec: DeviceSpec) -> float:
    """Peak of one core of the first cluster, in 10⁹ multiply-adds per second."""
    cluster = spec.clusters[0]
    return cluster.macs_per_cycle.fp32.value * cluster.clock_ghz.value
