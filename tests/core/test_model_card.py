from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from edgedistil.core.card_inputs import CardInputs, read_card_inputs
from edgedistil.core.contract import Contract, write_contract
from edgedistil.core.echo import one_line
from edgedistil.core.errors import StorageError
from edgedistil.core.export_records import RankFigures
from edgedistil.core.model_card import render_card
from edgedistil.core.records import write_record
from edgedistil.core.rundir import RunDir, write_json
from edgedistil.core.sentence_vector import SentenceVector, Step
from tests.fixtures.small_package import (
    TASK,
    export_record,
    invariance_record,
    parity_record,
    profile_record,
    small_contract,
    write_graph,
)

VECTOR = SentenceVector(
    pooling=("cls",),
    steps=(Step("normalize"),),
    dimension=3,
    prompts={"query": "find: ", "document": ""},
    default_prompt="query",
)


def card_inputs(folder: Path) -> CardInputs:
    for name in ("model.onnx", "model_int8.onnx"):
        write_graph(folder / "onnx" / name, ("input_ids", "attention_mask"))
    return CardInputs(
        folder_name=folder.name,
        title="A student",
        contract=small_contract(VECTOR),
        licence="apache-2.0",
        command="edgedistil export --quantize int8",
        config={
            "model_type": "distilbert",
            "architectures": ["DistilBertModel"],
            "n_layers": 2,
            "dim": 44,
            "vocab_size": 30522,
        },
        exports=[export_record(folder, "fp32"), export_record(folder, "int8", target="rpi4")],
        parities=[parity_record("fp32"), parity_record("int8", passed=False)],
        rows=profile_record().rows[:1],
    )


def test_the_card_shows_files_parity_profile_and_command(tmp_path: Path) -> None:
    card = render_card(card_inputs(tmp_path / "student-feature-extraction"))
    assert card.startswith('---\nlicense: "apache-2.0"\npipeline_tag: feature-extraction\n')
    assert "- sentence-transformers\n---" in card
    assert "# A student · feature-extraction" in card
    assert "1.2M parameters, 2 layers, hidden size 44, vocabulary of 30,522 tokens" in card
    assert "| `onnx/model_int8.onnx` | int8 | 0.0 | 17 | rpi4 |" in card
    assert (
        "| fp32 | 2.5e-06 | 3e-07 | – | 0.970000 | 0.970000 | 93.40% of 458 | – | passed |" in card
    )
    assert "| **rejected** |" in card
    assert "- fp32: max_abs at most 0.0001 (got 2.5e-06): because a test says so" in card
    assert "| rpi4 | predicted | int8 | 1 | 128 | 120–250 | – (a prediction) | 50–70 |" in card
    assert "```\nedgedistil export --quantize int8\n```" in card


def test_the_card_says_how_vectors_are_made_and_what_is_put_before_a_text(tmp_path: Path) -> None:
    inputs = card_inputs(tmp_path / "x")
    card = render_card(inputs)
    assert "first token → L2 normalization, the graph's output `sentence_embedding`. 3 val" in card
    assert "- query, the default: `find: `\n- document: nothing" in card
    guess = replace(VECTOR, is_guess=True, prompts={}, default_prompt=None)
    card = render_card(replace(inputs, contract=small_contract(guess)))
    assert "(a guess: the source does not say how it pools), computed by the client" in card
    assert "Prompts" not in card
    contract = replace(small_contract(), unsupported="the module LSTM")
    card = render_card(replace(inputs, contract=contract))
    assert "computed by the client (`modules.json`): the module LSTM is not supported" in card


def test_the_card_shows_the_agreement_of_rankings(tmp_path: Path) -> None:
    inputs = card_inputs(tmp_path / "x")
    figures = RankFigures(
        texts=200,
        similarity="cosine",
        top10_overlap=0.9375,
        rank_correlation=0.9876,
        vector_cosine_min=0.97,
        vector_cosine_mean=0.99,
    )
    parity = parity_record("int8").model_copy(update={"ranking": figures})
    card = render_card(replace(inputs, parities=[parity_record("fp32"), parity]))
    assert "| int8 | 200 | 0.970000 | 0.990000 | 93.8% | 0.9876 |" in card
    assert card.count("rank correlation") == 1


@pytest.mark.parametrize(("change", "cell"), [(0.0, "none"), (0.25, "0.25")])
def test_the_card_shows_the_change_by_neighbours(tmp_path: Path, change: float, cell: str) -> None:
    parity = parity_record("int8").model_copy(update={"invariance": invariance_record(change)})
    card = render_card(replace(card_inputs(tmp_path / "x"), parities=[parity]))
    assert f"| 93.40% of 458 | {cell} | passed |" in card


def test_a_client_without_multiple_choice_has_no_example(tmp_path: Path) -> None:
    inputs = card_inputs(tmp_path / "m")
    contract = replace(inputs.contract, task="multiple-choice")
    card = render_card(replace(inputs, contract=contract))
    assert "transformers.js\nconst run" not in card
    assert "ORTModelForMultipleChoice.from_pretrained" in card
    assert "Inputs are (batch, choices, sequence)" in card


def test_the_examples_load_the_fastest_artefact_that_every_client_knows(tmp_path: Path) -> None:
    card = render_card(card_inputs(tmp_path / "student-feature-extraction"))
    assert "pipeline('feature-extraction', 'student-feature-extraction', { dtype: 'int8' })" in card
    assert "ORTModelForFeatureExtraction.from_pretrained(" in card
    assert "file_name='model_int8.onnx'" in card
    assert "model_kwargs={'file_name': 'onnx/model_int8.onnx'}" in card
    assert "onnxruntime.InferenceSession('student-feature-extraction/onnx/model_int8.onnx')" in card


def test_a_family_that_optimum_cannot_load_has_no_example_of_it(tmp_path: Path) -> None:
    inputs = card_inputs(tmp_path / "m")
    card = render_card(replace(inputs, config={**inputs.config, "model_type": "nomic_bert"}))
    assert "ORTModel" not in card
    assert "SentenceTransformer(" not in card
    assert "// transformers.js" in card
    assert "# only onnxruntime and tokenizers" in card


def test_a_card_without_licence_parity_and_profile_says_so_or_is_silent(tmp_path: Path) -> None:
    inputs = card_inputs(tmp_path / "x")
    card = render_card(replace(inputs, licence=None, parities=(), rows=()))
    assert "license" not in card
    assert "Not checked: these files were exported without a parity check." in card
    assert "Speed and memory" not in card


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run with one export folder and its parity, not profiled yet."""
    run = RunDir(tmp_path / "run")
    folder = run.export("student", TASK)
    inputs = card_inputs(folder)
    write_record(folder / "export.int8.json", inputs.exports[1])
    write_record(run.parity("student", TASK, "int8"), inputs.parities[1])
    write_json(folder / "config.json", inputs.config)
    write_contract(folder, inputs.contract)
    description = {"model": "A student", "task": TASK, "licence": None, "command": "edgedistil"}
    description |= {"omitted": []}
    write_json(folder / "provenance.json", description)
    return run


def test_a_complete_card_has_the_rows_of_its_own_artefacts_only(run: RunDir) -> None:
    folder = run.export("student", TASK)
    before = read_card_inputs(run, folder)
    assert [record.precision for record in before.exports] == ["int8"]
    assert [record.precision for record in before.parities] == ["int8"]
    assert before.rows == []
    write_record(run.profile("rpi4", "predicted"), profile_record())
    after = read_card_inputs(run, folder)
    assert [row.device for row in after.rows] == ["rpi4"], (
        "not the teacher's, not a former export's"
    )
    assert replace(after, rows=[]) == before


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "contract.json", "provenance.json"])
def test_a_damaged_file_of_the_folder_is_named(run: RunDir, name: str, content: bytes) -> None:
    folder = run.export("student", TASK)
    (folder / name).write_bytes(content)
    with pytest.raises(StorageError, match=rf"{name}(.|\n)*run edgedistil export again"):
        read_card_inputs(run, folder)


MARK = "<b>x</b>[a](javascript:x)`|\n\n# h\n```\n\x1b[31m\x00'; --- **b** &lt;"


def hostile_contract() -> Contract:
    vector = replace(VECTOR, prompts={MARK: MARK, "document": MARK}, default_prompt=MARK)
    return replace(small_contract(vector), unsupported=MARK)


def test_text_from_elsewhere_is_text_in_the_card(tmp_path: Path) -> None:
    inputs = card_inputs(tmp_path / "x")
    hostile = replace(
        inputs,
        folder_name=MARK,
        title=MARK,
        licence=MARK,
        command=MARK,
        config={**inputs.config, "architectures": [MARK]},
        exports=[record.model_copy(update={"target_device": MARK}) for record in inputs.exports],
        rows=[row.model_copy(update={"device": MARK}) for row in inputs.rows],
        contract=hostile_contract(),
        omitted=[MARK, "# h"],
    )
    card = render_card(hostile)
    front_matter, rest = card.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(front_matter)["license"] == one_line(MARK)
    assert not re.search("[\x00-\x09\x0b-\x1f]", card)

    # The same headings and blocks as a harmless card, and no effect.
    harmless_contract = replace(inputs.contract, unsupported="a")
    harmless_inputs = replace(inputs, omitted=["a", "b"], contract=harmless_contract)
    _, harmless = render_card(harmless_inputs).split("\n---\n", 1)
    parser = MarkdownIt("commonmark").enable("table")
    types = [token.type for token in parser.parse(rest)]
    assert types == [token.type for token in parser.parse(harmless)]
    for token in parser.parse(rest):
        inner = {child.type for child in token.children or []}
        assert inner <= {"text", "code_inline", "softbreak", "strong_open", "strong_close"}
    assert "javascript:x" in rest
