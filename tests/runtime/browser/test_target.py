"""Jobs in a real Chromium: times, outputs, conditions, failures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgedistil.core.errors import InputError
from edgedistil.core.session import SessionOptions
from edgedistil.runtime.browser.target import BrowserTarget
from edgedistil.runtime.jobs import NpzInputs, run_job
from edgedistil.runtime.protocol import Alternation, Case, Job, JobModel, Reply
from tests.profiling.test_emulated import tiny_artefact

pytestmark = pytest.mark.needs("chromium", "npm")
IDS = {"a": np.array([[2, 5, 7, 3]]), "b": np.array([[2, 11, 13, 17, 5, 3]])}


def feeds(ids: np.ndarray) -> dict[str, np.ndarray]:
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": 0 * ids}


def inputs() -> NpzInputs:
    return NpzInputs({f"{k}/{name}": v for k, ids in IDS.items() for name, v in feeds(ids).items()})


@pytest.fixture(scope="module")
def target() -> BrowserTarget:
    return BrowserTarget.find()


def test_a_job_gives_times_outputs_and_conditions(
    target: BrowserTarget, tiny_model_folder: Path, tmp_path: Path
) -> None:
    artefact = tiny_artefact(tiny_model_folder, "int8")
    label = artefact.label
    model = artefact.job_model()
    two = model.model_copy(update={"session": SessionOptions(threads=2)})
    job = Job(
        models={label: model, "two": two},
        cases=[Case(name="4", keys=["a"]), Case(name="pairs", keys=["a", "b"], mode="pass")],
        alternate=[
            Alternation(
                name="t", first=label, second="two", keys=["a", "b"], blocks=4, calls_per_block=2
            )
        ],
        phases=["steady", "outputs"],
        outputs="outputs.npz",
        output_keys=["a", "b"],
        warmup_seconds=0,
        min_calls=7,
        min_seconds=0,
    )
    outputs = tmp_path / "outputs.npz"
    reply = run_job(target, [artefact], job, inputs(), outputs_to=outputs)
    result = reply.models[label]
    assert [len(result.cases[name].samples_ns) for name in ("4", "pairs")] == [7, 2]
    assert result.cases["4"].cpu_ns > 0
    assert result.load_ns is not None and result.start_to_first_result_ns is not None
    assert result.load_ns < result.start_to_first_result_ns
    assert result.memory.load is not None and result.memory.peak is not None
    assert result.memory.load <= result.memory.peak
    [turns] = reply.alternation
    assert [len(block.first_ns) for block in turns.blocks] == [2] * 4
    assert reply.conditions["page threads"].startswith("1, in shared memory")
    assert reply.conditions["browser"] == f"Chromium {target.version}"
    assert {"wasm heap", "downloaded"} <= set(reply.conditions)
    # Threads of the runtime do not answer how much memory their scripts have.
    assert "js heap" not in reply.conditions
    assert float(reply.conditions["downloaded"].split()[0]) > 13

    session = onnxruntime.InferenceSession(artefact.path)
    names = {node.name for node in session.get_inputs()}
    with np.load(outputs) as stored:
        for key, ids in IDS.items():
            expected = session.run(None, {n: v for n, v in feeds(ids).items() if n in names})
            for node, values in zip(session.get_outputs(), expected, strict=True):
                got = stored[f"{label}/{key}/{node.name}"]
                np.testing.assert_allclose(got, values, atol=0.05)


def failed(target: BrowserTarget, folder: Path, **changes: object) -> Reply:
    artefact = tiny_artefact(folder, "fp32")
    model = JobModel.model_validate({**artefact.job_model().model_dump(), **changes})
    job = Job(models={artefact.label: model}, cases=[Case(name="4", keys=["a"])])
    return run_job(target, [artefact], job, inputs(), check=False)


def test_a_missing_input_is_a_failed_job(target: BrowserTarget, tiny_model_folder: Path) -> None:
    reply = failed(target, tiny_model_folder, inputs={"input_ids": "words"})
    assert not reply.ok and reply.error is not None
    assert "the model needs words, which inputs 'a' lack" in reply.error.message
    assert reply.error.phase.startswith("load ")


def test_a_page_without_the_headers_has_no_threads() -> None:
    facts = BrowserTarget.find(isolated=False).describe_page()
    assert not facts.isolated
    assert facts.cores >= 1


def test_phases_that_need_the_system_are_refused(
    target: BrowserTarget, tiny_model_folder: Path
) -> None:
    artefact = tiny_artefact(tiny_model_folder, "fp32")
    job = Job(
        models={artefact.label: artefact.job_model()},
        cases=[Case(name="4", keys=["a"])],
        phases=["bandwidth"],
    )
    with pytest.raises(InputError, match="a browser cannot do the phase 'bandwidth'"):
        run_job(target, [artefact], job, inputs())
