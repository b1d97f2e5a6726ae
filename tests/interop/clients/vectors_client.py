"""Runs in the environment `optimum`: python vectors_client.py REQUEST.json ANSWER.npz

Sentence vectors as sentence-transformers makes them from the folder.
"""

import json
import sys
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

request = json.loads(Path(sys.argv[1]).read_text())
answers = {}
for job in request["jobs"]:
    # Without a graph, the folder is a student's own, and its weights are loaded.
    graph = {"backend": "onnx", "model_kwargs": {"file_name": f"onnx/{job['file']}"}}
    model = SentenceTransformer(job["folder"], **(graph if job["file"] else {}))
    assert model.prompts["query"] == job["prompt"]
    answers[job["key"]] = model.encode(
        job["texts"], prompt_name="query", convert_to_numpy=True, show_progress_bar=False
    )
np.savez(sys.argv[2], **answers)
