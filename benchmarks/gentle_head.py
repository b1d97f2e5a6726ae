"""What fitting an MLM head costs a teacher's sentence vectors, by the rate of its encoder.

    python benchmarks/gentle_head.py --steps 100
    python benchmarks/gentle_head.py --steps 750 --tasks --write

The same head is fitted to copies of MiniLM at several rates of the encoder. For each: held-out MLM
loss and top-1 (masked as BERT does), the mean cosine of the copy's sentence vectors to the
original's, the rank correlation of their similarities, and the seconds that fitting took. With
--tasks also few-label accuracy on the copy's vectors, as in (b) of value/README.md, and of the
teacher as given. Rate 1 was the default until the encoder was frozen, and is not allowed in a
recipe. Three quarters of an hour on one core; --write puts the record into benchmarks/results/.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from page import RESULTS, argument_parser, write_raw
from transformers import PreTrainedModel
from value_data import FewLabels, film_sentences, topics
from value_judge import Encoder, few_labels, task_vectors, unpack

from edgedistil.core.places import cache_root
from edgedistil.core.recipe import Corpus, FitHead, Masking, SourceSpec
from edgedistil.core.sentence_vector import read_sentence_vector
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.data.corpus import TokenizedCorpus, prepare_corpus
from edgedistil.distill.batches import RunBatches
from edgedistil.distill.distributed import TORCH_DTYPES, resolve_precision
from edgedistil.distill.fit_head import fit_model
from edgedistil.distill.heldout import HeldoutEvaluator
from edgedistil.distill.heldout_vectors import VectorEvaluator
from edgedistil.distill.sentence_setup import teacher_encoder
from edgedistil.models.fast.encoder import freeze_teacher
from edgedistil.models.sentence_encoder import SentenceEncoder
from edgedistil.models.teacher import Teacher, load_teacher

RATES = (0.0, 0.01, 0.05, 1.0)
SOURCES = ("wikipedia-sample", "world-english-bible", "reviews", "newsgroups")
HELDOUT_TOKENS = 32_768
SEED = 56


def main() -> None:
    """Fits a head at each rate and prints a table."""
    parser = argument_parser(__doc__)
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps of each fitting")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--heldout-tokens", type=int, default=HELDOUT_TOKENS)
    parser.add_argument("--tasks", action="store_true", help="judge few labels, too")
    parser.add_argument("--write", action="store_true", help="write the record")
    arguments = parser.parse_args()

    teacher = load_teacher("asset:minilm", revision=None, cache=cache_root())
    sources = [SourceSpec(asset=name) for name in SOURCES]
    corpora = {
        layout: prepare_corpus(
            Corpus(sources=sources, layout=layout), teacher.folder, cache=cache_root()
        )
        for layout in ("packed", "texts")
    }
    tasks = [film_sentences(), topics()] if arguments.tasks else []
    original = few_label_accuracies(teacher_copy(teacher, teacher.model), teacher.tokenizer, tasks)
    print(f"as given: {original}", flush=True)
    rows = []
    for rate in arguments.rates:
        row, fitted = measure(teacher, corpora, rate, arguments.steps, arguments.heldout_tokens)
        row |= few_label_accuracies(teacher_copy(teacher, fitted), teacher.tokenizer, tasks)
        rows.append(row)
        print(json.dumps(row), flush=True)
    if arguments.write:
        print(write_raw(RESULTS, "gentle_head", {"as_given": original, "rows": rows}))


def measure(
    teacher: Teacher,
    corpora: Mapping[str, TokenizedCorpus],
    rate: float,
    steps: int,
    heldout_tokens: int,
) -> tuple[dict[str, Any], PreTrainedModel]:
    """Fits a head to a copy of the teacher; returns its figures, and the copy.

    Args:
        teacher: The teacher as given.
        corpora: Corpus by layout.
        rate: Rate of the encoder as a share of the head's.
        steps: Optimizer steps.
        heldout_tokens: Held-out tokens of an evaluation.
    """
    device = torch.device("cpu")
    dtype = TORCH_DTYPES[resolve_precision("auto", device)]
    # Constructed without its checks: rate 1 is not allowed in a recipe.
    settings = FitHead.model_construct(**FitHead(steps=steps).model_dump() | {"encoder_rate": rate})
    model = copy.deepcopy(teacher.model)
    began = time.monotonic()
    losses = fit_model(
        model, teacher.tokenizer, corpora["packed"].train, settings, seed=SEED, dtype=dtype
    )
    seconds = time.monotonic() - began

    accelerator = Accelerator(cpu=True)
    fitted = freeze_teacher(model, dtype=torch.float32)
    masked = RunBatches(
        corpora["packed"], teacher.tokenizer, Masking(), seed=SEED, device=device
    ).heldout(tokens=heldout_tokens)
    mask_id = teacher.tokenizer.require("mask")
    evaluator = HeldoutEvaluator(masked, fitted, accelerator=accelerator, mask_id=mask_id)
    words = evaluator.evaluate(fitted, name="teacher", step=0)

    texts = RunBatches(corpora["texts"], teacher.tokenizer, None, seed=SEED, device=device).heldout(
        tokens=heldout_tokens
    )
    original = teacher_copy(teacher, teacher.model)
    comparison = VectorEvaluator(texts, original, targets=None, accelerator=accelerator)
    vectors = comparison.evaluate(teacher_copy(teacher, fitted), name="copy", step=0)
    figures = {
        "encoder_rate": rate,
        "steps": steps,
        "fitting_s": round(seconds, 1),
        "last_training_loss": sum(losses[-20:]) / len(losses[-20:]),
        "heldout_loss_nats": words.mlm_loss_nats,
        "top1": words.top1,
        "vector_cosine": vectors.cosine,
        "rank_correlation": vectors.rank_correlation,
        "top10_overlap": vectors.top10_overlap,
    }
    return figures, fitted


def teacher_copy(teacher: Teacher, model: PreTrainedModel) -> SentenceEncoder:
    """Returns a copy of the teacher's encoder with the weights of a model."""
    vector = read_sentence_vector(teacher.folder, hidden=teacher.model.config.hidden_size)
    encoder = copy.deepcopy(teacher_encoder(teacher, vector))
    encoder.backbone = copy.deepcopy(model.base_model)
    return encoder


def few_label_accuracies(
    encoder: SentenceEncoder, tokenizer: TextTokenizer, tasks: Sequence[FewLabels]
) -> dict[str, float]:
    """Returns the mean accuracy over the draws of each task; casts the encoder."""
    model = Encoder(encoder, tokenizer)
    accuracies = {}
    for task in tasks:
        packed = few_labels(task, task_vectors(model, task))
        accuracies[task.name] = float(unpack(packed).mean())
    return accuracies


if __name__ == "__main__":
    main()
