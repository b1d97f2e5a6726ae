"""Runs in the environment `plain`: python plain_vectors_client.py REQUEST.json ANSWER.npz

Sentence vectors with onnxruntime, tokenizers and contract.json, without a library of models.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import tokenizers


def vectors(folder: Path, file: str, texts: list[str]) -> np.ndarray:
    contract = json.loads((folder / "contract.json").read_text())
    rules = contract["tokenizer"]
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(rules["max_length"], direction=rules["truncation_side"])
    tokenizer.enable_padding(pad_id=rules["pad_id"], direction=rules["padding_side"])
    prompt = contract["sentence_vector"]["prompts"]["query"]
    encoded = tokenizer.encode_batch([prompt + text for text in texts])
    columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    feeds = {}
    for tensor in contract["inputs"]:
        rows = [getattr(encoding, columns[tensor["name"]]) for encoding in encoded]
        feeds[tensor["name"]] = np.array(rows, np.int64)
    session = ort.InferenceSession(folder / "onnx" / file, providers=["CPUExecutionProvider"])
    (values,) = session.run(["sentence_embedding"], feeds)
    assert values.shape[1] == contract["sentence_vector"]["dimension"]
    return values


request = json.loads(Path(sys.argv[1]).read_text())
answers = {
    job["key"]: vectors(Path(job["folder"]), job["file"], job["texts"]) for job in request["jobs"]
}
np.savez(sys.argv[2], **answers)
