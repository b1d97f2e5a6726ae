"""Measuring rows: interleaved calls, cold starts in fresh processes, hidden states and words against PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from peers.rows import Row, save_feeds
from transformers import AutoModel

from edgedistil.core.records import ParityFigures
from edgedistil.export.reference import make_probes
from edgedistil.export.source import read_source
from edgedistil.parity.gate import check_artefact

HERE = Path(__file__).resolve().parent
LENGTHS = (16, 32, 64, 128, 256)
WARM_UP = 2
SETTLE_S = 0.003  # another process's threads may still be waiting for work when its answer is here


def open_session(graph: Path, threads: int, *, profile: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Sessions take turns here: without this, the one that just answered keeps a core busy under the next one.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def feeds_of(session: ort.InferenceSession, ids: np.ndarray) -> dict[str, np.ndarray]:
    return {
        each.name: ids if each.name == "input_ids" else np.ones_like(ids)
        for each in session.get_inputs()
    }


def measure_latency(rows: list[Row], *, threads: int, rounds: int, openings: int) -> None:
    """One thread: processor time of the calling thread, which a busy machine does not stretch. More: wall clock.

    The sessions are opened anew `openings` times, in another order each time, and the rounds are spread over them:
    where a session's weights land in memory is worth several percent, and should be nobody's luck.
    """
    workers = {row.key: start_worker(row, threads) for row in rows if row.worker}
    rng = np.random.default_rng(7)
    for opening in range(openings):
        in_turn = _turned([each for each in rows if each.graph], opening * len(rows) // openings)
        sessions = {row.key: open_session(row.graph, threads) for row in in_turn}
        for length in LENGTHS:
            for index in range(-(-rounds // openings) + WARM_UP):
                _round(
                    rows, sessions, workers, rng.integers(1000, 30000, (1, length)), threads, index
                )
        del sessions
        print(f"  {threads} threads, opening {opening + 1} of {openings}: done", flush=True)
    for worker in workers.values():
        if worker is not None:
            worker.stdin.close()
            worker.wait()


def _round(
    rows: list[Row],
    sessions: dict[str, ort.InferenceSession],
    workers: dict[str, subprocess.Popen | None],
    ids: np.ndarray,
    threads: int,
    index: int,
) -> None:
    """One call of every row, at the length of `ids`."""
    clock, length = time.thread_time if threads == 1 else time.perf_counter, ids.shape[1]
    for row in _turned([each for each in rows if each.graph], index):
        feeds = feeds_of(sessions[row.key], ids)
        started = clock()
        sessions[row.key].run(None, feeds)
        _note(row, threads, length, index, clock() - started)
    for row in (each for each in rows if each.worker):
        answer = ask(workers[row.key], str(length))
        time.sleep(SETTLE_S)
        if answer is not None:
            _note(row, threads, length, index, float(answer))


def _turned(rows: list[Row], by: int) -> list[Row]:
    """Another order in every round: nobody always runs behind the same neighbour."""
    start = by % len(rows)
    return rows[start:] + rows[:start]


def _note(row: Row, threads: int, length: int, index: int, seconds: float) -> None:
    if index >= WARM_UP:
        row.seconds.setdefault((threads, length), []).append(seconds)


def start_worker(row: Row, threads: int) -> subprocess.Popen | None:
    worker = subprocess.Popen(
        [*row.worker, str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    for line in worker.stdout:
        if line.strip() == "ready":
            return worker
    print(f"  {row.key}: did not start", flush=True)
    return None


def ask(worker: subprocess.Popen | None, line: str) -> str | None:
    if worker is None:
        return None
    worker.stdin.write(f"{line}\n")
    worker.stdin.flush()
    return worker.stdout.readline().strip() or None


def measure_cold(rows: list[Row], *, rounds: int) -> None:
    for _ in range(rounds):
        for row in rows:
            if row.graph:
                script = [sys.executable, HERE / "cold_start.py", row.graph]
                done = subprocess.run(script, capture_output=True, text=True, check=True)
                row.cold.append(json.loads(done.stdout))


def measure_hidden(rows: list[Row], source: Path, text: list[str]) -> None:
    """Hidden states against PyTorch's float32 on real text in padded batches of three."""
    model = AutoModel.from_pretrained(source).eval()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "feeds.npz"
        feeds = save_feeds(path, source, text[::2], batch=3, count=20)
        with torch.inference_mode():
            given = [
                {name: torch.from_numpy(value) for name, value in each.items()} for each in feeds
            ]
            wanted = [model(**each).last_hidden_state.numpy() for each in given]
        attended = [each["attention_mask"] == 1 for each in feeds]
        for row in rows:
            answers = _answers(row, feeds, path)
            if answers is not None:
                _compare(
                    row, [w[a] for w, a in zip(wanted, attended, strict=True)], answers, attended
                )


def _answers(row: Row, feeds: list[dict[str, np.ndarray]], path: Path) -> list[np.ndarray] | None:
    if row.graph:
        session = open_session(row.graph, 1)
        taken = {each.name for each in session.get_inputs()}
        return [
            session.run(None, {name: each[name] for name in each if name in taken})[0]
            for each in feeds
        ]
    worker = start_worker(row, 1)
    if ask(worker, str(path)) != "done":
        return None
    worker.stdin.close()
    worker.wait()
    with np.load(f"{path}.answers.npz") as stored:
        return [stored[f"arr_{index}"] for index in range(len(feeds))]


def _compare(
    row: Row, wanted: list[np.ndarray], answers: list[np.ndarray], attended: list[np.ndarray]
) -> None:
    want = np.concatenate(wanted)
    got = np.concatenate([each[there] for each, there in zip(answers, attended, strict=True)])
    norms = np.linalg.norm(got, axis=-1) * np.linalg.norm(want, axis=-1)
    row.mean_error, row.max_error = (
        float(np.abs(got - want).mean()),
        float(np.abs(got - want).max()),
    )
    row.cosine = float(((got * want).sum(axis=-1) / norms).min())


def measure_words(
    rows: list[Row], source: Path, text: list[str], *, draws: int
) -> dict[str, list[ParityFigures]]:
    """Masked words of the int8 rows against PyTorch float32, by the product's own probes; several draws of the text."""
    student = read_source(source, name="student", role="student", task="fill-mask")
    model, tokenizer = student.load_model(), student.load_tokenizer()
    probes = [
        make_probes(model, tokenizer, "fill-mask", text[::2], seed=40 + draw)
        for draw in range(draws)
    ]
    return {
        row.key: [
            check_artefact(
                row.graph, each, precision=row.precision, model=row.name, task="fill-mask"
            ).overall
            for each in probes
        ]
        for row in rows
        if row.graph and row.precision == "int8"
    }


def profile(graph: Path, length: int, *, calls: int = 8) -> Counter[str]:
    """Microseconds by operator, each node's fastest call, one thread."""
    with tempfile.TemporaryDirectory() as scratch:
        session = open_session(graph, 1, profile=Path(scratch) / "profile")
        ids = np.random.default_rng(0).integers(1000, 30000, (1, length))
        for _ in range(calls):
            session.run(None, feeds_of(session, ids))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes: dict[tuple[str, str], list[int]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes[event["args"]["op_name"], event["name"]].append(event["dur"])
    by_operator: Counter[str] = Counter()
    for (operator, _), durations in nodes.items():
        by_operator[operator] += min(durations)
    return by_operator
