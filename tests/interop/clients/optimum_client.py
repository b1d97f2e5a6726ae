"""Runs in the environment `optimum`: python optimum_client.py REQUEST.json ANSWER.npz"""

import json
import sys
from pathlib import Path

import numpy as np
from optimum.onnxruntime import (
    ORTModelForFeatureExtraction,
    ORTModelForMaskedLM,
    ORTModelForMultipleChoice,
    ORTModelForSequenceClassification,
)
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

CLASSES = {
    "fill-mask": ORTModelForMaskedLM,
    "feature-extraction": ORTModelForFeatureExtraction,
    "text-classification": ORTModelForSequenceClassification,
    "multiple-choice": ORTModelForMultipleChoice,
}


def ask(folder: str, task: str, file: str, texts: list[str]) -> dict[str, np.ndarray]:
    model = CLASSES[task].from_pretrained(folder, subfolder="onnx", file_name=file)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.is_fast
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
    if task == "multiple-choice":
        # All texts are the choices of one question.
        output = model(**{name: array[None] for name, array in inputs.items()})[0]
        return {"input_ids": inputs["input_ids"], "output": output}
    output = model(**inputs)[0]
    if task == "fill-mask":
        output = output[inputs["input_ids"] == tokenizer.mask_token_id]
    return {"input_ids": inputs["input_ids"], "output": output}


def encode(folder: str, file: str, texts: list[str]) -> dict[str, np.ndarray]:
    model = SentenceTransformer(folder, backend="onnx", model_kwargs={"file_name": f"onnx/{file}"})
    return {"output": model.encode(texts, convert_to_numpy=True, show_progress_bar=False)}


def answer(job: dict) -> dict[str, np.ndarray]:
    outputs = ask(job["folder"], job["task"], job["file"], job["texts"])
    results = {f"{job['key']}/{name}": array for name, array in outputs.items()}
    if job["task"] == "feature-extraction":
        outputs = encode(job["folder"], job["file"], job["texts"])
        results[f"{job['key']}/sentence"] = outputs["output"]
    return results


request = json.loads(Path(sys.argv[1]).read_text())
answers = {}
for job in request["jobs"]:
    try:
        answers.update(answer(job))
    except Exception as error:
        # A family that this version of transformers does not have.
        if not job.get("may_fail"):
            raise
        answers[f"{job['key']}/error"] = np.array(f"{type(error).__name__}: {error}")
np.savez(sys.argv[2], **answers)
