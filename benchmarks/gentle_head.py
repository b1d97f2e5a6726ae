"""What fitting an MLM head costs a teacher's sentence vectors, by the rate of its encoder.

    python benchmarks/gentle_head.py --steps 100
    python benchmarks/gentle_head.py --steps 750 --out benchmarks/results/gentle_head.json

The same head is fitted to copies of MiniLM at several rates of the encoder. For each: held-out MLM
loss and top-1 (masked as BERT does), the mean cosine of the copy's sentence vectors to the
original's, the rank correlation of their similarities, and the seconds that fitting took. Rate 1 is
what was the default before, and is not allowed in a recipe.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from edgedistil.core.places import cache_root
from edgedistil.core.recipe import Corpus, FitHead, Masking, SourceSpec
from edgedistil.core.records import provenance
from edgedistil.core.sentence_vector import read_sentence_vector
from edgedistil.data.corpus import prepare_corpus
from edgedistil.distill.batches import RunBatches
from edgedistil.distill.distributed import TORCH_DTYPES, resolve_precision
from edgedistil.distill.fit_head import fit_model
from edgedistil.distill.heldout import HeldoutEvaluator
from edgedistil.distill.heldout_vectors import VectorEvaluator
from edgedistil.distill.sentence_setup import teacher_encoder
from edgedistil.models.fast.encoder import freeze_teacher
from edgedistil.models.teacher import Teacher, load_teacher

RATES = (0.0, 0.01, 0.05, 1.0)
SOURCES = ("wikipedia-sample", "world-english-bible", "reviews", "newsgroups")
HELDOUT_TOKENS = 32_768
SEED = 56


def main() -> None:
    """Fits a head at each rate and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps of each fitting")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--heldout-tokens", type=int, default=HELDOUT_TOKENS)
    parser.add_argument("--out", type=Path, help="record in JSON")
    arguments = parser.parse_args()

    teacher = load_teacher("asset:minilm", revision=None, cache=cache_root())
    sources = [SourceSpec(asset=name) for name in SOURCES]
    corpora = {
        layout: prepare_corpus(
            Corpus(sources=sources, layout=layout), teacher.folder, cache=cache_root()
        )
        for layout in ("packed", "texts")
    }
    rows = []
    for rate in arguments.rates:
        row = measure(teacher, corpora, rate, arguments.steps, arguments.heldout_tokens)
        rows.append(row)
        print(json.dumps(row), flush=True)
    if arguments.out is not None:
        record = {"rows": rows, "provenance": provenance().model_dump(mode="json")}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


def measure(teacher: Teacher, corpora: dict, rate: float, steps: int, heldout_tokens: int) -> dict:
    """Fits a head to a copy of the teacher, and evaluates the copy.

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

    vector = read_sentence_vector(teacher.folder, hidden=teacher.model.config.hidden_size)
    texts = RunBatches(corpora["texts"], teacher.tokenizer, None, seed=SEED, device=device).heldout(
        tokens=heldout_tokens
    )
    original = teacher_encoder(teacher, vector)
    comparison = VectorEvaluator(texts, original, targets=None, accelerator=accelerator)
    copied = copy.deepcopy(original)
    copied.backbone = fitted.base_model
    vectors = comparison.evaluate(copied, name="copy", step=0)
    return {
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


if __name__ == "__main__":
    main()
