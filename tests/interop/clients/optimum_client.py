"""Runs in the environment `optimum`: python optimum_client.py REQUEST.json ANSWER.npz"""

import json
import sys
from pathlib import Path

import numpy as np
from optimum.onnxruntime import (
    ORTModelForFeatureExtraction,
    ORTModelForMaskedLM,
    ORTModelForSequenceClassification,
)
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

CLASSES = {
    "fill-mask": ORTModelForMaskedLM,
    "feature-extraction": ORTModelForFeatureExtraction,
    "text-classification": ORTModelForSequenceClassification,
}


def ask(folder: str, task: str, file: str, texts: list[str]) -> dict[str, np.ndarray]:
    model = CLASSES[task].from_pretrained(folder, subfolder="onnx", file_name=file)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.is_fast
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
    output = model(**inputs)[0]
    if task == "fill-mask":
        output = output[inputs["input_ids"] == tokenizer.mask_token_id]
    return {"input_ids": inputs["input_ids"], "output": output}


def encode(folder: str, file: str, texts: list[str]) -> dict[str, np.ndarray]:
    model = SentenceTransformer(folder, backend="onnx", model_kwargs={"file_name": f"onnx/{file}"})
    return {"output": model.encode(texts, convert_to_numpy=True, show_progress_bar=False)}


request = json.loads(Path(sys.argv[1]).read_text())
answers = {}
for job in request["jobs"]:
    outputs = ask(job["folder"], job["task"], job["file"], job["texts"])
    answers.update({f"{job['key']}/{name}": array for name, array in outputs.items()})
    if job["task"] == "feature-extraction":
        outputs = encode(job["folder"], job["file"], job["texts"])
        answers[f"{job['key']}/sentence"] = outputs["output"]
np.savez(sys.argv[2], **answers)
