"""Checks an export folder; exit codes: 2 incomplete or wrong use, 3 a difference."""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

FOLDER = Path(__file__).resolve().parent
PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("precision", nargs="*", help="precisions to check; default: all")
PARSER.add_argument("--outputs", type=int, metavar="COUNT", help="texts to run; default: all")


def require_files(digests: dict[str, str]) -> None:
    for name, expected in digests.items():
        if not (path := FOLDER / name).is_file():
            PARSER.exit(2, f"{name} is missing: copy the folder with all its files\n")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            PARSER.exit(3, f"{name} was changed after the export: its sha256 differs\n")


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
        PARSER.exit(3, f"{case['texts']!a}: tokens are {got}, expected {case['tokens']}\n")


def compare_outputs(session: Any, case: dict[str, Any], precision: str, bounds: Any) -> None:
    ids, types = (np.array([row], np.int64) for row in case["tokens"][:2])
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
    inputs = {node.name: feeds[node.name] for node in session.get_inputs()}
    for name, expected in case["outputs"][precision].items():
        values = session.run([name], inputs)[0].ravel()
        places = np.linspace(0, values.size - 1, len(expected)).astype(int)
        error = np.abs(values[places] - expected).max()
        if not error <= bounds[name]:
            PARSER.exit(3, f"{case['texts']!a}: {name} in {precision} differs by {error:.3g}\n")


def main() -> None:
    options = PARSER.parse_args()
    head, *cases = map(json.loads, (FOLDER / "conformance.jsonl").read_text("utf-8").splitlines())
    if not set(options.precision) <= set(head["graphs"]):
        PARSER.error(f"PRECISION: got {options.precision}, expected some of {[*head['graphs']]}")
    if options.outputs is not None and options.outputs < 1:
        PARSER.error(f"--outputs: got {options.outputs}, expected at least 1")
    require_files(head["files"])
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.enable_truncation(head["max_length"], direction=head["truncation_side"])
    tokenizer.encode_special_tokens = head["splits_special_tokens"]
    for case in cases:
        compare_tokens(tokenizer, case)
    run = sorted((c for c in cases if c["outputs"]), key=lambda c: len(c["tokens"][0]))
    count = min(options.outputs or len(run), len(run))
    run = [run[int(place)] for place in np.linspace(0, len(run) - 1, count)]
    for precision in options.precision or head["graphs"]:
        session = open_session(head["graphs"][precision])
        for case in run:
            compare_outputs(session, case, precision, head["tolerances"][precision])
    ran = f", outputs of {count}" if options.outputs else ""
    print(f"{len(cases)} strings are as expected{ran}")


if __name__ == "__main__":
    main()
