"""conformance.jsonl: what a runner of an export folder has to give, whatever its language.

The first line describes the check: files with their sha256, graphs, tolerances, truncation. Each
other line is a text or a pair: token ids, token types and character offsets, and of short texts
some values of every output, evenly spread over it. All positions are attended (mask 1).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgedistil.core.contract import (
    CONFORMANCE_FILE,
    CONTRACT_FILE,
    Contract,
    read_contract,
)
from edgedistil.core.precision import PRECISIONS, Precision, graph_name
from edgedistil.core.rundir import sha256_file, write_text
from edgedistil.core.session import PROVIDERS, SESSION_FILE, read_session_file
from edgedistil.core.task import TASKS
from edgedistil.export.conformance_text import conformance_pairs, conformance_texts

CHECK_FILE = "check.py"
# Programs and modules of an export folder → our files with their content.
PROGRAMS = {
    CHECK_FILE: "check_script.py",
    "check.mjs": "check_script.mjs",
    "tokenizer.mjs": "tokenizer.mjs",
}
FORMAT = 1
# Values of an output that are stored: all of a label's scores, some of each part of a long tensor.
VALUES = 64
# Attention of a longer text costs seconds, and shows nothing that shorter ones do not.
_LONGEST_OUTPUT = 512
# float32 kernels differ in the order of their sums; the parity check has the same bound.
_FLOAT_SHARE = 1e-4
# Rounded activations flip between kernels: int8 states of three models differed by up to 0.0071
# between x86 and ARM. Wide enough for deeper models; tests show that it finds a wrong output.
_ROUNDED_SHARE = 0.08

Values = NDArray[np.float32]


def write_conformance(folder: Path) -> None:
    """Writes conformance.jsonl and the programs that check it into an export folder.

    Args:
        folder: Holds graphs, tokenizer, contract and session options.
    """
    contract = read_contract(folder)
    precisions = [name for name in PRECISIONS if (folder / "onnx" / graph_name(name)).is_file()]
    graphs = {name: f"onnx/{graph_name(name)}" for name in precisions}
    cases = _token_cases(folder, contract)
    tolerances = {}
    for name, file in graphs.items():
        tolerances[name] = _add_outputs(cases, folder, file, name, contract)
    head = {
        "format": FORMAT,
        "task": contract.task,
        "max_length": contract.tokenizer.max_length,
        "truncation_side": contract.tokenizer.truncation_side,
        "splits_special_tokens": contract.tokenizer.splits_special_tokens,
        "graphs": graphs,
        "tolerances": tolerances,
        "files": _digests(folder),
    }
    lines = "".join(f"{json.dumps(row)}\n" for row in [head, *cases])
    write_text(folder / CONFORMANCE_FILE, lines)
    for program, source in PROGRAMS.items():
        shutil.copyfile(Path(__file__).with_name(source), folder / program)


def _digests(folder: Path) -> dict[str, str]:
    """Returns the sha256 of every file that decides a result."""
    graphs = [path for path in sorted((folder / "onnx").rglob("*")) if path.is_file()]
    files = [folder / "tokenizer.json", folder / CONTRACT_FILE, *graphs]
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def _token_cases(folder: Path, contract: Contract) -> list[dict[str, Any]]:
    """Returns the texts and pairs with their tokens, as `tokenizers` reads the folder."""
    rules = contract.tokenizer
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(rules.max_length, direction=rules.truncation_side)
    tokenizer.encode_special_tokens = rules.splits_special_tokens
    texts = conformance_texts([special.token for special in rules.special_tokens.values()])
    inputs: list[tuple[str, str | None]] = [(text, None) for text in texts]
    if TASKS[contract.task].sends_pairs:
        inputs += conformance_pairs(texts)
    cases = []
    for first, second in inputs:
        encoding = tokenizer.encode(first, second)
        offsets = [list(span) for span in encoding.offsets]
        tokens = [list(encoding.ids), list(encoding.type_ids), offsets]
        cases.append(
            {
                "texts": [text for text in (first, second) if text is not None],
                "tokens": tokens,
                "outputs": {},
            }
        )
    return cases


def _add_outputs(
    cases: Sequence[dict[str, Any]],
    folder: Path,
    file: str,
    precision: Precision,
    contract: Contract,
) -> dict[str, float]:
    """Adds some values of each output of a graph to the cases; returns the tolerances."""
    # The inputs of a choice between texts have one axis more, which clients fill in their own way.
    if any(len(tensor.shape) != 2 for tensor in contract.inputs):
        return {}
    options = read_session_file(folder / SESSION_FILE)[file].session
    session = onnxruntime.InferenceSession(
        str(folder / file), options.to_onnxruntime(), providers=list(PROVIDERS)
    )
    names = [output.name for output in contract.outputs]
    largest = dict.fromkeys(names, 0.0)
    for case in cases:
        ids, types, _offsets = case["tokens"]
        if not 0 < len(ids) <= _LONGEST_OUTPUT:
            continue
        outputs = dict(zip(names, session.run(names, _feeds(contract, ids, types)), strict=True))
        case["outputs"][precision] = {name: spread(outputs[name]) for name in names}
        for name in names:
            largest[name] = max(largest[name], float(np.abs(outputs[name]).max()))
    share = _FLOAT_SHARE if PRECISIONS[precision].tolerances == "fp32" else _ROUNDED_SHARE
    return {name: share * max(value, 1e-3) for name, value in largest.items()}


def _feeds(contract: Contract, ids: list[int], types: list[int]) -> Mapping[str, NDArray[np.int64]]:
    ids_1L = np.array([ids], np.int64)
    feeds = {
        "input_ids": ids_1L,
        "attention_mask": np.ones_like(ids_1L),
        "token_type_ids": np.array([types], np.int64),
    }
    return {tensor.name: feeds[tensor.name] for tensor in contract.inputs}


def spread(output: Values) -> list[float]:
    """Returns at most `VALUES` values of an output, evenly spread over it, with seven digits."""
    values = output.ravel()
    places = np.linspace(0, values.size - 1, min(VALUES, values.size)).astype(int)
    return [float(f"{value:.7g}") for value in values[places]]
