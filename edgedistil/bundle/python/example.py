"""Runs the model of this folder on a text.

python example.py TEXT
python example.py QUESTION CONTEXT     of a model for question answering
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import edgedistil

FOLDER = Path(__file__).resolve().parent / "model"


def main() -> None:
    """Prints what the model gives for the texts of the command line."""
    if len(sys.argv) < 2:
        sys.exit("usage: python example.py TEXT [CONTEXT]")
    text, *more = sys.argv[1:]
    [artefact] = json.loads((FOLDER / "session.json").read_text("utf-8"))["artefacts"].values()
    model = edgedistil.load(FOLDER, precision=artefact["precision"])
    match model:
        case edgedistil.Encoder():
            print(*model.embed([text])[0].tolist())
        case edgedistil.Classifier():
            for label in model.classify([(text, more[0]) if more else text])[0]:
                print(f"{label.score:.4f} {label.name}")
        case edgedistil.TokenClassifier():
            for span in model.spans([text])[0]:
                print(f"{span.score:.4f} {span.label} {span.start}-{span.end} {span.text}")
        case edgedistil.MaskFiller():
            for fillings in model.fill([text])[0]:
                print(*(f"{filling.text} {filling.score:.4f}" for filling in fillings), sep=", ")
        case edgedistil.QuestionAnswerer():
            if not more:
                sys.exit("usage: python example.py QUESTION CONTEXT")
            for answer in model.answer([(text, more[0])])[0]:
                print(f"{answer.score:.4f} {answer.start}-{answer.end} {answer.text}")


if __name__ == "__main__":
    main()
