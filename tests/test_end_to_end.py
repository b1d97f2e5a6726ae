"""The tiny path for real, through the installed command line: MiniLM, real English, ONNX Runtime;
fewer steps.

One run is made once and read by every test here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = str(Path(sys.executable).with_name("edgedistil"))
SMALL = {
    "teacher.fit.steps": "6",
    "teacher.fit.batch_tokens": "1024",
    "train.steps": "4",
    "train.global_batch": "4",
    "train.micro_batch": "4",
    "train.evaluate_every": "2",
    "train.heldout_tokens": "1024",
    "corpus.sources": '[{asset="reviews"}]',
    "corpus.heldout_max_documents": "300",
    "evaluate.tasks": '["few-sentences.toml"]',
    "evaluate.train_limit": "32",
    "evaluate.epochs": "1",
    "profile.lengths": "[16]",
    "profile.sentence_pairs": "20",
    "profile.threads": "[1]",
}
SETTINGS = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
# The built-in task `sentiment`, judged by fewer sentences: all of them take 80 s a run.
FEW_SENTENCES = """
title = "Sentence sentiment"
kind = "classification"
labels = ["rotten", "fresh"]
metric = "accuracy"
asset = "reviews"
dev_limit = 64

[training]
epochs = 1
batch = 32
learning_rate = 1e-4
max_length = 64
source = "for the tests"
"""
NO_NETWORK = """
import socket
def refuse(self, address, *rest):
    raise OSError(101, "the network is off")
socket.socket.connect = refuse
socket.socket.connect_ex = refuse
"""


def edgedistil(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=420,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder far from the checkout, with one finished run `e2e` in it."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "few-sentences.toml").write_text(FEW_SENTENCES)
    done = edgedistil("run", "recipes/mlm.toml", "--run", "e2e", *SETTINGS, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "run e2e" in done.stdout
    return folder


def test_every_stage_left_its_file(home: Path) -> None:
    run = home / "runs" / "e2e"
    for name in (
        "recipe.toml",
        "corpus.json",
        "metrics.jsonl",
        "distill.json",
        "evaluation.json",
        "heldout.txt",
    ):
        assert (run / name).stat().st_size > 0, name
    for name in ("report.html", "report.md", "report.json"):
        assert (run / name).stat().st_size > 1000, name
    assert (home / "runs" / "latest").read_text() == "e2e\n"


def test_the_folders_are_hub_ready(home: Path) -> None:
    exports = home / "runs" / "e2e" / "export"
    expected = {
        "student-fill-mask": {"model.onnx", "model_int8.onnx"},
        "student-feature-extraction": {"model.onnx", "model_int8.onnx"},
        "teacher-feature-extraction": {"model.onnx"},
    }
    for folder, graphs in expected.items():
        assert graphs <= {p.name for p in (exports / folder / "onnx").iterdir()}, folder
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "README.md"):
            assert (exports / folder / name).is_file(), f"{folder}/{name}"


def test_parity_was_shown_and_passed(home: Path) -> None:
    parities = [
        json.loads(p.read_text()) for p in (home / "runs" / "e2e" / "parity").glob("*.json")
    ]
    assert len(parities) >= 5
    for parity in parities:
        assert parity["passed"], parity["model"]
        assert parity["overall"]["sequences"] >= 64
        assert len(parity["by_length"]) >= 5
        if parity["precision"] == "fp32":
            assert parity["overall"]["max_abs"] <= 1e-4


def test_the_student_is_an_ordinary_model(home: Path) -> None:
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(home / "runs" / "e2e" / "student")
    assert type(model).__name__ == "DistilBertForMaskedLM"
    assert model.config.n_layers == 3


def test_the_report_has_the_three_verdicts(home: Path) -> None:
    data = json.loads((home / "runs" / "e2e" / "report.json").read_text())
    # A predicted board has a verdict of its own after the host's: the first one leads.
    words: dict[str, str] = {}
    for verdict in data["verdicts"]:
        words.setdefault(verdict["name"], verdict["word"])
    assert set(words) == {"size", "speed", "quality"}
    assert "not measured" not in words.values()


def test_host_and_board_are_never_mixed(home: Path) -> None:
    done = edgedistil("profile", "--device", "rpi4", "--length", "16", cwd=home)
    assert done.returncode == 0, done.stderr
    record = json.loads((home / "runs" / "e2e" / "profile" / "rpi4.predicted.json").read_text())
    assert record["rows"]
    for row in record["rows"]:
        assert (row["device"], row["method"]) == ("rpi4", "predicted")
        assert set(row["latency_ms"]) == {"low", "high"}, "a prediction is a band"
        assert "not_measured" in row["latency"], "no samples without a board"
    measured = json.loads((home / "runs" / "e2e" / "profile" / "host.measured.json").read_text())
    for row in measured["rows"]:
        assert (row["device"], row["method"]) == ("host", "measured")
        assert row["latency"]["samples_ms"]


def test_a_second_run_needs_no_network_and_does_nothing_twice(home: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    before = (home / "runs" / "e2e" / "distill.json").stat().st_mtime_ns
    started = time.monotonic()
    done = edgedistil(
        *("run", "recipes/mlm.toml", "--run", "e2e", *SETTINGS),
        cwd=home,
        PYTHONPATH=str(tmp_path),
        PIP_NO_INDEX="1",
    )
    assert done.returncode == 0, done.stderr
    assert (home / "runs" / "e2e" / "distill.json").stat().st_mtime_ns == before
    assert done.stderr.count("already done") == 3
    assert "fetching" not in done.stderr
    assert time.monotonic() - started < 120


def test_a_fresh_run_from_the_cache_needs_no_network(home: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    done = edgedistil(
        *("distill", "recipes/mlm.toml", "--run", "offline", *SETTINGS),
        cwd=home,
        PYTHONPATH=str(tmp_path),
        PIP_NO_INDEX="1",
    )
    assert done.returncode == 0, done.stderr
    (home / "runs" / "latest").write_text("e2e\n")


def test_a_run_that_exists_is_refused(home: Path) -> None:
    before = (home / "runs" / "e2e" / "distill.json").read_bytes()
    done = edgedistil("distill", "recipes/mlm.toml", "--run", "e2e", *SETTINGS, cwd=home)
    assert done.returncode == 2
    assert "already exists" in done.stderr
    assert "--resume" in done.stderr
    assert (home / "runs" / "e2e" / "distill.json").read_bytes() == before


def test_the_demo_learns_vectors_and_searches_with_them(home: Path) -> None:
    collection = home / "shop"
    (collection / "qrels").mkdir(parents=True)
    documents = {"a": "A warm coat for the winter.", "b": "Shoes to run in.", "c": "A blue hat."}
    queries = {"1": "something against the cold", "2": "running shoes"}
    for name, texts in (("corpus", documents), ("queries", queries)):
        rows = [json.dumps({"_id": key, "text": text}) for key, text in texts.items()]
        (collection / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    relevance = "query-id\tcorpus-id\tscore\n1\ta\t1\n2\tb\t1\n"
    (collection / "qrels" / "test.tsv").write_text(relevance)
    settings = {
        "train.steps": "4",
        "train.heldout_tokens": "2048",
        "corpus.sources": '[{asset="reviews"}]',
        "corpus.heldout_max_documents": "300",
        "evaluate.tasks": '["shop"]',
        "export.precisions": '["int8"]',
        "profile.devices": '["rpi4"]',
    }
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    done = edgedistil("run", "recipes/tiny.toml", "--run", "vectors", *overrides, cwd=home)
    (home / "runs" / "latest").write_text("e2e\n")

    assert done.returncode == 0, done.stderr
    run = home / "runs" / "vectors"
    distilled = json.loads((run / "distill.json").read_text())
    trace = [entry for entry in distilled["heldout"] if entry["model"] == "student"]
    assert trace[-1]["rank_correlation"] > trace[0]["rank_correlation"]
    parameters = [distilled[role]["encoder_parameters"] for role in ("teacher", "student")]
    # Without the teacher's pooler, which a DistilBERT does not have.
    assert 1 - parameters[1] / parameters[0] == pytest.approx(0.483, abs=0.001)
    scores = json.loads((run / "evaluation.json").read_text())["retrieval"]
    assert {"teacher", "student-step0", "student"} <= {score["model"] for score in scores}
    parity = json.loads((run / "parity/student-feature-extraction.int8.json").read_text())
    assert parity["passed"]


def test_another_recipe_for_the_same_run_is_refused(home: Path) -> None:
    done = edgedistil(
        "run", "recipes/mlm.toml", "--run", "e2e", *SETTINGS, "--set", "loss.mlm=9.0", cwd=home
    )
    assert done.returncode == 2, done.stderr
    assert "loss.mlm" in done.stderr


def test_interrupted_and_resumed(home: Path) -> None:
    arguments = [
        "distill",
        "recipes/mlm.toml",
        "--run",
        "stopped",
        *SETTINGS,
        "--set",
        "train.steps=16",
    ]
    metrics = home / "runs" / "stopped" / "metrics.jsonl"
    with subprocess.Popen(
        [PROGRAM, *arguments], cwd=home, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 240
        while not (metrics.exists() and metrics.read_text().count('"train"') >= 2):
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "--resume" in stderr
    assert not (home / "runs" / "stopped" / "distill.json").exists()
    done = edgedistil(*arguments, "--resume", cwd=home)
    assert done.returncode == 0, done.stderr
    entries = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [e["step"] for e in entries if e["kind"] == "train"] == list(range(1, 17))
    (home / "runs" / "latest").write_text("e2e\n")


def test_base_without_the_hub_is_a_message(home: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    done = edgedistil(
        "distill", "recipes/base.toml", cwd=home, PYTHONPATH=str(tmp_path), HF_HUB_OFFLINE="1"
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "bert-base-uncased" in done.stderr


def test_a_claim_that_cannot_hold_is_exit_code_3(home: Path) -> None:
    # Predicted, which takes seconds: measured claims are in tests/profiling/test_measured.py.
    requirement = ("--length", "16", "--require", "speedup>=1000", "--allow-predicted")
    done = edgedistil("profile", "--device", "rpi4", *requirement, cwd=home)
    assert done.returncode == 3, done.stderr
    assert "speedup>=1000 does not hold" in done.stderr
