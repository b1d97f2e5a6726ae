"""A model is published completely or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgedistil.core.errors import InputError, ParityError, StorageError
from edgedistil.core.export_records import ParityRecord
from edgedistil.core.options import ExportOptions
from edgedistil.core.precision import PrecisionRequest
from edgedistil.core.records import read_record
from edgedistil.core.rundir import RunDir, tree_manifest
from edgedistil.export import artefacts, publish
from edgedistil.export.precisions import BuildContext, PrecisionGraph
from edgedistil.export.publish import export_model
from edgedistil.export.request import checked_precisions, requested_precisions
from edgedistil.export.source import read_source

Folder = Callable[[str], Path]
Spoil = Callable[[ir.Graph], None]
Export = Callable[..., publish.Artefacts]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


@pytest.fixture
def export_encoder(folder: Folder, run: RunDir, text: list[str]) -> Export:
    """Exports the same encoder into `run`."""
    source = read_source(folder("DistilBertModel"), name="encoder", role="other", task=None)

    def export(precisions: Sequence[PrecisionRequest], *, explain: bool = False) -> object:
        options = ExportOptions(precisions=precisions, explain=explain, max_drop=1.0)
        return export_model(run, source, options, text=text)

    return export  # type: ignore[return-value]


@pytest.fixture
def spoil_int8(monkeypatch: pytest.MonkeyPatch) -> Callable[[Spoil], None]:
    """Makes every int8 graph that is built from now on wrong."""
    make_graph = artefacts.make_graph

    def install(spoil: Spoil) -> None:
        def make_wrong_graph(context: BuildContext, request: PrecisionRequest) -> PrecisionGraph:
            graph, advice = make_graph(context, request)
            if request in {"int8", "auto"}:
                spoil(graph.graph)
            return graph, advice

        monkeypatch.setattr(artefacts, "make_graph", make_wrong_graph)

    return install


def multiply(graph: ir.Graph, ending: str, factor: float) -> None:
    """Multiplies the first initializer whose name has that ending."""
    name = next(name for name in graph.initializers if name.endswith(ending))
    value = graph.initializers[name]
    assert value.const_value is not None
    value.const_value = ir.Tensor(value.const_value.numpy() * np.float32(factor), name=name)


def enlarge_a_scale(graph: ir.Graph) -> None:
    multiply(graph, "lin1.weight.scale", 1000)


def put_nan_into_a_bias(graph: ir.Graph) -> None:
    multiply(graph, "lin1.bias", np.nan)


def permute_the_output(graph: ir.Graph) -> None:
    last = next(node for node in graph if node.name == "encoder/turned")
    last.attributes["perm"] = ir.AttrInt64s("perm", [2, 1, 0])


def fix_the_batch_size(graph: ir.Graph) -> None:
    merge = graph.initializers["constant/merge"]
    merge.const_value = ir.Tensor(np.array([0, 1, -1], np.int64), name=merge.name)


# --- rejected artefacts ---------------------------------------------------------------------------


def test_an_artefact_that_fails_is_moved_to_rejected_and_nothing_else_changes(
    export_encoder: Export, run: RunDir, spoil_int8: Callable[[Spoil], None]
) -> None:
    export_encoder(["int8"])
    published = run.export("encoder", "feature-extraction")
    before = tree_manifest(published)
    spoil_int8(enlarge_a_scale)
    with pytest.raises(
        ParityError, match="encoder feature-extraction int8 failed the parity check: cosine"
    ) as caught:
        export_encoder(["int8"])
    assert caught.value.exit_code == 3
    assert "earlier exports have not changed" in str(caught.value)
    rejected = run.rejected / "encoder-feature-extraction.int8"
    assert {path.name for path in rejected.iterdir()} == {
        "model_int8.onnx",
        "model_int8.onnx_data",
        "export.json",
        "parity.json",
        "probes.npz",
        "refused.txt",
    }
    assert not read_record(rejected / "parity.json", ParityRecord).passed
    assert tree_manifest(published) == before


def test_a_failed_search_does_not_touch_the_int8_artefact_that_it_would_replace(
    export_encoder: Export, run: RunDir, spoil_int8: Callable[[Spoil], None]
) -> None:
    """`auto` writes the file of int8, under another name of the request."""
    export_encoder(["int8"])
    published = run.export("encoder", "feature-extraction")
    before = tree_manifest(published)
    spoil_int8(enlarge_a_scale)
    with pytest.raises(ParityError, match="encoder feature-extraction int8 failed"):
        export_encoder(["auto"])
    assert tree_manifest(published) == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (put_nan_into_a_bias, "output 'last_hidden_state' .*NaN or infinite"),
        (permute_the_output, r"output 'last_hidden_state' has (the )?shape \(44, "),
        (fix_the_batch_size, "cannot run 3 × 8 tokens"),
    ],
)
def test_an_artefact_that_cannot_be_compared_is_rejected_too(
    export_encoder: Export,
    run: RunDir,
    spoil_int8: Callable[[Spoil], None],
    spoil: Spoil,
    message: str,
) -> None:
    export_encoder(["int8"])
    published = run.export("encoder", "feature-extraction")
    before = tree_manifest(published)
    spoil_int8(spoil)
    with pytest.raises(ParityError, match=message) as caught:
        export_encoder(["int8"], explain=spoil is put_nan_into_a_bias)
    assert caught.value.exit_code == 3
    rejected = run.rejected / "encoder-feature-extraction.int8"
    names = {path.name for path in rejected.iterdir()}
    assert names >= {"model_int8.onnx", "export.json", "probes.npz", "refused.txt"}
    assert "parity.json" not in names
    assert "failed the parity check" in (rejected / "refused.txt").read_text()
    assert tree_manifest(published) == before


# --- interruptions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), StorageError("cannot write x: No space left on device")]
)
def test_an_interruption_leaves_the_run_as_it_was(
    export_encoder: Export, run: RunDir, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    export_encoder(["fp32"])
    before = tree_manifest(run.path)

    def stop(*_args: object, **_options: object) -> None:
        raise error

    # The graph is written before it is checked.
    monkeypatch.setattr(artefacts, "check_artefact", stop)
    with pytest.raises(type(error)):
        export_encoder(["fp32"])
    assert tree_manifest(run.path) == before


@pytest.mark.parametrize("full_at", ["probes", "parity"])
def test_a_disk_that_is_full_at_the_very_end_changes_nothing(
    export_encoder: Export, run: RunDir, monkeypatch: pytest.MonkeyPatch, full_at: str
) -> None:
    """The artefacts are written by then; the probes and the parity records are not."""
    export_encoder(["fp32"])
    before = tree_manifest(run.path)
    full = StorageError("cannot write x: No space left on device")
    write_record = publish.write_record

    def fail_on_parity(path: Path, record: object) -> None:
        if isinstance(record, ParityRecord):
            raise full
        write_record(path, record)  # type: ignore[arg-type]

    def fail_on_probes(_probes: object, _path: Path) -> None:
        raise full

    if full_at == "parity":
        monkeypatch.setattr(publish, "write_record", fail_on_parity)
    else:
        monkeypatch.setattr("edgedistil.parity.probes.Probes.save", fail_on_probes)
    with pytest.raises(StorageError, match="No space left"):
        export_encoder(["fp32"])
    assert tree_manifest(run.path) == before


# --- precisions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["int8"], ["fp32", "int8"]),
        (["fp32", "int8", "int8"], ["fp32", "int8"]),
        (["auto", "int8"], ["fp32", "auto"]),
        (["int4", "fp16"], ["fp32", "int4", "fp16"]),
    ],
)
def test_float32_comes_first_and_each_precision_once(names: list[str], expected: list[str]) -> None:
    assert checked_precisions(names) == expected


@pytest.mark.parametrize(
    ("name", "suggestion"), [("int9", "did you mean 'int8'"), ("fp23", "did you mean 'fp32'")]
)
def test_an_unknown_precision_is_refused(name: str, suggestion: str) -> None:
    with pytest.raises(InputError, match=f"unknown precision '{name}'; {suggestion}") as caught:
        checked_precisions([name])
    assert "fp32, fp16, int8, uint8, int8-dynamic, int8-static, int4, auto" in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_baseline_is_exported_in_float32_only(folder: Folder) -> None:
    path = folder("DistilBertModel")
    student = read_source(path, name="student", role="student", task=None)
    teacher = read_source(path, name="teacher", role="teacher", task=None, float_only=True)
    options = ExportOptions(precisions=["int8"])
    assert requested_precisions(student, options) == ["fp32", "int8"]
    assert requested_precisions(teacher, options) == ["fp32"]
    assert requested_precisions(student, ExportOptions()) == ["fp32", "int8"]
