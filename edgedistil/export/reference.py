"""Probes from a model: held-out text as padded batches of several lengths, and PyTorch's float32 answers to them.

How much is kept. Every attended position is compared where the output is narrow (hidden states, labels, spans). For
fill-mask the whole vocabulary is kept at up to 256 positions (fewer when a vocabulary is so large that they would
exceed 32 MiB, never under 64): three quarters at masked positions, one at others. At *every* masked position the most
likely word and its lead are kept, so that agreement is over all of them. Of the hidden states, the outputs of all
LayerNorms (twice a layer, and the embeddings) are kept at four positions a sequence, and whole for one padded batch:
from these an artefact's layers can be fed one by one, and so be told apart.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from edgedistil.core import console
from edgedistil.core.errors import CorpusError, ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.task import TASKS, Task
from edgedistil.models.facts import weights_sha256
from edgedistil.parity.compare import margins
from edgedistil.parity.probes import ProbeBatch, Probes

# Sequences of each call, by the longest padded length they are for: one alone without padding, then padded batches.
CALLS = {64: (1, 3, 5, 5), 128: (1, 3, 4), 512: (1, 2)}
LENGTHS = (8, 16, 32, 64, 128)  # and the longest that the model has positions for, up to:
LONGEST = 512
LEAST_LENGTHS = 5
DOCUMENTS, DOCUMENT_CHARACTERS = (
    2000,
    20_000,
)  # as much text as probes can use; a larger file is sampled
MASK_SHARE = 0.15
LOGIT_ROWS, LEAST_LOGIT_ROWS, LOGIT_BYTES = 256, 64, 32 * 2**20
MASKED_ROWS_SHARE = 0.75
HIDDEN_ROWS_PER_SEQUENCE = 4
WHOLE_LEAST_SEQUENCES = 4

IntArray = NDArray[np.int64]


def make_probes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    text: Sequence[str],
    *,
    seed: int,
) -> Probes:
    """Probes of a model on real text: at least 64 sequences at six lengths (as far as the model's positions go).

    Args:
        model: A BERT or DistilBERT model with the task's head; it is asked in float32, without dropout.
        tokenizer: Its tokenizer, with [CLS], [SEP], [PAD] and [MASK].
        task: TasksManager's name of the task.
        text: Held-out documents or lines. Each sequence starts where a document starts; short documents are
            followed by the next ones, and when there is little text it is used again.
        seed: Of the choice of documents and masked positions.
    Raises:
        CorpusError: The text holds no words.
        ModelError: The task is not known, or the tokenizer lacks a special token.
    """
    if task not in TASKS:
        raise ModelError(f"no probes for the task '{task}'; there are: {', '.join(TASKS)}")
    rng = np.random.default_rng(seed)
    special = _special_tokens(tokenizer)
    documents = _tokenize(tokenizer, text, rng)
    calls = plan_calls(model.config.max_position_embeddings)
    total = sum(count for _, count in calls)
    asked = _in_float32(model)
    batches: list[ProbeBatch] = []
    with (
        _recording(asked) as seen,
        console.progress("PyTorch answers the probes", total, unit="sequences") as bar,
    ):
        for length, count in calls:
            rows = [
                _sequence(documents, size, special, rng, pair=TASKS[task].sends_pairs)
                for size in sizes(length, count)
            ]
            inputs = _pad(
                rows, length, special, with_types=FAMILIES[model.config.model_type].token_types
            )
            masked_M2 = (
                _mask(inputs, special, rng)
                if TASKS[task].level == "vocabulary"
                else np.zeros((0, 2), np.int64)
            )
            whole = (
                count >= WHOLE_LEAST_SEQUENCES
                and length >= 2 * calls[0][0]
                and all(batch.full_hidden_KBLD is None for batch in batches)
            )
            batches.append(
                _ask(asked, task, inputs, masked_M2, seen, rng, share=count / total, whole=whole)
            )
            bar.advance(count)
    return Probes(
        task=task,
        source_sha256=weights_sha256(model),
        seed=seed,
        boundaries=boundary_names(model.config.num_hidden_layers, found=len(batches[0].hidden_KRD)),
        batches=tuple(batches),
    )


def plan_calls(positions: int) -> list[tuple[int, int]]:
    """(padded length, sequences) of each call, shortest first, for a model with that many positions."""
    longest = min(positions, LONGEST)
    lengths = {length for length in LENGTHS if length < longest} | {longest}
    for eighths in (6, 4, 7, 5, 3):  # a model with few positions: other lengths make up the number
        if len(lengths) < LEAST_LENGTHS:
            lengths.add(longest * eighths // 8)
    return [(length, count) for length in sorted(lengths) for count in _calls(length)]


def sizes(length: int, count: int) -> list[int]:
    """Tokens of each sequence of a padded batch: the first fills it, the others go down to two fifths of it."""
    least = max(5, length * 2 // 5)
    return [round(size) for size in np.linspace(length, least, count)] if count > 1 else [length]


def boundary_names(layers: int, *, found: int) -> tuple[str, ...]:
    """Names of the LayerNorms' outputs in order; the last one belongs to a masked-LM head where there is one more."""
    names = ["embeddings"]
    for layer in range(layers):
        names += [f"layer {layer} attention", f"layer {layer} feed-forward"]
    if found == len(names) + 1:
        names.append("head")
    if found != len(names):
        raise ModelError(
            f"found {found} LayerNorms, expected {2 * layers + 1} (one more with a masked-LM head)"
        )
    return tuple(names)


# --- text → inputs ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Special:
    cls: int
    sep: int
    pad: int
    mask: int


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> _Special:
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad", "mask")}
    lacking = [name for name, token in ids.items() if token is None]
    if lacking:
        raise ModelError(
            f"the tokenizer has no {', '.join(f'[{name.upper()}]' for name in lacking)} token"
        )
    return _Special(**ids)


def _calls(length: int) -> tuple[int, ...]:
    return next(counts for up_to, counts in CALLS.items() if length <= up_to)


def _tokenize(
    tokenizer: PreTrainedTokenizerBase, text: Sequence[str], rng: np.random.Generator
) -> list[list[int]]:
    documents = [document[:DOCUMENT_CHARACTERS] for document in text if document.strip()]
    if len(documents) > DOCUMENTS:
        documents = [
            documents[i] for i in sorted(rng.choice(len(documents), DOCUMENTS, replace=False))
        ]
    found = (
        tokenizer(
            documents, add_special_tokens=False, truncation=False, padding=False, verbose=False
        )
        if documents
        else {}
    )
    tokens = [ids for ids in found.get("input_ids", []) if ids]
    if not tokens:
        raise CorpusError(
            f"the text for the probes holds no words ({len(text)} lines)",
            hint="give real text with --text FILE",
        )
    return tokens


def _sequence(
    documents: list[list[int]],
    size: int,
    special: _Special,
    rng: np.random.Generator,
    *,
    pair: bool,
) -> tuple[list[int], list[int]]:
    """Token ids and token types of one sequence; a pair is cut after a third, as a question before its context."""
    body = _words(documents, size - (3 if pair else 2), rng)
    if not pair:
        return [special.cls, *body, special.sep], [0] * size
    cut = max(1, len(body) // 3)
    ids = [special.cls, *body[:cut], special.sep, *body[cut:], special.sep]
    return ids, [0] * (cut + 2) + [1] * (len(body) - cut + 1)


def _words(documents: list[list[int]], size: int, rng: np.random.Generator) -> list[int]:
    """`size` tokens from the start of a random document on."""
    words: list[int] = []
    index = int(rng.integers(len(documents)))
    while len(words) < size:
        words += documents[index % len(documents)]
        index += 1
    return words[:size]


def _pad(
    rows: list[tuple[list[int], list[int]]], length: int, special: _Special, *, with_types: bool
) -> dict[str, IntArray]:
    shape = (len(rows), length)
    inputs = {
        "input_ids": np.full(shape, special.pad, np.int64),
        "attention_mask": np.zeros(shape, np.int64),
    }
    if with_types:
        inputs["token_type_ids"] = np.zeros(shape, np.int64)
    for row, (ids, types) in enumerate(rows):
        inputs["input_ids"][row, : len(ids)] = ids
        inputs["attention_mask"][row, : len(ids)] = 1
        if with_types:
            inputs["token_type_ids"][row, : len(ids)] = types
    return inputs


def _mask(inputs: dict[str, IntArray], special: _Special, rng: np.random.Generator) -> IntArray:
    """Puts [MASK] over 15% of each sequence's words, at least one; says where."""
    ids_BL = inputs["input_ids"]
    places = []
    for row, ids_L in enumerate(ids_BL):
        words = np.flatnonzero(~np.isin(ids_L, (special.cls, special.sep, special.pad)))
        count = max(1, round(MASK_SHARE * len(words)))
        places += [(row, position) for position in sorted(rng.choice(words, count, replace=False))]
    masked_M2 = np.array(places, dtype=np.int64)
    ids_BL[masked_M2[:, 0], masked_M2[:, 1]] = special.mask
    return masked_M2


# --- inputs → answers --------------------------------------------------------------------------------


def _in_float32(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself where it is float32 on the CPU without dropout, else a copy that is."""
    plain = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters())
    return (
        model
        if plain and not model.training
        else copy.deepcopy(model).to("cpu", torch.float32).eval()
    )


@contextmanager
def _recording(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """A list that the outputs of all LayerNorms of each pass are appended to, in the order of the computation."""
    seen: list[torch.Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        for module in model.modules()
        if isinstance(module, nn.LayerNorm)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _ask(
    model: PreTrainedModel,
    task: Task,
    inputs: dict[str, IntArray],
    masked_M2: IntArray,
    seen: list[torch.Tensor],
    rng: np.random.Generator,
    *,
    share: float,
    whole: bool,
) -> ProbeBatch:
    """One call; `share` is this batch's part of all sequences, and so of the rows that are kept."""
    seen.clear()
    with torch.inference_mode():
        answer = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    outputs = {name: getattr(answer, name).numpy() for name in TASKS[task].outputs}
    attended_A2 = np.argwhere(inputs["attention_mask"] == 1)
    rows_N2, choices_M, margins_M = attended_A2, np.zeros(0, np.int64), np.zeros(0, np.float32)
    if TASKS[task].level == "vocabulary":
        logits_BLV = outputs["logits"]
        masked_MV = logits_BLV[masked_M2[:, 0], masked_M2[:, 1]]
        choices_M, margins_M = masked_MV.argmax(axis=-1), margins(masked_MV)
        rows_N2 = _logit_rows(
            masked_M2, attended_A2, rng, count=round(share * _logit_budget(logits_BLV.shape[-1]))
        )
    elif TASKS[task].level == "sequence":
        rows_N2 = np.zeros((0, 2), np.int64)
    hidden_rows_R2 = _hidden_rows(inputs["attention_mask"], rng)
    return ProbeBatch(
        input_ids_BL=inputs["input_ids"],
        attention_mask_BL=inputs["attention_mask"],
        token_type_ids_BL=inputs.get("token_type_ids"),
        rows_N2=rows_N2,
        outputs={
            name: _at(array, rows_N2) if len(rows_N2) else array for name, array in outputs.items()
        },
        masked_M2=masked_M2,
        choices_M=choices_M,
        margins_M=margins_M,
        hidden_rows_R2=hidden_rows_R2,
        hidden_KRD=np.stack([_at(layer.numpy(), hidden_rows_R2) for layer in seen]),
        full_hidden_KBLD=np.stack([layer.numpy() for layer in seen]) if whole else None,
    )


def _at(array_BL: NDArray[Any], rows_N2: IntArray) -> NDArray[Any]:
    return array_BL[rows_N2[:, 0], rows_N2[:, 1]]


def _logit_budget(vocabulary: int) -> int:
    """Positions whose whole vocabulary is kept."""
    return max(LEAST_LOGIT_ROWS, min(LOGIT_ROWS, LOGIT_BYTES // (4 * vocabulary)))


def _logit_rows(
    masked_M2: IntArray, attended_A2: IntArray, rng: np.random.Generator, *, count: int
) -> IntArray:
    """`count` positions: three quarters of them masked ones (or all there are), the others from the rest."""
    is_masked_A = (attended_A2[:, None] == masked_M2[None]).all(axis=-1).any(axis=-1)
    others_O2 = attended_A2[~is_masked_A]
    masked = min(len(masked_M2), max(1, round(count * MASKED_ROWS_SHARE)))
    rest = min(len(others_O2), max(1, count - masked))
    chosen_N2 = np.concatenate([_some(masked_M2, masked, rng), _some(others_O2, rest, rng)])
    return chosen_N2[np.lexsort((chosen_N2[:, 1], chosen_N2[:, 0]))]


def _some(rows_N2: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    return rows_N2[rng.choice(len(rows_N2), count, replace=False)]


def _hidden_rows(attention_mask_BL: IntArray, rng: np.random.Generator) -> IntArray:
    """The first and the last attended position of each sequence, and two between."""
    rows: list[tuple[int, int]] = []
    for row, size in enumerate(attention_mask_BL.sum(axis=1)):
        between = rng.choice(np.arange(1, size - 1), HIDDEN_ROWS_PER_SEQUENCE - 2, replace=False)
        rows += [(row, int(position)) for position in sorted({0, *between, size - 1})]
    return np.array(rows, dtype=np.int64)
