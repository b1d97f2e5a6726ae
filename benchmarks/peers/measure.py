"""Measures rows: interleaved calls, cold starts, and errors of hidden states."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from peers.feeds import outputs_path, random_ids
from peers.rows import Row, save_text_feeds
from transformers import AutoModel

HERE = Path(__file__).resolve().parent
LENGTHS = (16, 32, 64, 128, 256)
# Rounds of each opening that are not recorded.
WARM_UP = 2
# After a worker's reply, its threads may still spin for milliseconds and slow the next row.
SETTLE_S = 0.05

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]


def open_session(graph: Path, threads: int, *, profile: Path | None = None) -> ort.InferenceSession:
    """Opens an artefact with onnxruntime's default options and a number of threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Sessions take turns here: without this, the previous session's threads would still occupy
    # a core during the next call.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def session_feeds(session: ort.InferenceSession, ids: Array) -> dict[str, Array]:
    """Feeds for any encoder: all inputs but the ids are ones."""
    feeds = {node.name: np.ones_like(ids) for node in session.get_inputs()}
    feeds["input_ids"] = ids
    return feeds


# --- worker processes ----------------------------------------------------------------------------


class Worker:
    """A process that serves calls of a runtime that cannot run in this one.

    Args:
        row: Row with the command.
        threads: Number of threads.
    """

    def __init__(self, row: Row, threads: int) -> None:
        self._process = subprocess.Popen(
            [*row.worker, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        # Libraries may print before the worker does.
        self._is_ready = any(line.strip() == "ready" for line in self._stdout)
        if not self._is_ready:
            print(f"  {row.key}: did not start", flush=True)

    def ask(self, line: str) -> str | None:
        """Sends a line and returns the reply; None if the worker has ended."""
        if not self._is_ready:
            return None
        self._stdin.write(f"{line}\n")
        self._stdin.flush()
        return self._stdout.readline().strip() or None

    def close(self) -> None:
        self._stdin.close()
        self._process.wait()


# --- latency -------------------------------------------------------------------------------------


def measure_latency(
    rows: Sequence[Row],
    *,
    threads: int,
    rounds: int,
    openings: int,
    lengths: Sequence[int] = LENGTHS,
) -> None:
    """Measures calls of all rows, interleaved, and adds the seconds to the rows.

    With one thread, the time is the calling thread's CPU time, which other work does not stretch;
    with several, it is wall-clock time.

    Args:
        rows: Rows to compare.
        threads: Number of threads of each row.
        rounds: Recorded calls per row and length, spread over the openings.
        openings: Times that the sessions are opened, in another order each time: the addresses of
            a session's weights change its speed by several percent.
        lengths: Tokens of a call.
    """
    workers = {row.key: Worker(row, threads) for row in rows if row.worker}
    artefacts = [row for row in rows if row.graph is not None]
    rng = np.random.default_rng(7)
    rounds_per_opening = -(-rounds // openings)
    for opening in range(openings):
        order = rotate(artefacts, opening * len(rows) // openings)
        sessions = {row.key: open_session(row.graph_file, threads) for row in order}
        for length in lengths:
            for index in range(WARM_UP + rounds_per_opening):
                ids = random_ids(rng, length)
                # Another order in every round: no row always runs after the same one.
                seconds = call_sessions(rotate(artefacts, index), sessions, ids, threads=threads)
                seconds |= call_workers(workers, length)
                if index >= WARM_UP:
                    record(rows, seconds, at=(threads, length))
        # Sessions of the next opening must not share the memory of these.
        del sessions
        print(f"  {threads} threads, opening {opening + 1} of {openings}: done", flush=True)
    for worker in workers.values():
        worker.close()


def rotate(rows: Sequence[Row], by: int) -> list[Row]:
    start = by % len(rows)
    return [*rows[start:], *rows[:start]]


def call_sessions(
    rows: Sequence[Row], sessions: Mapping[str, ort.InferenceSession], ids: Array, *, threads: int
) -> dict[str, float]:
    """Seconds of one call of each artefact, by the key of its row."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    seconds = {}
    for row in rows:
        session = sessions[row.key]
        feeds = session_feeds(session, ids)
        start = clock()
        session.run(None, feeds)
        seconds[row.key] = clock() - start
    return seconds


def call_workers(workers: Mapping[str, Worker], length: int) -> dict[str, float]:
    """Seconds of one call of each worker, by the key of its row."""
    seconds = {}
    for key, worker in workers.items():
        reply = worker.ask(str(length))
        time.sleep(SETTLE_S)
        if reply is not None:
            seconds[key] = float(reply)
    return seconds


def record(rows: Sequence[Row], seconds: Mapping[str, float], *, at: tuple[int, int]) -> None:
    """Adds one round to the rows."""
    for row in rows:
        if row.key in seconds:
            row.seconds.setdefault(at, []).append(seconds[row.key])


def measure_cold(rows: Sequence[Row], *, rounds: int) -> None:
    """Measures load and memory of each artefact in fresh processes."""
    for _ in range(rounds):
        for row in rows:
            if row.graph is not None:
                command = [sys.executable, HERE / "cold_start.py", row.graph]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                row.cold.append(json.loads(done.stdout))


# --- errors --------------------------------------------------------------------------------------


def measure_hidden(rows: Sequence[Row], source: Path, text: Sequence[str]) -> None:
    """Compares hidden states with PyTorch's in float32, on real text in padded batches of three."""
    model = AutoModel.from_pretrained(source).eval()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "feeds.npz"
        feeds = save_text_feeds(path, source, list(text[::2]), batch=3, count=20)
        expected = []
        with torch.inference_mode():
            for batch in feeds:
                inputs = {name: torch.from_numpy(array) for name, array in batch.items()}
                expected.append(model(**inputs).last_hidden_state.numpy())
        # Hidden states at padding are arbitrary.
        attended = [batch["attention_mask"] == 1 for batch in feeds]
        expected_ND = _attended_rows(expected, attended)
        for row in rows:
            outputs = _hidden_states(row, feeds, path)
            if outputs is not None:
                _compare(row, expected_ND, _attended_rows(outputs, attended))


def _attended_rows(states: Sequence[Array], attended: Sequence[Array]) -> Array:
    pairs = zip(states, attended, strict=True)
    rows: Array = np.concatenate([states_BLD[mask_BL] for states_BLD, mask_BL in pairs])
    return rows


def _hidden_states(row: Row, feeds: Sequence[Feeds], path: Path) -> list[Array] | None:
    """Outputs of a row for every batch; None if its worker does not run."""
    if row.graph is not None:
        session = open_session(row.graph, 1)
        names = [node.name for node in session.get_inputs()]
        return [session.run(None, {name: batch[name] for name in names})[0] for batch in feeds]
    worker = Worker(row, 1)
    if worker.ask(str(path)) != "done":
        return None
    worker.close()
    with np.load(outputs_path(str(path))) as stored:
        return [stored[f"arr_{index}"] for index in range(len(feeds))]


def _compare(row: Row, expected_ND: Array, actual_ND: Array) -> None:
    difference = np.abs(actual_ND - expected_ND)
    row.mean_error, row.max_error = float(difference.mean()), float(difference.max())
    norms_N = np.linalg.norm(actual_ND, axis=-1) * np.linalg.norm(expected_ND, axis=-1)
    row.cosine = float(((actual_ND * expected_ND).sum(axis=-1) / norms_N).min())


# --- operators -----------------------------------------------------------------------------------


def operator_times(graph: Path, length: int, *, threads: int = 1, calls: int = 8) -> Counter[str]:
    """Microseconds by operator: sum over the nodes of each node's fastest call."""
    with tempfile.TemporaryDirectory() as scratch:
        session = open_session(graph, threads, profile=Path(scratch) / "profile")
        ids = random_ids(np.random.default_rng(0), length)
        for _ in range(calls):
            session.run(None, session_feeds(session, ids))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    durations: dict[tuple[str, str], list[int]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            durations[event["args"]["op_name"], event["name"]].append(event["dur"])
    by_operator: Counter[str] = Counter()
    for (operator, _), node_durations in durations.items():
        by_operator[operator] += min(node_durations)
    return by_operator
