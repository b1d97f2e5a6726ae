"""Probes of a model: held-out text in padded batches, with PyTorch's float32 outputs.

Which outputs are stored:

- Narrow outputs (hidden states, labels, spans) at every attended position.
- For fill-mask, the logits of the complete vocabulary at up to 256 positions, three quarters of
  them masked. A very large vocabulary gets fewer, so that they stay below 32 MiB, but at least 64.
  At *every* masked position the most likely token and its lead are stored: agreement covers them
  all.
- Hidden states at the end of every part (`boundaries`) at four positions a sequence, and at all
  positions of one padded batch. With the latter an artefact's layers are fed one by one,
  which separates their errors (`edgedistil/parity/localize.py`).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from edgedistil.core import console
from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.sentence_vector import Similarity
from edgedistil.core.task import SENTENCE_OUTPUT, TASKS, Task, problem_type_of
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.export.boundaries import at_boundaries
from edgedistil.export.probe_inputs import (
    IntArray,
    Pairs,
    ProbeInputs,
    draw_inputs,
    pad_sequences,
    plan_calls,
    tokenize_documents,
)
from edgedistil.export.trace import takes_token_types
from edgedistil.models.facts import weights_sha256
from edgedistil.models.sentence_encoder import SentenceEncoder
from edgedistil.parity.compare import margins
from edgedistil.parity.invariance import find_change_by_padding
from edgedistil.parity.probes import PoolBatch, ProbeBatch, Probes, TextPool, by_question

FloatArray = NDArray[np.float32]

# Positions with the logits of the complete vocabulary, and the bytes that they may take: all
# positions of 67 sequences would be 0.5 GB
# (docs/decisions.md#probes-store-pytorchs-outputs-where-they-are-compared).
LOGIT_ROWS = 256
LEAST_LOGIT_ROWS = 64
LOGIT_BYTES = 32 * 2**20
# Decisions are made at masked positions; the others are plain tokens.
MASKED_ROWS_SHARE = 0.75
# The first and the last token, and two between.
HIDDEN_ROWS_PER_SEQUENCE = 4
# Sequences of the first batch with complete hidden states: several, with padding.
FULL_STATES_FROM_SEQUENCES = 4
# Texts that are ranked by each other, their tokens, and the texts of a call: with more texts the
# figures differ by less than draws of text do, and the pool takes a quarter of the probes' time.
POOL_TEXTS = 200
POOL_TOKENS = 40
POOL_BATCH = 8
# Bytes of complete hidden states, which every part of an artefact is fed.
FULL_STATE_BYTES = 64 * 2**20


def make_probes(
    model: PreTrainedModel,
    tokenizer: TextTokenizer,
    task: Task,
    text: Sequence[str],
    *,
    seed: int,
    sentence: SentenceEncoder | None = None,
) -> Probes:
    """Runs a model on real text: at least 64 sequences, six lengths up to the model's positions.

    Args:
        model: A model of a supported family with the task's head; run in float32 without dropout.
        tokenizer: Its tokenizer; fill-mask needs a mask token.
        task: What the model computes.
        text: Held-out documents or lines. Each sequence starts where a document starts; short
            documents are followed by the next ones, and a short text is used repeatedly.
        seed: Selects documents and masked positions.
        sentence: Makes sentence vectors of the model's states, if the graph has them as an output.
    Raises:
        CorpusError: The text has no tokens.
        ModelError: The task is unknown, the tokenizer lacks a special token, or the model's own
            outputs are NaN or infinite.
    """
    if task not in TASKS:
        raise ModelError(f"no probes for the task '{task}'; expected one of: {', '.join(TASKS)}")
    rng = np.random.default_rng(seed)
    documents = tokenize_documents(tokenizer, text, rng)
    token_types = takes_token_types(model, tokenizer)
    draw = partial(
        draw_inputs,
        documents,
        tokenizer,
        rng,
        pairs=_pairs(task, token_types=token_types),
        masks=TASKS[task].level == "vocabulary",
        token_types=token_types,
        choices=TASKS[task].has_choices,
    )
    family = FAMILIES[model.config.model_type]
    calls = plan_calls(family.positions_limit(model.config.to_dict()))
    reference = Reference(_in_float32(model), task, sentence)
    boundaries, batches = _run_calls(reference, calls, draw, rng)
    pool = None
    if sentence is not None:
        pool = make_pool(reference, sentence.vector.similarity, documents, tokenizer, token_types)
    probes = Probes(
        task=task,
        # The digest is of the weights as they are stored, not of a float32 copy.
        source_sha256=_source_sha256(model, sentence),
        seed=seed,
        boundaries=boundaries,
        batches=tuple(batches),
        problem_type=problem_type_of(task, model.config.problem_type, model.config.num_labels),
        pool=pool,
    )
    return replace(probes, change_by_padding=find_change_by_padding(reference.run, probes))


def _source_sha256(model: PreTrainedModel, sentence: SentenceEncoder | None) -> str:
    """Digest of the weights, and of what follows them in the graph."""
    digest = weights_sha256(model)
    if sentence is None:
        return digest
    # Another pooling makes another artefact of the same model.
    parts = [digest, sentence.vector.in_words(), weights_sha256(sentence.head)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _pairs(task: Task, *, token_types: bool) -> Pairs:
    """Which probes of a task are two texts."""
    row = TASKS[task]
    # A question has a context, or choices; a label may be of one text or of two.
    if row.sends_pairs:
        return "all" if row.level in ("span", "choice") else "half"
    # Otherwise no probe would have a token of the second type.
    return "half" if token_types else "none"


# --- running the model ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """What computes the outputs that artefacts are compared with."""

    model: PreTrainedModel
    task: Task
    sentence: SentenceEncoder | None

    def run(self, arrays: Mapping[str, IntArray]) -> dict[str, FloatArray]:
        """Returns the outputs of the task; raises ModelError if one is NaN or infinite."""
        feeds = {name: torch.from_numpy(array) for name, array in arrays.items()}
        with torch.inference_mode():
            outputs = self.model(**feeds)
            tensors = {name: getattr(outputs, name) for name in TASKS[self.task].outputs}
            if self.sentence is not None:
                tensors[SENTENCE_OUTPUT] = self.sentence.vectors(
                    outputs.last_hidden_state, feeds["attention_mask"]
                )
        values = {name: tensor.numpy() for name, tensor in tensors.items()}
        for name, array in values.items():
            _check_finite(name, array)
        return values


def _run_calls(
    reference: Reference,
    calls: Sequence[tuple[int, int]],
    draw: Callable[[tuple[int, int]], ProbeInputs],
    rng: np.random.Generator,
) -> tuple[tuple[str, ...], list[ProbeBatch]]:
    """Draws the inputs of each call, runs the model, and keeps the outputs that are compared.

    Returns:
        Names of the parts whose outputs are stored, and the batches.
    """
    total = sum(count for _, count in calls)
    with_states = calls_with_states(calls, _state_bytes(reference.model))
    batches: list[ProbeBatch] = []
    states: dict[str, Tensor] = {}
    with console.progress("running PyTorch on the probes", total, unit="sequences") as bar:
        for index, (length, count) in enumerate(calls):
            inputs = draw((length, count))
            with at_boundaries(reference.model, states.__setitem__):
                outputs = reference.run(by_question(inputs.feeds, inputs.choices))
            # Each batch has its share of the positions with logits.
            rows = _select_rows(inputs, outputs, reference.task, rng, share=count / total)
            store_all = index in with_states
            hidden = list(states.values())
            batches.append(_probe_batch(inputs, outputs, hidden, rows, store_all=store_all))
            bar.advance(count)
    return tuple(states), batches


def calls_with_states(calls: Sequence[tuple[int, int]], token_bytes: int) -> set[int]:
    """Indices of the calls whose complete hidden states are stored.

    A padded batch that is not among the shortest, always; then calls of odd lengths and the longest
    one, as many as fit into `FULL_STATE_BYTES`.

    Args:
        calls: (padded length, sequences) of each call, shortest first.
        token_bytes: Bytes of the hidden states of one token.
    """
    padded = [
        index
        for index, (length, count) in enumerate(calls)
        if count >= FULL_STATES_FROM_SEQUENCES and length >= 2 * calls[0][0]
    ]
    odd = [index for index, (length, _) in enumerate(calls) if length % 2]
    selected = set(padded[:1])
    budget = FULL_STATE_BYTES
    for index in dict.fromkeys([*odd, len(calls) - 1]):
        length, count = calls[index]
        budget -= length * count * token_bytes
        if budget < 0:
            break
        selected.add(index)
    return selected


def make_pool(
    reference: Reference,
    similarity: Similarity,
    documents: Sequence[list[int]],
    tokenizer: TextTokenizer,
    token_types: bool,
) -> TextPool:
    """Returns different short texts with PyTorch's vectors, for the comparison of rankings.

    Args:
        reference: Computes the vectors.
        similarity: How the vectors are compared.
        documents: Tokens of each document, of which the first ones are taken.
        tokenizer: Puts the special tokens around a text.
        token_types: Whether the model takes `token_type_ids`.
    """
    positions = tokenizer.positions or POOL_TOKENS
    room = min(POOL_TOKENS, positions) - tokenizer.special_count(pair=False)
    # Equal texts would be each other's nearest ones in every model.
    texts = list(dict.fromkeys(tuple(ids[:room]) for ids in documents))[:POOL_TEXTS]
    batches = []
    for start in range(0, len(texts), POOL_BATCH):
        framed = [tokenizer.frame(ids) for ids in texts[start : start + POOL_BATCH]]
        feeds = pad_sequences(framed, max(len(ids) for ids, _ in framed), tokenizer)
        if not token_types:
            del feeds["token_type_ids"]
        batches.append(PoolBatch(feeds, reference.run(feeds)[SENTENCE_OUTPUT]))
    return TextPool(similarity, tuple(batches))


def _state_bytes(model: PreTrainedModel) -> int:
    """Bytes of one token's hidden states at all boundaries."""
    family = FAMILIES[model.config.model_type]
    config = model.config.to_dict()
    return 4 * family.hidden(config) * (2 * family.layers(config) + 2)


def _in_float32(model: PreTrainedModel) -> PreTrainedModel:
    """Returns the model, or a copy if it is not float32 on the CPU without dropout."""
    # A copy of the caller's model costs its memory, so it is made only if necessary.
    plain = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters())
    if plain and not model.training:
        return model
    return copy.deepcopy(model).to("cpu", torch.float32).eval()


def _check_finite(name: str, array: FloatArray) -> None:
    """Raises ModelError if the model itself computes NaN or infinite values."""
    # Otherwise the artefact would be blamed for them.
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise ModelError(
            f"the model itself gives NaN or infinite values in PyTorch: {bad:,} of {array.size:,} "
            f"values of '{name}' for {array.shape[0]} sequences of text",
            hint="its weights are damaged or its training diverged: take an earlier checkpoint",
        )


# --- selecting what is stored --------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """Positions of one batch whose outputs are stored, and the decisions at its masks."""

    compared_N2: IntArray
    choices_M: IntArray
    margins_M: FloatArray
    hidden_R2: IntArray


def _select_rows(
    inputs: ProbeInputs,
    outputs: dict[str, FloatArray],
    task: Task,
    rng: np.random.Generator,
    *,
    share: float,
) -> _Rows:
    """Selects the positions that are compared.

    Args:
        inputs: The batch.
        outputs: PyTorch's outputs.
        task: What the model computes.
        rng: Draws the positions.
        share: The batch's share of all sequences, and so of the positions with logits.
    """
    mask_BL = inputs.feeds["attention_mask"]
    masked_M2 = inputs.masked_M2
    compared_N2 = np.argwhere(mask_BL == 1)
    choices_M, margins_M = np.zeros(0, np.int64), np.zeros(0, np.float32)
    level = TASKS[task].level
    if level == "vocabulary":
        # Decisions are stored at every mask, the complete logits at a sample of positions.
        logits_BLV = outputs["logits"]
        masked_MV = _at(logits_BLV, masked_M2)
        choices_M, margins_M = masked_MV.argmax(axis=-1), margins(masked_MV)
        count = round(share * _logit_row_budget(logits_BLV.shape[-1]))
        compared_N2 = _logit_rows(masked_M2, compared_N2, rng, count=count)
    elif level in ("sequence", "choice"):
        compared_N2 = np.zeros((0, 2), np.int64)
    return _Rows(compared_N2, choices_M, margins_M, _hidden_rows(mask_BL, rng))


def _logit_row_budget(vocabulary: int) -> int:
    """Positions at which the logits of the complete vocabulary are stored."""
    affordable = LOGIT_BYTES // (4 * vocabulary)
    return max(LEAST_LOGIT_ROWS, min(LOGIT_ROWS, affordable))


def _logit_rows(
    masked_M2: IntArray, attended_A2: IntArray, rng: np.random.Generator, *, count: int
) -> IntArray:
    """Draws `count` positions, three quarters of them masked, or all masked ones if fewer."""
    # Attended positions (A, 1, 2) against masked ones (1, M, 2): equal in both coordinates.
    is_masked_A = (attended_A2[:, None] == masked_M2[None]).all(axis=-1).any(axis=-1)
    others_O2 = attended_A2[~is_masked_A]
    masked = min(len(masked_M2), max(1, round(count * MASKED_ROWS_SHARE)))
    others = min(len(others_O2), max(1, count - masked))
    rows_N2 = np.concatenate([_sample(masked_M2, masked, rng), _sample(others_O2, others, rng)])
    return rows_N2[np.lexsort((rows_N2[:, 1], rows_N2[:, 0]))]


def _hidden_rows(attention_mask_BL: IntArray, rng: np.random.Generator) -> IntArray:
    """Selects the first and last attended position of each sequence, and draws two between."""
    rows: list[tuple[int, int]] = []
    for row, mask_L in enumerate(attention_mask_BL):
        # Padding is on one side, so the sum of a row is the length of its sequence.
        first, size = int(mask_L.argmax()), int(mask_L.sum())
        between = rng.choice(np.arange(1, size - 1), HIDDEN_ROWS_PER_SEQUENCE - 2, replace=False)
        rows += [(row, first + int(place)) for place in sorted({0, *between, size - 1})]
    return np.array(rows, dtype=np.int64)


def _sample(rows_N2: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    return rows_N2[rng.choice(len(rows_N2), count, replace=False)]


def _at(array_BL: NDArray[Any], rows_N2: IntArray) -> NDArray[Any]:
    return array_BL[rows_N2[:, 0], rows_N2[:, 1]]


def _probe_batch(
    inputs: ProbeInputs,
    outputs: dict[str, FloatArray],
    states: list[Tensor],
    rows: _Rows,
    *,
    store_all: bool,
) -> ProbeBatch:
    """Returns the batch with PyTorch's outputs at the selected rows."""
    feeds = inputs.feeds
    # Outputs per sequence have no rows to select.
    if len(rows.compared_N2):
        outputs = {
            # A sentence vector has no positions.
            name: array if name == SENTENCE_OUTPUT else _at(array, rows.compared_N2)
            for name, array in outputs.items()
        }
    hidden_KBLD = [state.numpy() for state in states]
    return ProbeBatch(
        input_ids_BL=feeds["input_ids"],
        attention_mask_BL=feeds["attention_mask"],
        token_type_ids_BL=feeds.get("token_type_ids"),
        rows_N2=rows.compared_N2,
        outputs=outputs,
        masked_M2=inputs.masked_M2,
        choices_M=rows.choices_M,
        margins_M=rows.margins_M,
        hidden_rows_R2=rows.hidden_R2,
        hidden_KRD=np.stack([_at(hidden_BLD, rows.hidden_R2) for hidden_BLD in hidden_KBLD]),
        full_hidden_KBLD=np.stack(hidden_KBLD) if store_all else None,
        choices=inputs.choices,
    )
