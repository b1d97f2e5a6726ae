"""Judges one model of the experiment in benchmarks/value/README.md, and writes its raw record.

    python benchmarks/value_judge.py runs/a1-56 --model teacher
    python benchmarks/value_judge.py runs/a1-56 --model student-step0 --arm A0
    python benchmarks/value_judge.py runs/a1-56 --model student --arm A1
    python benchmarks/value_judge.py runs/a1-56 --model student --arm A1 --fine-tune

Every student-step0 of the experiment is the same model. Vectors are computed in bfloat16 where the
processor multiplies it. Parts (a), (b) and (d) take five minutes for a student on one core;
--fine-tune adds part (c) to their record in half an hour. `value_report.py` makes the page. A
record is of one model: other weights are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from page import RESULTS, argument_parser, measured_on
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from value_data import (
    COLLECTIONS,
    DRAWS,
    FEW_LABELS,
    FewLabels,
    Ints,
    all_verses,
    film_sentences,
    random_pairs,
    topics,
)

from edgedistil.core import console
from edgedistil.core.distill_records import DistillRecord, HeldoutFigures, HeldoutMlm
from edgedistil.core.recipe import Recipe, load_recipe
from edgedistil.core.records import read_record
from edgedistil.core.rundir import RunDir, read_json_object, sha256_file, write_text
from edgedistil.core.similarity import pair_similarities, similarities
from edgedistil.core.tokenizer import TextTokenizer, read_tokenizer
from edgedistil.distill.targets import encode_vectors
from edgedistil.evaluate.encode import open_tokenizer, pad_id
from edgedistil.evaluate.finetune import FineTuneSettings, fine_tune
from edgedistil.evaluate.retrieval.collection import Collection
from edgedistil.evaluate.retrieval.packaged import load_packaged
from edgedistil.evaluate.retrieval.ranking import MAIN_METRIC, score_vectors
from edgedistil.evaluate.spec import Training, load_task
from edgedistil.evaluate.task_model import build_task_model, torch_forward
from edgedistil.inference.batching import batch_indices, pad_batch, within_positions
from edgedistil.models.fast.encoder import freeze_teacher
from edgedistil.models.native_dtype import bfloat16_is_native
from edgedistil.models.sentence_encoder import SentenceEncoder, load_sentence_encoder

FOLDER = RESULTS / "value"
# Tokens of a text: documents of the collections, and postings.
DOCUMENT_TOKENS, TOPIC_TOKENS = 256, 128
_BATCH_TOKENS = 8192
_QUERIES_AT_ONCE = 256
# Ranks beyond this count as not found, as nDCG@10 does.
DEPTH = 10
# Labels → epochs of fine-tuning: 160 and 252 steps of 16 texts.
FINE_TUNED = {256: 10, 1000: 4}
FINE_TUNING_DRAWS = 5
# The rate of the task files; batch and dev limit save time.
_RATE, _BATCH, _TOPICS_JUDGED = 1e-4, 16, 1500

# Cosines are written as integers in this unit.
_COSINE_UNIT = 1e-5
# Arm → name of its recipe.
ARM_RECIPES = {"A1": "value-a1", "A2": "value-a2", "A3": "serious"}

Vectors = NDArray[np.float32]

# Name of a model → its folder.
MODELS = {
    # The fitting of an MLM head changes a copy, which is the run's teacher then.
    "teacher": lambda run: run.teacher_as_given if run.teacher_as_given.exists() else run.teacher,
    "student-step0": lambda run: run.student_step0,
    "student": lambda run: run.student,
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("run", type=Path, help="run directory of an arm")
    parser.add_argument("--model", choices=list(MODELS), required=True)
    parser.add_argument("--arm", help="name of the arm; default: the model's")
    parser.add_argument("--fine-tune", action="store_true", help="add (c) to the record")
    arguments = parser.parse_args()
    run, arm = RunDir(arguments.run), arguments.arm or arguments.model
    recipe, folder = load_recipe(run.recipe), MODELS[arguments.model](run)
    check_arm(recipe, arm, arguments.model)
    path = FOLDER / f"{arm}-{recipe.seed}.json"
    record = record_before(path, weights_sha256(folder))
    if not arguments.fine_tune:
        record |= {"arm": arm, "seed": recipe.seed, **judge(run, arguments.model)}
    elif record:
        record["fine_tuned"] = fine_tuned(folder)
    else:
        raise SystemExit(f"{path} does not exist; judge (a), (b) and (d) first")
    save(path, record)
    print(path)


def save(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a record, complete or not at all; without spaces, because it is mostly numbers."""
    write_text(path, json.dumps(record, separators=(",", ":")) + "\n")


# --- one record, one model -----------------------------------------------------------------------


def weights_sha256(folder: Path) -> str:
    """Digest of a model's weights."""
    return sha256_file(folder / "model.safetensors")


def check_arm(recipe: Recipe, arm: str, model: str) -> None:
    """Raises SystemExit if a run is not of the arm that its record would be of."""
    expected = ARM_RECIPES.get(arm)
    if model == "student" and recipe.name != expected:
        raise SystemExit(
            f"arm {arm} is distilled by recipe {expected}, and this run by {recipe.name}"
        )


def record_before(path: Path, sha256: str) -> dict[str, Any]:
    """Returns the earlier record of a model; empty without one.

    Raises:
        SystemExit: It is of other weights.
    """
    if not path.exists():
        return {}
    record = read_json_object(path)
    if record["weights_sha256"] != sha256:
        raise SystemExit(f"{path} is of other weights; remove it to judge these")
    return record


def judge(run: RunDir, name: str) -> dict[str, Any]:
    """Returns what the report computes the figures of (a), (b) and (d) from.

    Args:
        run: Run of an arm.
        name: Which of its models is judged.
    """
    distilled = read_record(run.distill, DistillRecord)
    films, postings = film_sentences(), topics()
    folder = MODELS[name](run)
    model = Encoder.load(folder)
    of_films, of_postings = task_vectors(model, films), task_vectors(model, postings)
    return {
        "tokens": distilled.tokens_seen if name == "student" else 0,
        "weights_sha256": weights_sha256(folder),
        "teacher_sha256": weights_sha256(MODELS["teacher"](run)),
        "recipe_sha256": distilled.recipe_sha256,
        "measured": measured_on(),
        "cosines": compact_cosines(of_films),
        "ranks": ranks_of_verses(model),
        "ndcg": {name: ndcg(model, load_packaged(name)) for name in COLLECTIONS},
        "correct": {
            task.name: few_labels(task, vectors)
            for task, vectors in ((films, of_films), (postings, of_postings))
        },
        "cloze": cloze(distilled, name),
    }


# --- vectors -------------------------------------------------------------------------------------


class Encoder:
    """A model that gives sentence vectors."""

    def __init__(self, encoder: SentenceEncoder, tokenizer: TextTokenizer) -> None:
        """Casts the encoder in place."""
        self._encoder, self._tokenizer = encoder, tokenizer
        native = bfloat16_is_native(torch.device("cpu"))
        freeze_teacher(self._encoder.backbone, dtype=torch.bfloat16 if native else torch.float32)

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """Loads a model folder."""
        return cls(load_sentence_encoder(folder), read_tokenizer(folder))

    def embed(self, texts: Sequence[str], tokens: int, label: str) -> Vectors:
        """Returns the vectors of texts, cut to a number of tokens, (texts, width)."""
        framed = self._tokenizer.encode_framed(texts, tokens)
        vectors = np.empty((len(texts), self._encoder.vector.dimension), np.float32)
        lengths = [len(ids) for ids, _ in framed]
        with console.progress(label, len(texts), unit="texts") as bar:
            for indices in batch_indices(lengths, largest_batch=within_positions(_BATCH_TOKENS)):
                batch = pad_batch(framed, indices, pad_id=self._tokenizer.pad_id, on_the_left=False)
                mask_BL = torch.from_numpy(batch.mask_BL)
                with torch.inference_mode():
                    vectors_BV = encode_vectors(
                        self._encoder,
                        torch.from_numpy(batch.ids_BL),
                        None if bool(mask_BL.all()) else mask_BL,
                    )
                vectors[indices] = vectors_BV.numpy()
                bar.advance(len(indices))
        return vectors


# --- (a) without labels --------------------------------------------------------------------------


def compact_cosines(vectors_NV: Vectors) -> list[int]:
    """Cosines of the random pairs, in units of 1e-5."""
    first_P, second_P = random_pairs(len(vectors_NV))
    cosines_P = pair_similarities(vectors_NV[first_P], vectors_NV[second_P], "cosine")
    return np.rint(cosines_P / _COSINE_UNIT).astype(int).tolist()


def ranks_of_verses(model: Encoder) -> list[int]:
    """Rank of each verse's translation among all verses, from 1; 0 beyond the tenth."""
    collection = all_verses()
    queries = model.embed(list(collection.queries.values()), DOCUMENT_TOKENS, "verses")
    documents = model.embed(list(collection.documents.values()), DOCUMENT_TOKENS, "translations")
    places = {name: place for place, name in enumerate(collection.documents)}
    right = np.array([places[name] for name in collection.queries])
    ranks = np.empty(len(queries), int)
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        part = slice(start, start + _QUERIES_AT_ONCE)
        scores_QN = similarities(queries[part], documents, "cosine")
        of_right_Q1 = np.take_along_axis(scores_QN, right[part, None], axis=1)
        # The right verse comes last among equal ones, which favours no model.
        ranks[part] = (scores_QN >= of_right_Q1).sum(axis=1)
    return np.where(ranks <= DEPTH, ranks, 0).tolist()


def ndcg(model: Encoder, collection: Collection) -> list[float]:
    """nDCG@10 of each query of a collection."""
    queries = model.embed(list(collection.queries.values()), DOCUMENT_TOKENS, "queries")
    documents = model.embed(list(collection.documents.values()), DOCUMENT_TOKENS, "documents")
    scores = score_vectors(collection, queries, documents)
    return scores.by_metric[MAIN_METRIC].round(4).tolist()


# --- (b) few labels on frozen states -------------------------------------------------------------


def task_vectors(model: Encoder, task: FewLabels) -> Vectors:
    """Vectors of a task's texts; of postings as much as is judged."""
    tokens = TOPIC_TOKENS if task.name == "topics" else DOCUMENT_TOKENS
    return model.embed(task.texts, tokens, f"texts of {task.name}")


def few_labels(task: FewLabels, vectors: Vectors) -> dict[str, Any]:
    """Which judged examples the classifiers of each draw get right."""
    rows = []
    for number in range(DRAWS):
        is_right = np.zeros(len(task.labels), bool)
        for fold in task.judged_folds:
            trained, judged = task.draw(number, fold, FEW_LABELS), task.fold == fold
            classifier = make_pipeline(StandardScaler(), LogisticRegression(C=1, max_iter=1000))
            classifier.fit(vectors[trained], task.labels[trained])
            is_right[judged] = classifier.predict(vectors[judged]) == task.labels[judged]
        rows.append(is_right[task.judged])
    return pack(rows)


def pack(draws: Sequence[NDArray[np.bool_]]) -> dict[str, Any]:
    """Packs the judged texts of each draw into hexadecimal digits; `unpack` reads them."""
    rows = [np.packbits(is_right).tobytes().hex() for is_right in draws]
    return {"texts": len(draws[0]), "draws": rows}


def unpack(packed: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Returns whether each draw has each text right, (draws, texts)."""
    rows = np.stack([np.frombuffer(bytes.fromhex(row), np.uint8) for row in packed["draws"]])
    return np.unpackbits(rows, axis=1, count=packed["texts"]).astype(bool)


# --- (c) fine-tuned ------------------------------------------------------------------------------


def fine_tuned(folder: Path) -> dict[str, Any]:
    """Task, labels → which judged examples the model of each draw gets right."""
    by_task: dict[str, Any] = {}
    for task, name in ((film_sentences(), "sentiment"), (topics(), "newsgroups")):
        judged = judged_after_fine_tuning(task)
        by_task[task.name] = {}
        for labels in FINE_TUNED:
            draws = [
                fine_tune_draw(folder, task, name, judged, labels=labels, number=number)
                for number in range(FINE_TUNING_DRAWS)
            ]
            by_task[task.name][str(labels)] = pack(draws)
    return by_task


def judged_after_fine_tuning(task: FewLabels) -> Ints:
    """Examples of the first judged fold: other folds would need a model each."""
    judged = np.flatnonzero(task.fold == task.judged_folds[0])
    if task.name == "topics":
        return np.sort(np.random.default_rng(0).permutation(judged)[:_TOPICS_JUDGED])
    return judged


def fine_tune_draw(
    folder: Path, task: FewLabels, name: str, judged: Ints, *, labels: int, number: int
) -> NDArray[np.bool_]:
    """Fine-tunes a model on a draw of labels; returns which judged examples it gets right."""
    spec = load_task(name)
    kind, tokenizer = spec.task_kind, open_tokenizer(folder)
    training: Training = spec.training.model_copy(
        update={"epochs": FINE_TUNED[labels], "batch": _BATCH, "learning_rate": _RATE}
    )
    tokens = min(training.max_length, TOPIC_TOKENS)
    trained = [task.examples[i] for i in task.draw(number, task.judged_folds[0], labels)]
    rows = kind.training_rows(tokenizer, trained, tokens)
    classes = [str(label) for label in range(task.labels.max() + 1)]
    model = build_task_model(folder, kind, classes=classes, seed=number)
    settings = FineTuneSettings(
        kind=kind,
        training=training,
        seed=number,
        pad=pad_id(tokenizer),
        label=f"{task.name}, {labels} labels, draw {number}",
    )
    fine_tune(model, rows, settings)
    scoring = spec.scoring
    dev = [task.examples[i] for i in judged]
    scores = kind.score(torch_forward(model, kind), tokenizer, dev, scoring)
    return np.array(scores.predictions) == np.array(scores.labels)


# --- (d) cloze -----------------------------------------------------------------------------------


def cloze(distilled: DistillRecord, model: str) -> float | None:
    """Top-1 behind a real [MASK] on held-out text; None for a model without an MLM head."""
    figures = heldout_figures(distilled, model)
    if not isinstance(figures, HeldoutMlm):
        return None
    return figures.top1_hidden if isinstance(figures.top1_hidden, float) else None


def heldout_figures(distilled: DistillRecord, name: str) -> HeldoutFigures:
    """Returns the held-out figures of one of MODELS, which a run's record names by step.

    Raises:
        SystemExit: The record has none of this model.
    """
    step = distilled.steps if name == "student" else 0
    model = "teacher" if name == "teacher" else "student"
    matches = [row for row in distilled.heldout if (row.model, row.step) == (model, step)]
    if not matches:
        raise SystemExit(f"the record of the run has no held-out figures of {model} at step {step}")
    return matches[-1]


if __name__ == "__main__":
    main()
