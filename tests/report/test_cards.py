from __future__ import annotations

from pathlib import Path

from edgedistil.core.contract import write_contract
from edgedistil.core.records import write_record
from edgedistil.core.rundir import RunDir, tree_manifest, write_json, write_text
from edgedistil.report.cards import write_cards
from tests.fixtures.small_package import (
    TASK,
    export_record,
    parity_record,
    profile_record,
    small_contract,
    write_graph,
)


def test_complete_cards_are_written_into_the_report_and_not_into_the_export_folder(
    tmp_path: Path,
) -> None:
    run = RunDir(tmp_path / "run")
    folder = run.export("student", TASK)
    write_graph(folder / "onnx" / "model_int8.onnx", ("input_ids", "attention_mask"))
    write_record(folder / "export.int8.json", export_record(folder, "int8"))
    write_record(run.parity("student", TASK, "int8"), parity_record("int8"))
    write_record(run.profile("rpi4", "predicted"), profile_record())
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "num_hidden_layers": 2,
        "hidden_size": 44,
        "vocab_size": 53,
    }
    write_json(folder / "config.json", config)
    write_contract(folder, small_contract())
    provenance = {"model": "A student", "task": TASK, "licence": None, "command": "edgedistil"}
    provenance |= {"omitted": []}
    write_json(folder / "provenance.json", provenance)
    write_text(folder / "README.md", "# The card of the export\n")
    before = tree_manifest(folder)

    card = run.path / "report" / "cards" / "student-feature-extraction" / "README.md"
    assert write_cards(run) == [card]
    assert "| rpi4 | predicted | int8 |" in card.read_text(encoding="utf-8")
    assert tree_manifest(folder) == before


def test_a_run_without_exports_has_no_cards(tmp_path: Path) -> None:
    assert write_cards(RunDir(tmp_path)) == []
