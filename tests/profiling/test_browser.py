"""Profiles in a real Chromium: rows, threads, checks of outputs, and the advice for bundles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedistil.bundle.web.part import measured_choice
from edgedistil.core.errors import InputError, ParityError
from edgedistil.core.options import ProfileOptions
from edgedistil.core.profile_records import LatencyStats, MemoryStats
from edgedistil.core.records import NotMeasured
from edgedistil.core.session import WEB_SESSION_FILE, SessionAdvice, SessionOptions
from edgedistil.parity.gate import require_parity
from edgedistil.parity.probes import Probes
from edgedistil.profiling import browser_tune
from edgedistil.profiling.browser import measure_in_browser, usable_threads
from edgedistil.profiling.browser_tune import WebAdvice, tune_for_browser, write_web_advice
from edgedistil.profiling.device_parity import check_on_target
from edgedistil.profiling.latency import Ratio
from edgedistil.profiling.measured import MeasurementBudget
from edgedistil.profiling.stage import check_options
from edgedistil.runtime.browser.target import BrowserTarget, PageFacts
from tests.profiling.test_emulated import tiny_artefact, tiny_workload

needs_browser = pytest.mark.needs("chromium", "npm")
SHORT = MeasurementBudget(steady_seconds=0.1, max_seconds=2, processes=1, energy_seconds=0.1)


@needs_browser
def test_rows_and_checks_come_from_a_real_browser(tiny: Any, tiny_model_folder: Path) -> None:
    artefacts = [tiny_artefact(tiny_model_folder, "int8")]
    right = tiny.probes()
    profile = measure_in_browser(
        BrowserTarget.find(),
        artefacts,
        tiny_workload(tiny_model_folder),
        threads=[1],
        probes_of=lambda _: right,
        budget=SHORT,
    )
    [row] = [row for row in profile.record.rows if row.length == 13]
    assert (row.device, row.method, row.threads) == ("chromium", "measured", 1)
    assert row.runtime.startswith("onnxruntime web 1.30.0, WebAssembly, Chromium ")
    assert isinstance(row.latency, LatencyStats) and row.latency.p50_ms > 0
    assert isinstance(row.memory, MemoryStats)
    assert row.conditions["parity"].startswith("passed under these kernels: 4 sequences")
    assert {"wasm heap", "js heap", "downloaded", "page threads"} <= set(row.conditions)
    [use] = [note for note in profile.record.notes if "downloaded" in note]
    assert "wasm heap" in use and "js heap" in use and "page threads 1, in shared memory" in use
    [parity] = profile.parities.values()
    assert (parity.passed, parity.method, parity.device) == (True, "measured", "chromium")
    [gpu_note] = [note for note in profile.record.notes if note.startswith("WebGPU")]
    assert gpu_note.startswith(("WebGPU: not available: ", "WebGPU in software, outputs only"))
    for gpu in profile.webgpu.values():
        assert (gpu.method, gpu.device) == ("emulated", "chromium")


@needs_browser
def test_wrong_outputs_fail_the_check(tiny: Any, tiny_model_folder: Path) -> None:
    artefact = tiny_artefact(tiny_model_folder, "fp32")
    batch = tiny.probes().batches[0]
    wrong = {name: np.asarray(values + 1, np.float32) for name, values in batch.outputs.items()}
    probes = Probes("feature-extraction", "ab" * 32, 7, (), (replace(batch, outputs=wrong),))
    parity = check_on_target(BrowserTarget.find(), artefact, lambda _: probes)
    assert parity is not None and not parity.passed
    with pytest.raises(ParityError):
        require_parity(parity)


def test_threads_are_off_without_shared_memory() -> None:
    assert usable_threads(PageFacts(True, 4, "x"), [1, 4]) == ([1, 4], None)
    threads, note = usable_threads(PageFacts(False, 4, "x"), [1, 4])
    assert threads == [1]
    assert note is not None and note.startswith("threads are off: crossOriginIsolated is false")


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"device": "rpi4"}, "--device"),
        ({"ssh": "pi@board"}, "--ssh"),
        ({"memory_limit": "512M"}, "--memory-limit"),
        ({"sustained": 5}, "--sustained"),
        ({"calibrate": True}, "--calibrate"),
    ],
)
def test_options_of_other_machines_are_refused(changes: dict[str, Any], flag: str) -> None:
    with pytest.raises(InputError, match=f"--browser and {flag} exclude each other"):
        check_options(ProfileOptions(browser="chromium", **changes))


# --- the advice for bundles ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "passed", "expected"),
    [
        (Ratio(1.8, 1.7, 1.9, 6), ["int8"], "int8"),
        (Ratio(1.8, 0.9, 1.9, 6), ["int8"], "fp32"),
        (NotMeasured(not_measured="busy"), ["int8"], "fp32"),
        (Ratio(1.8, 1.7, 1.9, 6), [], "fp32"),
    ],
)
def test_the_fastest_precision_that_passed_is_taken(
    ratio: Any, passed: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    artefacts = [tiny_artefact_without_files(precision) for precision in ("fp32", "int8")]
    monkeypatch.setattr(browser_tune, "best_threads", lambda *_: (2, {"2 threads": "faster"}))
    monkeypatch.setattr(
        browser_tune,
        "_precision_ratios",
        lambda _target, _baseline, candidates, *_: {a.label: ratio for a in candidates},
    )
    advice = tune_for_browser(
        FakeTarget(),
        artefacts,
        FakeWorkloads(),
        max_threads=2,
        passed=[a.label for a in artefacts if a.precision in passed],
    )
    assert advice.precisions == {"student-feature-extraction": expected}
    line = write_web_advice(tmp_path, advice)
    assert line.endswith(f"student-feature-extraction: {expected}, 2 threads")
    why = advice.sessions["student-feature-extraction.int8"].reasons["precision"]
    assert why.startswith("left out") == (not passed)


class FakeTarget:
    name = "chromium"


class FakeWorkloads:
    def of(self, _artefact: Any) -> None:
        """Returns nothing: the functions that read it are replaced."""


def tiny_artefact_without_files(precision: Any) -> Any:
    from tests.profiling.conftest import make_artefact

    return make_artefact("student", precision)


def test_a_bundle_takes_what_was_measured(tmp_path: Path) -> None:
    export = tmp_path / "run" / "export" / "student-feature-extraction"
    (export / "onnx").mkdir(parents=True)
    (export / "onnx" / "model_int8.onnx").touch()
    profiles = tmp_path / "run" / "profile"
    assert measured_choice(export, None).precision is None
    session = SessionAdvice(
        session=SessionOptions(threads=3), reasons={}, precision="int8", target_device="chromium"
    )
    advice = WebAdvice({f"{export.name}.int8": session}, {export.name: "int8"})
    profiles.mkdir(exist_ok=True)
    write_web_advice(profiles, advice)
    assert (profiles / WEB_SESSION_FILE).is_file()
    choice = measured_choice(export, None)
    assert (choice.precision, choice.threads) == ("int8", 3)
    # The user's own precision has priority, and no threads were measured for it.
    (export / "onnx" / "model.onnx").touch()
    choice = measured_choice(export, "fp32")
    assert (choice.precision, choice.threads) == ("fp32", None)
