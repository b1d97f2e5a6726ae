"""Every command of the pages about C++ and the Raspberry Pi, run in the order of the page.

Emulation replaces the board, and a copy on this machine the copy to it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from edgedistil.bundle.runtime_wheel import REQUIREMENTS
from edgedistil.core.contract import CONFORMANCE_FILE
from edgedistil.core.options import ExportOptions
from edgedistil.core.rundir import create_run, mark_latest
from edgedistil.export import probe_inputs, publish
from edgedistil.export.source import read_source
from tests.bundle.conftest import bare_environment
from tests.fixtures.tokenizer_folders import BERT_SPECIAL, our_text, our_word_pieces

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 32
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def write_source(folder: Path) -> None:
    """Writes a random BERT of two layers with mean pooling."""
    vocabulary = our_word_pieces(BERT_SPECIAL)
    BertTokenizer(vocab=vocabulary, model_max_length=48).save_pretrained(folder)
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_attention_heads=4,
        num_hidden_layers=2,
        max_position_embeddings=48,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    modules = [
        {"name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
        for number, (path, name) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling")))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with scripts/ and a run whose student is an exported encoder."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    write_source(folder / "source")
    run = create_run("pages", root=folder / "runs")
    source = read_source(folder / "source", name="student", role="student", task=None)
    with pytest.MonkeyPatch.context() as patch:
        # Few probes: the parity check is not what these tests are about.
        patch.setattr(probe_inputs, "CALLS", {512: (2,)})
        patch.setattr(publish, "_reject_failed", lambda *_: None)
        publish.export_model(run, source, ExportOptions(precisions=["int8"]), text=our_text())
    mark_latest(run)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables with our programs on the PATH, and `scp` that copies on this machine."""
    programs = tmp_path_factory.mktemp("programs")
    board = programs / "board"
    board.mkdir()
    scripts = {
        "edgedistil": f'exec "{sys.executable}" -m edgedistil "$@"',
        "python": f'exec "{sys.executable}" "$@"',
        "scp": f'[ "$1 $3" = "-r pi@raspberrypi:" ] && exec cp -r "$2" "{board}"',
    }
    for name, line in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    (programs / "python3").symlink_to(sys.executable)
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "BOARD": str(board),
        # Not optimized, because compiling takes longer than the runs.
        "CMAKE_BUILD_TYPE": "Debug",
    }


def blocks(page: str) -> list[str]:
    """Commands of a page, one text for each block."""
    return BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))


def run(commands: str, folder: Path, environment: dict[str, str]) -> tuple[str, str]:
    """Runs the commands of a block; fails the test if one of them fails."""
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


def strings_of(model: Path) -> int:
    return len((model / CONFORMANCE_FILE).read_text(encoding="utf-8").splitlines()) - 1


@pytest.mark.needs("g++", "cmake")
def test_the_page_about_cpp_on_this_machine(place: Path, environment: dict[str, str]) -> None:
    printed, errors = run(blocks("cpp.md")[0], place, environment)
    strings = strings_of(place / "encoder-cpp" / "model")
    assert f"int8: {strings} strings are as expected\n" in printed
    values = [line for line in printed.splitlines() if re.fullmatch(r"-?[\d.]+(e-\d+)?", line)]
    assert len(values) == WIDTH
    times = r"loading [\d.]+ ms, tokenization [\d.]+ ms \([\d.]+% of a call of [\d.]+ ms\)\n"
    assert re.search(times, errors)
    run(blocks("cpp.md")[1], place, environment)
    record = json.loads((place / "runs" / "pages" / "profile" / "host.measured.json").read_text())
    [row, *_] = [row for row in record["rows"] if row["length"] == 32]
    assert 0 < row["tokenization_cpp_ms"] < 1000


@pytest.mark.slow
@pytest.mark.needs("aarch64-linux-gnu-g++", "cmake", "qemu-aarch64", "apt-get")
def test_the_page_about_cpp_for_a_board(place: Path, environment: dict[str, str]) -> None:
    compile_commands, run_commands = blocks("cpp.md")[2:]
    run(compile_commands, place, environment)
    printed, _ = run(run_commands, place, environment)
    model = place / "encoder-rpi4" / "model"
    assert printed == f"int8: {strings_of(model)} strings are as expected, outputs of 24\n"

    graph = model / "onnx" / "model_int8.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    done = subprocess.run(
        ["bash", "-c", run_commands], cwd=place, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 3
    assert "onnx/model_int8.onnx was changed after the export: its sha256 differs" in done.stderr


@pytest.mark.slow
@pytest.mark.needs("qemu-aarch64", "apt-get")
def test_the_page_about_the_raspberry_pi(place: Path, environment: dict[str, str]) -> None:
    here, on_the_board, emulated = blocks("raspberry-pi.md")
    run(here, place, environment)
    board = Path(environment["BOARD"]) / "encoder-pi"

    # The packages have the versions of the board, so pip needs no index for them.
    bare_environment(board / "env", list(REQUIREMENTS))
    without_ours = {name: text for name, text in environment.items() if name != "PYTHONPATH"}
    printed, _ = run(on_the_board, board, {**without_ours, "PIP_NO_INDEX": "1"})
    strings = strings_of(board / "model")
    assert f"{strings} strings are as expected\n" in printed
    vector = [float(value) for value in printed.splitlines()[-1].split()]

    printed, _ = run(emulated, place, environment)
    check, values = printed.splitlines()
    assert check == f"{strings} strings are as expected, outputs of 24"
    assert len(vector) == WIDTH
    # 8-bit activations flip between the kernels of x86 and ARM.
    assert [float(value) for value in values.split()] == pytest.approx(vector, abs=0.08)


def test_a_copy_to_another_place_fails(environment: dict[str, str], tmp_path: Path) -> None:
    """The replacement of scp can fail: the page cannot name another board."""
    done = subprocess.run(["scp", "-r", "x", "pi@other:"], env=environment, cwd=tmp_path)
    assert done.returncode != 0
    assert shutil.which("scp", path=environment["PATH"]) is not None
