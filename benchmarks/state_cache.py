"""A training step with the teacher's states read from a file, against one that computes them.

    python benchmarks/state_cache.py [--steps 12] [--write]

MiniLM into a student of 3 layers, 32 rows of 128 tokens, bfloat16. For each set of losses a step
of the first pass over the text (which computes the states and keeps them), one of a later pass, and
one without a file take turns in one process; figures are medians. About two minutes on two quiet
cores. With --write the record goes to benchmarks/results/state_cache-DATE.json.
Conditions: rows are read soon after they were written, so they come from memory. A file larger than
the free memory is read from the disk: 0.1 MB for each row and layer.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from page import RESULTS, argument_parser, load_averages, write_raw
from torch.optim import AdamW

from edgedistil.core.places import cache_root
from edgedistil.core.recipe_objective import Objective
from edgedistil.core.sentence_vector import read_sentence_vector
from edgedistil.data.batches import BatchOrder
from edgedistil.data.token_store import StoreWriter, TokenStore
from edgedistil.distill.batches import MicroBatch, micro_batches_at
from edgedistil.distill.representation import (
    RepresentationObjective,
    compared_layers,
    token_states,
)
from edgedistil.distill.sentence_setup import student_encoder, teacher_encoder
from edgedistil.distill.state_cache import StateCache
from edgedistil.models.fast.encoder import freeze_teacher
from edgedistil.models.student import StudentOptions, make_student
from edgedistil.models.teacher import Teacher, load_teacher

ROWS, LENGTH, DTYPE = 32, 128, torch.bfloat16
LOSSES = {
    "states": Objective(),
    "states and layers": Objective(layers=1.0),
    "states and relations": Objective(relations=1.0),
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--steps", type=int, default=12, help="steps of each variant")
    parser.add_argument("--write", action="store_true", help="write the record")
    arguments = parser.parse_args()

    teacher = load_teacher("asset:minilm", revision=None, cache=cache_root())
    records = {}
    for name, losses in LOSSES.items():
        with tempfile.TemporaryDirectory() as folder:
            seconds = time_variants(teacher, losses, Path(folder), steps=arguments.steps)
        medians = {variant: statistics.median(values) for variant, values in seconds.items()}
        computed = medians["computed"]
        print(
            f"{name}: computed {computed * 1000:.0f} ms; first pass "
            f"{medians['first pass'] / computed:.3f}, later pass "
            f"{medians['later pass'] / computed:.3f} of it",
            flush=True,
        )
        records[name] = seconds
    print(load_averages())
    if arguments.write:
        shape = {"rows": ROWS, "length": LENGTH, "dtype": str(DTYPE), "teacher": teacher.name}
        content = {**shape, "load": load_averages(), "seconds": records}
        print(write_raw(RESULTS, "state_cache", content))


def time_variants(
    teacher: Teacher, losses: Objective, folder: Path, *, steps: int
) -> dict[str, list[float]]:
    """Times steps of the three variants in turns; returns their seconds."""
    store = random_rows(folder / "store", rows=ROWS * (steps + 1))
    cache_folder = folder / "cache"
    cache_folder.mkdir()
    computing, keeping, cache = objectives(teacher, losses, store, cache_folder)
    optimizer = AdamW(computing.trained.parameters(), lr=0.0, fused=True)
    seconds: dict[str, list[float]] = {"computed": [], "first pass": [], "later pass": []}
    order = BatchOrder(store, seed=1, global_batch=ROWS, micro_batch=ROWS)
    for step in range(steps + 1):
        [batch] = micro_batches_at(step, order, None, pad_id=0, device=torch.device("cpu"))
        for variant, objective in (("computed", computing), ("first pass", keeping)):
            seconds[variant].append(time_step(objective, batch, optimizer))
        assert states_are_stored(cache, batch)
        seconds["later pass"].append(time_step(keeping, batch, optimizer))
    # The first step warms up.
    return {variant: values[1:] for variant, values in seconds.items()}


def states_are_stored(cache: StateCache, batch: MicroBatch) -> bool:
    """Whether a batch can be read without its teacher."""
    computed = []
    cache.states(batch.rows_B, lambda: computed.append(1) or {})
    return not computed


def random_rows(folder: Path, *, rows: int) -> TokenStore:
    """Returns a store of rows of random words."""
    ids = np.random.default_rng(1).integers(2000, 30_000, rows * LENGTH).astype(np.uint16)
    writer = StoreWriter(folder, vocabulary=30_522, row_length=LENGTH)
    writer.append(ids, np.full(rows, LENGTH))
    writer.close()
    return TokenStore(folder)


def objectives(
    teacher: Teacher, losses: Objective, store: TokenStore, folder: Path
) -> tuple[RepresentationObjective, RepresentationObjective, StateCache]:
    """Returns one student and teacher without and with kept states, and these states."""
    student = make_student(teacher.model, layer_map=[0, 2, 5], options=StudentOptions(dropout=0.0))
    vector = read_sentence_vector(teacher.folder, hidden=teacher.model.config.hidden_size)
    freeze_teacher(teacher.model, dtype=DTYPE)
    encoder = teacher_encoder(teacher, vector)
    encoder.head.float()
    trained = student_encoder(student, encoder, dimension=vector.dimension, seed=1).train()
    layers = compared_layers(losses, trained.backbone, encoder.backbone)
    with torch.autocast("cpu", dtype=DTYPE):
        cache = StateCache(folder, store, token_states(encoder.backbone, layers))
    computing = RepresentationObjective(trained, encoder, losses, targets=None)
    keeping = RepresentationObjective(trained, encoder, losses, targets=None, cache=cache)
    return computing, keeping, cache


def time_step(objective: RepresentationObjective, batch: MicroBatch, optimizer: AdamW) -> float:
    """Returns the seconds of a forward and a backward pass and an update."""
    began = time.perf_counter()
    with torch.autocast("cpu", dtype=DTYPE):
        total, _ = objective(batch, batch.counts)
    total.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
