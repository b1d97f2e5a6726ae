"""Facts with one home: a precision, a task, a download rule is stated in one file.

Each list names the files that mention a fact, with the reason for every file besides its home. A
new file fails the test: it should ask the table, or be listed with a reason.
tests/core/test_precision.py and tests/core/test_task.py prove the result by adding a precision and
a task to a copy of the package.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from edgedistil.core.precision import PRECISIONS
from edgedistil.core.task import TASKS

PACKAGE = Path(__file__).resolve().parents[2] / "edgedistil"
SOURCES = {
    path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(PACKAGE.rglob("*.py"))
}

# fp32 is the reference that every other precision is compared with, so other files may name it.
REFERENCE = "fp32"
QUANTIZED = set(PRECISIONS) - {REFERENCE}
# Files that a new precision changes.
PRECISION_HOMES = {
    "core/precision.py": "the table",
    "export/precisions.py": "the functions that build each precision",
}
# Files that name a precision and that a new one does not change.
NAMES_A_PRECISION = {
    "parity/tolerances.py": "bounds by kind of precision; a row of the table names its kind",
    "export/quantization_target.py": "what a device makes of two kinds of weights, in words",
    "profiling/artefacts.py": "guesses the precision of a graph that has no record",
    "profiling/openvino.py": "the two precisions that OpenVINO computes",
    "export/untrained.py": "the two int8 artefacts whose times a search compares",
    "search_measuring.py": "the two precisions that a search measures",
    "report/plots.py": "colours that the page gives to the artefacts of every run",
    # The same words with another meaning.
    "core/cpu.py": "fp16 is a feature of ARM cores",
    "core/device.py": "int8 is an arithmetic of a core",
    "costmodel/shapes.py": "int8 and fp16 are the precisions whose bytes follow from shapes",
    "costmodel/constants.py": "int8 is an arithmetic of a core",
    "costmodel/model.py": "int8 is an arithmetic of a core",
    "costmodel/workload.py": "int8 is an arithmetic of a node, uint8 a type of ONNX",
    "distill/distributed.py": "fp16 is accelerate's name of float16",
    "runtime/runner.py": "int8 and uint8 are types of ONNX tensors",
    "profiling/device_probe.py": "int8 is a rate that is measured",
    "profiling/devices.py": "fp16 and int8 are rates of a core",
}
TASK_HOMES = {"core/task.py": "the table"}
# Files that name a task and that a new one does not change.
NAMES_A_TASK = {
    "inference/classifier.py": "the class of one task",
    "inference/mask_filler.py": "the class of one task",
    "inference/question_answerer.py": "the class of one task",
    "inference/token_classifier.py": "the class of one task",
}

# Text of the code → files that contain it, with reasons.
FACTS: Mapping[str, Mapping[str, str]] = {
    "tomllib.loads(": {
        "core/toml.py": "the strict loader",
        "report/language_models.py": "a table of the package, not the user's",
        "report/load.py": "two keys of a stored recipe, which may be of another version",
    },
    "difflib": {"core/toml.py": "did you mean"},
    "flock(": {"core/fetch.py": "locks on files", "core/scratch.py": "locks on folders"},
    "snapshot_download(": {"core/fetch.py": "models from the hub"},
    "--only-binary": {"core/fetch.py": "package files through pip"},
    "'.ckpt'": {"core/fetch.py": "weights that are refused"},
    "onnxruntime.SessionOptions()": {
        "core/session.py": "options of every session",
        "export/check_script.py": "copied into exports as one file",
        "runtime/runner.py": "sent to boards as one file",
    },
    "ort.SessionOptions()": {},
    "session.x64quantprecision": {"core/session.py": "options of every session"},
}


def strings(source: str) -> set[str]:
    """String constants of a module, docstrings and other texts included."""
    constants = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return {node.value for node in constants if isinstance(node.value, str)}


def files_with_a_string(sources: Mapping[str, str], names: Collection[str]) -> set[str]:
    """Files of which a string constant is one of some names."""
    return {path for path, source in sources.items() if strings(source) & set(names)}


def code(source: str) -> str:
    """A module without comments and docstrings, with single quotes."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def files_with_code(sources: Mapping[str, str], text: str) -> set[str]:
    """Files whose code contains a text."""
    return {path for path, source in sources.items() if text in source and text in code(source)}


def test_a_new_precision_changes_two_files() -> None:
    assert len(PRECISION_HOMES) <= 2
    expected = {*PRECISION_HOMES, *NAMES_A_PRECISION}
    assert files_with_a_string(SOURCES, QUANTIZED) == expected


def test_only_the_homes_name_every_precision() -> None:
    for path in PRECISION_HOMES:
        assert strings(SOURCES[path]) >= QUANTIZED
    for path in NAMES_A_PRECISION:
        assert not strings(SOURCES[path]) >= QUANTIZED, path


def test_a_new_task_changes_two_files_at_most() -> None:
    assert len(TASK_HOMES) <= 2
    assert files_with_a_string(SOURCES, set(TASKS)) == {*TASK_HOMES, *NAMES_A_TASK}
    for path in NAMES_A_TASK:
        assert not strings(SOURCES[path]) >= set(TASKS), path


@pytest.mark.parametrize("text", FACTS)
def test_a_fact_is_stated_in_its_home(text: str) -> None:
    if text.startswith("'"):
        assert files_with_a_string(SOURCES, [text.strip("'")]) == set(FACTS[text])
    else:
        assert files_with_code(SOURCES, text) == set(FACTS[text])


def test_the_checks_can_fail() -> None:
    sources = {
        "new.py": 'PRECISION = "int8-static"\n',
        "task.py": 'def f(task):\n    return task == "fill-mask"\n',
        "docs.py": '"""About fill-mask and tomllib.loads(...)."""\n# flock(file)\n',
        "lock.py": "import fcntl\nfcntl.flock(file)\n",
    }
    assert files_with_a_string(sources, QUANTIZED) == {"new.py"}
    assert files_with_a_string(sources, set(TASKS)) == {"task.py"}
    assert files_with_code(sources, "flock(") == {"lock.py"}
    assert files_with_code(sources, "tomllib.loads(") == set()
