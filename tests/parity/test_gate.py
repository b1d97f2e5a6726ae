"""The parity check: which artefacts pass, which fail, and what the messages say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgedistil.core.errors import ModelError, ParityError
from edgedistil.core.export_records import ParityFigures, ParityRecord, Tolerance, ToleranceResult
from edgedistil.core.records import NotMeasured, read_record, write_record
from edgedistil.core.rundir import artefact_sha256
from edgedistil.parity.compare import Comparison, Outputs, compare
from edgedistil.parity.gate import (
    Feeds,
    check_artefact,
    check_tolerance,
    format_failure,
    judge,
    load_artefact,
    require_parity,
)
from edgedistil.parity.part_check import MAX_SHARE

if TYPE_CHECKING:
    from tests.parity.conftest import Exported


def _check(graph: Path, exported: Exported, **changed: Any) -> ParityRecord:
    arguments = {"precision": "fp32", "model": "student", "task": "fill-mask", **changed}
    return check_artefact(graph, exported.probes, **arguments)


def test_a_faithful_graph_passes_at_every_length(exported: Exported, tmp_path: Path) -> None:
    record = _check(exported.graph, exported)
    require_parity(record)
    assert record.passed
    assert record.artefact_sha256 == artefact_sha256(exported.graph)
    assert [row.length for row in record.by_length] == exported.probes.lengths
    assert sum(row.sequences for row in record.by_length) == exported.probes.sequences >= 64
    assert record.overall.max_abs < 1e-4
    assert record.overall.agreement == 1
    assert all(result.tolerance.reason for result in record.results)
    write_record(tmp_path / "parity.json", record)
    assert read_record(tmp_path / "parity.json", ParityRecord) == record


def test_a_difference_above_the_tolerance_is_refused_by_name_and_amount(exported: Exported) -> None:
    run = load_artefact(exported.graph)

    def shifted(feeds: Feeds) -> Outputs:
        return {name: array + np.float32(0.002) for name, array in run(feeds).items()}

    record = _check(exported.graph, exported, run=shifted)
    assert not record.passed
    with pytest.raises(
        ParityError,
        match=r"max_abs is 0\.002.*, expected at most 0\.0001 \(20(\.\d)? times the bound\)",
    ):
        require_parity(record)
    failed = [result.tolerance.figure for result in record.results if not result.holds]
    assert failed == ["max_abs"], "a shift of all logits turns no word"


def test_the_same_tokens_are_required_not_only_close_logits(exported: Exported) -> None:
    run = load_artefact(exported.graph)
    choice = int(exported.probes.batches[0].choices_M[0])

    def changed(feeds: Feeds) -> Outputs:
        logits = run(feeds)["logits"].copy()
        logits[..., choice] -= 30.0
        return {"logits": logits}

    record = _check(exported.graph, exported, run=changed)
    assert "agreement" in {result.tolerance.figure for result in record.results if not result.holds}


def test_a_baked_shape_is_an_error(exported: Exported, tmp_path: Path) -> None:
    """A graph that only takes the length it was traced with."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["logits"])],
        "baked",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, (1, 5))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, 5, 307))],
        [helper.make_tensor("table", TensorProto.FLOAT, (307, 307), [0.0] * 307**2)],
    )
    path = tmp_path / "model.onnx"
    onnx.save(
        helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path
    )

    def ids_only(feeds: Feeds) -> Outputs:
        return load_artefact(path)({"input_ids": feeds["input_ids"]})

    with pytest.raises(ParityError, match=r"cannot run 1 × 7 tokens"):
        _check(path, exported, run=ids_only)
    with pytest.raises(
        ModelError, match="has no input attention_mask, which its probes need; it has: input_ids"
    ):
        _check(path, exported)


def test_a_file_that_cannot_be_loaded_is_an_error(exported: Exported, tmp_path: Path) -> None:
    truncated = tmp_path / "model.onnx"
    truncated.write_bytes(exported.graph.read_bytes()[:1000])
    for path in (truncated, tmp_path / "missing.onnx"):
        with pytest.raises(ModelError, match=r"onnxruntime .* cannot load"):
            load_artefact(path)
    with pytest.raises(
        ModelError,
        match="the probes are of the task fill-mask, the artefact is of feature-extraction",
    ):
        _check(exported.graph, exported, task="feature-extraction")


def test_a_graph_without_its_weights_file_is_an_error(exported: Exported, tmp_path: Path) -> None:
    alone = tmp_path / "model.onnx"
    alone.write_bytes(exported.graph.read_bytes())
    with pytest.raises(ModelError, match="cannot load"):
        load_artefact(alone)


def test_outputs_from_elsewhere_are_judged_by_the_same_bounds(exported: Exported) -> None:
    short = exported.probes.up_to(16)
    run = load_artefact(exported.graph)
    record = judge(
        compare(short, [run(batch.feeds()) for batch in short]),
        precision="fp32",
        model="student",
        task="fill-mask",
        artefact_sha256="0" * 64,
        runtime="onnxruntime 1.32.0",
        method="emulated",
        device="rpi4",
    )
    assert record.passed
    assert (record.method, record.device) == ("emulated", "rpi4")


def test_an_unknown_task_is_refused(exported: Exported) -> None:
    short = exported.probes.up_to(16)
    run = load_artefact(exported.graph)
    with pytest.raises(ModelError, match="unknown task 'translation', expected one of fill-mask"):
        judge(
            compare(short, [run(batch.feeds()) for batch in short]),
            precision="fp32",
            model="student",
            task="translation",
            artefact_sha256="0" * 64,
            runtime="onnxruntime",
        )


@pytest.mark.parametrize(
    ("bound", "got", "holds"),
    [
        ("at most", 0.5, True),
        ("at most", 0.51, False),
        ("at least", 0.5, True),
        ("at least", 0.49, False),
    ],
)
def test_a_bound_holds_at_its_value(
    bound: Literal["at most", "at least"], got: float, holds: bool
) -> None:
    tolerance = Tolerance(figure="mean_abs", bound=bound, value=0.5, reason="a test")
    figures = ParityFigures(
        sequences=1,
        length=7,
        max_abs=1,
        mean_abs=got,
        cosine_min=1,
        cosine_mean=1,
        kl_nats=NotMeasured(not_measured="a test"),
        agreement=1,
    )
    assert check_tolerance(tolerance, figures).holds is holds
    absent = tolerance.model_copy(update={"figure": "kl_nats"})
    with pytest.raises(ParityError, match="the tolerance on kl_nats cannot be checked: a test"):
        check_tolerance(absent, figures)


def test_a_failure_says_by_how_much() -> None:
    low = Tolerance(figure="agreement", bound="at least", value=0.99, reason="a test")
    high = Tolerance(figure="kl_nats", bound="at most", value=0.01, reason="a test")
    assert format_failure(ToleranceResult(tolerance=low, got=0.9, holds=False)) == (
        "agreement is 0.9, expected at least 0.99 (0.09 too little)"
    )
    assert format_failure(ToleranceResult(tolerance=high, got=0.05, holds=False)) == (
        "kl_nats is 0.05, expected at most 0.01 (5 times the bound)"
    )


def test_a_bound_of_zero_is_missed_by_a_difference() -> None:
    zero = Tolerance(figure="mean_abs", bound="at most", value=0, reason="a test")
    assert format_failure(ToleranceResult(tolerance=zero, got=0.5, holds=False)) == (
        "mean_abs is 0.5, expected at most 0 (0.5 too much)"
    )


def _flat_comparison(share: float | NotMeasured, *, of_a_length: float = 0.05) -> Comparison:
    """An int8 artefact whose predictions differ in a quarter, as flat models' do."""
    figures = ParityFigures(
        sequences=64,
        length=NotMeasured(not_measured="all of 8, 64"),
        max_abs=0.4,
        mean_abs=0.01,
        cosine_min=0.99,
        cosine_mean=0.99,
        kl_nats=0.01,
        agreement=0.75,
        decisions=64,
        concordance=NotMeasured(not_measured="no single values"),
        reference_share=share,
    )
    at_64 = figures.model_copy(update={"length": 64, "reference_share": of_a_length})
    return Comparison(figures, [at_64], largest_output=1.0)


@pytest.mark.parametrize(
    ("share", "failures"),
    [
        # The rounding alone: only the floor of usefulness is left.
        (MAX_SHARE, []),
        (MAX_SHARE + 0.01, ["agreement"]),
        (1.4, ["agreement", "reference_share"]),
        (NotMeasured(not_measured="3 values"), ["agreement"]),
    ],
)
def test_a_flat_model_passes_only_with_the_roundings_of_its_reference(
    share: float | NotMeasured, failures: list[str]
) -> None:
    assert _failures(_flat_comparison(share)) == failures


def test_one_bad_length_fails_where_all_lengths_together_do_not() -> None:
    assert _failures(_flat_comparison(0.05, of_a_length=1.7)) == ["reference_share"]


def _failures(comparison: Comparison) -> list[str]:
    record = judge(
        comparison,
        precision="int8",
        model="m",
        task="fill-mask",
        artefact_sha256="0" * 64,
        runtime="a test",
    )
    return [result.tolerance.figure for result in record.results if not result.holds]
