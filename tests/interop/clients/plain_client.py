"""Runs in the environment `plain`, which has no transformers: python plain_client.py REQUEST.json
ANSWER.npz

Sessions are made as the package's session.json recommends.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import tokenizers


def session_for(folder: Path, file: str) -> ort.InferenceSession:
    advice = json.loads((folder / "session.json").read_text())["artefacts"][f"onnx/{file}"]
    options = ort.SessionOptions()
    for name, value in advice["options"].items():
        kind = {
            "graph_optimization_level": ort.GraphOptimizationLevel,
            "execution_mode": ort.ExecutionMode,
        }.get(name)
        setattr(options, name, getattr(kind, value) if kind else value)
    for name, value in advice["config_entries"].items():
        options.add_session_config_entry(name, value)
    return ort.InferenceSession(folder / "onnx" / file, options, providers=advice["providers"])


def ask(folder: Path, task: str, file: str, texts: list[str]) -> dict[str, np.ndarray]:
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.truncation is None and tokenizer.padding is None, "nothing is baked in"
    config = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer.enable_truncation(config["model_max_length"])
    tokenizer.enable_padding(
        direction=config.get("padding_side", "right"),
        pad_id=tokenizer.token_to_id(config["pad_token"]),
        pad_token=config["pad_token"],
    )
    encoded = tokenizer.encode_batch(texts)
    columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    session = session_for(folder, file)
    feeds = {
        graph_input.name: np.array(
            [getattr(encoding, columns[graph_input.name]) for encoding in encoded], np.int64
        )
        for graph_input in session.get_inputs()
    }
    assert set(feeds) == set(config["model_input_names"])
    if task == "multiple-choice":
        # All texts are the choices of one question.
        asked = {name: array[None] for name, array in feeds.items()}
        return {"input_ids": feeds["input_ids"], "output": session.run(None, asked)[0]}
    output = session.run(None, feeds)[0]
    if task == "fill-mask":
        output = output[feeds["input_ids"] == tokenizer.token_to_id(config["mask_token"])]
    return {"input_ids": feeds["input_ids"], "output": output}


request = json.loads(Path(sys.argv[1]).read_text())
answers = {}
for job in request["jobs"]:
    outputs = ask(Path(job["folder"]), job["task"], job["file"], job["texts"])
    answers.update({f"{job['key']}/{name}": array for name, array in outputs.items()})
np.savez(sys.argv[2], **answers)
