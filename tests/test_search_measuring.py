"""Candidates that are measured on this machine in place of being predicted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import edgedistil
from edgedistil import search_measuring
from edgedistil.core.budget_options import SearchOptions
from edgedistil.core.device import load_device
from edgedistil.core.errors import InputError, TargetError
from edgedistil.core.recipe import Recipe, parse_recipe
from edgedistil.core.rundir import artefact_files
from edgedistil.report.search_tables import search_table
from edgedistil.runtime.host import identity
from edgedistil.runtime.machine_facts import MachineIdentity
from edgedistil.runtime.match import match_device
from edgedistil.runtime.ssh.target import SshTarget
from edgedistil.search import stage as search_stage
from tests.export.families.conftest import CASES, copy_tokenizer, make_model
from tests.fixtures.boards import Sshd, install_python

Make = Callable[[str], Recipe]


@pytest.fixture
def recipe(tmp_path: Path, tokenizer_folders: dict[str, Path]) -> Make:
    """A recipe over a random model of a family."""

    def make(name: str) -> Recipe:
        folder = tmp_path / name
        make_model(CASES[name], "fill-mask", num_hidden_layers=2).save_pretrained(folder)
        copy_tokenizer(tokenizer_folders[CASES[name].tokenizer], folder)
        data = {
            "name": "small",
            "teacher": {"source": str(folder)},
            "corpus": {"sources": [{"files": "none.txt"}]},
            "train": {"steps": 1},
        }
        return parse_recipe(data, where="test")

    return make


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_measuring, "MIN_SECONDS", 0.01)
    monkeypatch.setattr(search_measuring, "MIN_CALLS", 3)
    # Other tests may run on the machine.
    monkeypatch.setattr(search_measuring, "case_disturbances", lambda *_, **__: [])
    # The machine of the tests need not have a device file.
    monkeypatch.setattr(search_stage, "_find_device", lambda _: load_device("rpi4"))


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_the_first_candidates_have_measured_times_and_sizes(name: str, recipe: Make) -> None:
    options = SearchOptions(device="host", under=["40MB"], length=16, measure=3)
    record = edgedistil.search(recipe(name), options)
    measured = [c for c in record.candidates if c.is_measured]
    assert len(measured) == 3
    for candidate in measured:
        assert 0 < candidate.latency_ms.low == candidate.latency_ms.high
        assert candidate.file_bytes.low == candidate.file_bytes.high
        assert candidate.fit == "fits"
    # What shapes predict is what was written.
    predicted = edgedistil.search(recipe(name), SearchOptions(device="host", under=["40MB"]))
    for candidate in measured:
        (same,) = [
            c for c in predicted.candidates
            if (c.layers, c.heads, c.precision)
            == (candidate.layers, candidate.heads, candidate.precision)
        ]  # fmt: skip
        assert same.file_bytes.low <= candidate.file_bytes.low <= same.file_bytes.high


def test_a_measured_time_is_shown_as_one_number(recipe: Make) -> None:
    options = SearchOptions(device="host", under=["40MB"], length=16, measure=1)
    table = search_table(edgedistil.search(recipe("bert"), options))
    column = table.columns.index("ms")
    measured, *predicted = [row[column] for row in table.rows]
    assert "–" not in measured
    assert all("–" in cell for cell in predicted)
    memory = [row[table.columns.index("peak MiB")] for row in table.rows]
    assert ["–" in cell for cell in memory] == [False, *([True] * len(predicted))]


def test_a_disturbed_measurement_is_repeated_and_then_the_prediction_stays(
    recipe: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter([["other work"], [], ["other work"], ["more work"]])
    monkeypatch.setattr(search_measuring, "case_disturbances", lambda *_, **__: next(answers))
    options = SearchOptions(device="host", under=["40MB"], length=16, measure=2)
    record = edgedistil.search(recipe("bert"), options)
    assert [c.is_measured for c in record.candidates].count(True) == 1
    printed = capsys.readouterr()
    assert "candidate 2 of 2: predicted, its measurement is not usable: more work" in (
        printed.out + printed.err
    )


def test_precisions_that_are_not_measured_are_named(
    recipe: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = recipe("bert")
    section = checked.export.model_copy(update={"precisions": ["fp16"]})
    checked = checked.model_copy(update={"export": section})
    options = SearchOptions(device="host", under=["40MB"], length=16, measure=2)
    record = edgedistil.search(checked, options)
    assert {c.precision for c in record.candidates if c.is_measured} == {"fp32"}
    printed = capsys.readouterr()
    assert "predicted, fp16 is not measured" in printed.out + printed.err


def test_a_limit_below_every_time_rules_measured_candidates_out(recipe: Make) -> None:
    options = SearchOptions(device="host", under=["0.000001ms"], length=16, measure=1)
    record = edgedistil.search(recipe("distilbert"), options)
    (measured,) = [c for c in record.candidates if c.is_measured]
    assert measured.fit == "does not fit"
    assert "latency" in measured.excess


def test_a_board_that_cannot_be_reached_is_not_measured(recipe: Make) -> None:
    with pytest.raises(InputError, match=r"'rpi4' is not this machine\n.*--ssh"):
        edgedistil.search(recipe("bert"), SearchOptions(device="rpi4", under=["1s"], measure=1))


@pytest.mark.parametrize(("device", "largest"), [("x86-avx2", 64), ("rpi4", 128)])
def test_int8_is_made_for_the_device(
    device: str, largest: int, recipe: Make, tmp_path: Path
) -> None:
    checked = recipe("bert")
    settings = SearchOptions(device=device, under=["40MB"], length=16)
    candidates = edgedistil.search(checked, settings).candidates
    candidate = next(c for c in candidates if c.precision == "int8")
    maker = search_measuring.GraphMaker(checked, tmp_path, device=device)
    graph = ir.load(maker.graph(candidate).path).graph
    weights = [
        value.const_value.numpy().astype(int)
        for name, value in graph.initializers.items()
        if value.const_value is not None and value.dtype == ir.DataType.INT8 and "lin1" in name
    ]
    assert weights
    assert largest / 2 < max(int(np.abs(weight).max()) for weight in weights) <= largest


def test_a_board_that_is_another_device_is_not_measured(
    recipe: Make, quick: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server of the tests is this machine, which reports another board's name here.
    pi5 = MachineIdentity(machine="aarch64", board="Raspberry Pi 5 Model B Rev 1.0")
    monkeypatch.setattr(SshTarget, "identify", lambda _: pi5)
    options = SearchOptions(
        device="rpi4", under=["40MB"], length=16, measure=1, ssh=quick.destination
    )
    with pytest.raises(InputError, match=r"is a rpi5 \(Raspberry Pi 5.*\), not a rpi4"):
        edgedistil.search(recipe("bert"), options)


def own_device() -> str:
    """The device that a server on this machine is; any other one where no file matches."""
    spec = match_device(identity())
    return "rpi4" if spec is None else spec.name


def test_candidates_are_measured_over_ssh_and_judged_again(recipe: Make, quick: Sshd) -> None:
    limits = {"device": own_device(), "length": 16, "memory": "1MiB"}
    options = SearchOptions(**limits, under=["1s"], measure=2, ssh=quick.destination)  # type: ignore[arg-type]
    record = edgedistil.search(recipe("bert"), options)
    measured = [c for c in record.candidates if c.is_measured]
    assert len(measured) == 2
    for candidate in measured:
        for band in (candidate.latency_ms, candidate.file_bytes, candidate.memory_bytes):
            assert 0 < band.low == band.high
        # Python and onnxruntime alone need more than 10 MiB.
        assert candidate.memory_bytes.low > 10 * 2**20
        assert candidate.fit == "does not fit"
        assert set(candidate.excess) == {"memory"}
        assert candidate.worst_ratio == pytest.approx(candidate.memory_bytes.low / 2**20)
    ratios = [candidate.worst_ratio for candidate in record.candidates]
    assert ratios == sorted(ratios)
    assert quick.leftovers() == []


def test_a_board_without_onnxruntime_is_not_measured(recipe: Make, board: Sshd) -> None:
    install_python(board, flags="-S")
    options = SearchOptions(
        device="rpi4", under=["1s"], length=16, measure=1, ssh=board.destination
    )
    with pytest.raises(TargetError, match="has no numpy and no onnxruntime"):
        edgedistil.search(recipe("bert"), options)


def test_factorised_word_embeddings_have_the_predicted_size(recipe: Make, tmp_path: Path) -> None:
    checked = recipe("bert")
    section = checked.objective.model_copy(update={"kind": "representation"})
    checked = checked.model_copy(update={"objective": section})
    record = edgedistil.search(checked, SearchOptions(device="rpi4", under=["40MB"]))
    maker = search_measuring.GraphMaker(checked, tmp_path)
    for precision in ("fp32", "int8"):
        candidate = next(
            c for c in record.candidates if c.embedding is not None and c.precision == precision
        )
        size = sum(file.stat().st_size for file in artefact_files(maker.graph(candidate).path))
        assert candidate.file_bytes.low <= size <= candidate.file_bytes.high
