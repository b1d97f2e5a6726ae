"""Profiles in the real OpenVINO: rows, checks of outputs, and the comparison with onnxruntime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgedistil.core.errors import InputError, ModelError, ParityError
from edgedistil.core.options import ProfileOptions
from edgedistil.core.profile_records import LatencyStats, MemoryStats
from edgedistil.profiling import openvino
from edgedistil.profiling.device_parity import check_on_target
from edgedistil.profiling.measured import MeasurementBudget, measure
from edgedistil.profiling.openvino import (
    OpenVinoProfile,
    comparison_pairs,
    make_forms,
    measure_in_openvino,
    uncompared_notes,
)
from edgedistil.profiling.stage import check_options
from edgedistil.runtime.forms import OPENVINO, OPENVINO_BF16, OPENVINO_NNCF
from edgedistil.runtime.local import LocalTarget
from tests.profiling.test_emulated import tiny_artefact, tiny_workload

SHORT = MeasurementBudget(steady_seconds=0.1, max_seconds=2, processes=2, energy_seconds=0.1)


@pytest.fixture(scope="module")
def profile(tiny: Any, tiny_model_folder: Path) -> OpenVinoProfile:
    """The tiny encoder in fp32 and int8, measured with one thread."""
    right = tiny.probes()
    return measure_in_openvino(
        [tiny_artefact(tiny_model_folder, name) for name in ("fp32", "int8")],
        tiny_workload(tiny_model_folder),
        threads=[1],
        probes_of=lambda _: right,
        budget=SHORT,
    )


def test_rows_come_from_the_real_runtime(profile: OpenVinoProfile) -> None:
    rows = {(row.precision, row.form): row for row in profile.record.rows if row.length == 13}
    # bfloat16 only where the processor computes in it.
    assert {key for key in rows if key[1] != "OpenVINO bf16"} == {
        ("fp32", "OpenVINO"),
        ("int8", "OpenVINO"),
        ("int8", "OpenVINO NNCF"),
    }
    for row in rows.values():
        assert row.runtime.startswith("OpenVINO 20")
        assert (row.device, row.method, row.threads) == ("openvino", "measured", 1)
        assert isinstance(row.latency, LatencyStats) and row.latency.p50_ms > 0
        assert isinstance(row.memory, MemoryStats)
        assert row.conditions["parity"].startswith("passed under these kernels: 4 sequences")


def test_every_form_is_compared_with_ours_in_turns(profile: OpenVinoProfile) -> None:
    compared = {(entry.precision, entry.form): entry.against for entry in profile.record.runtimes}
    compared.pop(("fp32", "OpenVINO bf16"), None)
    assert compared == {
        ("fp32", "OpenVINO"): "fp32",
        ("int8", "OpenVINO"): "int8",
        ("int8", "OpenVINO NNCF"): "int8",
    }
    for entry in profile.record.runtimes:
        assert entry.length == 13
        assert entry.runtimes.startswith("OpenVINO 20") and "onnxruntime 1." in entry.runtimes


def test_wrong_outputs_fail_the_check(tiny: Any, tiny_model_folder: Path, tmp_path: Path) -> None:
    # A graph with a weight that is not the exported one.
    fp32 = tiny_artefact(tiny_model_folder, "fp32")
    model = onnx.load(fp32.path)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    values = numpy_helper.to_array(weight) * np.float32(1.01)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "model.onnx")
    wrong = replace(fp32, path=tmp_path / "model.onnx", form=OPENVINO)

    parity = check_on_target(LocalTarget("openvino"), wrong, lambda _: tiny.probes())
    assert parity is not None and not parity.passed
    profile = OpenVinoProfile(record=None, parities={wrong.label: parity}, forms=[wrong])  # type: ignore[arg-type]
    with pytest.raises(ParityError, match=r"in OpenVINO 20.*max_abs is .* expected at most 0.0001"):
        openvino._require_parities(profile)


def test_wrong_outputs_of_nncf_are_a_warning(
    tiny: Any, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fp32 = replace(tiny_artefact(tiny_model_folder, "fp32"), form=OPENVINO)
    right = check_on_target(LocalTarget("openvino"), fp32, lambda _: tiny.probes())
    assert right is not None and right.passed
    nncf = replace(fp32, form=OPENVINO_NNCF)
    wrong = right.model_copy(update={"passed": False})
    profile = OpenVinoProfile(record=None, parities={nncf.label: wrong}, forms=[nncf])  # type: ignore[arg-type]
    openvino._require_parities(profile)
    assert "its times are shown all the same" in capsys.readouterr().err


def test_each_form_is_compared_with_what_takes_its_place(tiny_model_folder: Path) -> None:
    fp32, int8 = (tiny_artefact(tiny_model_folder, name) for name in ("fp32", "int8"))
    forms = [
        replace(fp32, form=OPENVINO),
        replace(fp32, form=OPENVINO_BF16),
        replace(int8, form=OPENVINO),
        replace(fp32, role="teacher", form=OPENVINO),
    ]
    pairs = comparison_pairs([fp32, int8], forms)
    assert [(form.label, ours.precision) for form, ours in pairs] == [
        ("student-feature-extraction.fp32.openvino", "fp32"),
        ("student-feature-extraction.fp32.openvino-bf16", "int8"),
        ("student-feature-extraction.int8.openvino", "int8"),
    ]


def test_a_form_without_its_int8_artefact_has_a_note(tiny_model_folder: Path) -> None:
    fp32, int8 = (tiny_artefact(tiny_model_folder, name) for name in ("fp32", "int8"))
    teacher = replace(fp32, model="teacher", role="teacher")
    forms = [
        replace(fp32, form=OPENVINO),
        replace(int8, form=OPENVINO_NNCF),
        replace(teacher, form=OPENVINO_BF16),
    ]
    assert uncompared_notes([fp32, teacher], forms) == [
        "student-feature-extraction.int8.openvino-nncf is not compared with onnxruntime: "
        "no int8 artefact; edgedistil export --quantize int8"
    ]
    assert uncompared_notes([fp32, int8, teacher], forms) == []


def test_a_profile_of_fp32_alone_says_what_is_not_compared(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fp32 = tiny_artefact(tiny_model_folder, "fp32")
    # Without NNCF, which takes ten seconds and has tests of its own.
    form = replace(fp32, precision="int8", form=OPENVINO_NNCF)
    monkeypatch.setattr(openvino, "make_forms", lambda *_: [form])
    profile = measure_in_openvino(
        [fp32],
        tiny_workload(tiny_model_folder),
        threads=[1],
        probes_of=lambda _: None,
        budget=SHORT,
    )
    assert profile.record.runtimes == []
    assert uncompared_notes([fp32], [form])[0] in profile.record.notes


def test_a_graph_that_openvino_cannot_run_is_named_as_exported(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    fp32 = tiny_artefact(tiny_model_folder, "fp32")
    corrupt = tmp_path / "graph.onnx"
    corrupt.write_bytes(b"no graph")
    form = replace(fp32, path=corrupt, form=OPENVINO, exported=fp32.path)
    workload = tiny_workload(tiny_model_folder)
    with pytest.raises(ModelError, match=r"OpenVINO 20.* cannot run it") as caught:
        measure(LocalTarget("openvino"), [form], workload, threads=[1], budget=SHORT)
    assert caught.value.message.startswith(f"{fp32.path}: ")
    assert "leave out --runtime" in str(caught.value.hint)


def test_other_precisions_are_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    int4 = replace(tiny_artefact(tiny_model_folder, "int8"), precision="int4")
    with pytest.raises(InputError, match=r"measures fp32 and int8, and there is only .*\.int4"):
        make_forms([int4], tiny_workload(tiny_model_folder), tmp_path)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"device": "rpi4"}, "--device"),
        ({"ssh": "pi@board"}, "--ssh"),
        ({"browser": "chromium"}, "--browser"),
        ({"memory_limit": "512M"}, "--memory-limit"),
        ({"batches": [8]}, "--batch"),
        ({"tune": True}, "--tune"),
        ({"calibrate": True}, "--calibrate"),
        ({"cpp": Path("bundle")}, "--cpp"),
    ],
)
def test_options_of_other_machines_are_refused(changes: dict[str, Any], flag: str) -> None:
    with pytest.raises(InputError, match=f"--runtime and {flag} exclude each other"):
        check_options(ProfileOptions(runtime="openvino", **changes))
