"""Checks an export folder on a device: python check.py [PRECISION ...] [--outputs COUNT]

Compares tokens and outputs with conformance.jsonl; outputs of COUNT texts, evenly spread over the
numbers of tokens, or of all. Exit codes: 2 the folder is incomplete, 3 a string or a file differs.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

FOLDER = Path(__file__).resolve().parent


def fail(message: str, code: int = 3) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)


def require_files(digests: dict[str, str]) -> None:
    for name, expected in digests.items():
        if not (path := FOLDER / name).is_file():
            fail(f"{name} is missing: copy the folder with all its files", 2)
        elif hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            fail(f"{name} was changed after the export: its sha256 differs")


def open_session(file: str) -> onnxruntime.InferenceSession:
    advice = json.loads((FOLDER / "session.json").read_text("utf-8"))["artefacts"][file]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for key, value in advice["config_entries"].items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(str(FOLDER / file), options, providers=advice["providers"])


def compare_tokens(tokenizer: Tokenizer, case: dict[str, Any]) -> None:
    encoding = tokenizer.encode(*case["texts"])
    got = [encoding.ids, encoding.type_ids, [list(span) for span in encoding.offsets]]
    if got != case["tokens"]:
        fail(f"{case['texts']!a}: ids, types, offsets are {got}, expected {case['tokens']}")


def compare_outputs(session: Any, case: dict[str, Any], precision: str, bounds: Any) -> None:
    ids, types = (np.array([row], np.int64) for row in case["tokens"][:2])
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
    inputs = {node.name: feeds[node.name] for node in session.get_inputs()}
    for name, expected in case["outputs"][precision].items():
        values = session.run([name], inputs)[0].ravel()
        places = np.linspace(0, values.size - 1, len(expected)).astype(int)
        difference = np.abs(values[places] - expected).max()
        if not difference <= bounds[name]:
            fail(f"{case['texts']!a}: {name} in {precision} differs by {difference:.3g}")


def main(*arguments: str) -> None:
    head, *cases = map(json.loads, (FOLDER / "conformance.jsonl").read_text("utf-8").splitlines())
    require_files(head["files"])
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.enable_truncation(head["max_length"], direction=head["truncation_side"])
    tokenizer.encode_special_tokens = head["splits_special_tokens"]
    for case in cases:
        compare_tokens(tokenizer, case)
    names, _, count = " ".join(arguments).partition("--outputs")
    run = sorted((c for c in cases if c["outputs"]), key=lambda c: len(c["tokens"][0]))
    run = [run[int(i)] for i in np.linspace(0, len(run) - 1, min(int(count or 999), len(run)))]
    for precision in names.split() or head["graphs"]:
        session = open_session(head["graphs"][precision])
        for case in run:
            compare_outputs(session, case, precision, head["tolerances"][precision])
    print(f"{len(cases)} strings are as expected{count and f', outputs of {len(run)}'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
