"""Proves that a trimmed model computes what the model before computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM

from edgedistil.core.errors import GateError
from edgedistil.core.model_folder import ModelFolder, read_model_folder
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.core.trim_records import TrimProof, TrimText
from edgedistil.models.loading import drop_missing_pooler, load_config, load_weights

# Both models compute in float32 with the same weights, but the product with a smaller vocabulary
# may add in another order. Absolute; a share of the largest output if that is above 1.
TOLERANCE = 1e-5
# Texts that are compared; each costs two forward passes.
_MOST_TEXTS = 128
# Tokens of a compared text: longer ones prove nothing more.
_MOST_TOKENS = 128
_BATCH = 16
# Sequences of tokens that stayed, in any order: texts do not reach all rows.
_RANDOM_SEQUENCES = 8


def compare_texts(
    before: TextTokenizer,
    after: TextTokenizer,
    new_ids: Mapping[int, int],
    texts: Sequence[str],
    *,
    source: str,
) -> tuple[TrimText, list[str]]:
    """Counts tokens of texts before and after trimming.

    Args:
        before, after: The tokenizers.
        new_ids: Old id → new id.
        texts: Texts that were not counted.
        source: Where they are from.
    Returns:
        The figures, and the texts whose tokens did not change.
    Raises:
        GateError: A text has more unknown tokens than before.
    """
    old_texts, new_texts = before.encode_texts(texts), after.encode_texts(texts)
    unknown = [tokenizer.token_id("unk") for tokenizer in (before, after)]
    # A text is unchanged if its old ids, renumbered, are its new ids.
    unchanged = [
        text
        for text, old, new in zip(texts, old_texts, new_texts, strict=True)
        if [new_ids.get(number) for number in old] == new
    ]
    figures = TrimText(
        source=source,
        texts=len(texts),
        unchanged_texts=len(unchanged),
        tokens_before=sum(map(len, old_texts)),
        tokens_after=sum(map(len, new_texts)),
        unknown_before=_occurrences(old_texts, unknown[0]),
        unknown_after=_occurrences(new_texts, unknown[1]),
    )
    # Single characters stay, so nothing may become unknown.
    if figures.unknown_after > figures.unknown_before:
        raise GateError(
            f"the trimmed vocabulary has {figures.unknown_after:,} unknown tokens in {source}, "
            f"expected at most the {figures.unknown_before:,} of the vocabulary before"
        )
    return figures, unchanged


def _occurrences(texts: Sequence[Sequence[int]], token: int | None) -> int:
    return 0 if token is None else sum(list(ids).count(token) for ids in texts)


def prove_equal(
    before: ModelFolder,
    after: Path,
    *,
    tokenizer: TextTokenizer,
    rows: Sequence[int],
    unchanged: Sequence[str],
) -> TrimProof:
    """Compares the outputs of both models on texts with the same tokens, and on random tokens.

    Args:
        before: The model before.
        after: Folder of the trimmed model.
        tokenizer: The tokenizer before.
        rows: Old id of each new id.
        unchanged: Texts whose tokens did not change.
    Raises:
        GateError: An output differs by more than the tolerance, or a row of the word embeddings
            is not the row of its token.
    """
    models = [_load(folder) for folder in (before, read_model_folder(after))]
    words = [model.get_input_embeddings().weight for model in models]
    _check(torch.equal(words[0][torch.tensor(rows)], words[1]), "the word embeddings differ")
    length = min(_MOST_TOKENS, tokenizer.positions or _MOST_TOKENS)
    framed = tokenizer.encode_framed(list(unchanged[:_MOST_TEXTS]), length)
    sequences = [ids for ids, _ in framed] + _random_sequences(rows, length)
    new_ids = {old: new for new, old in enumerate(rows)}
    # Similar lengths together, so that little of a batch is padding.
    sequences.sort(key=len)
    largest, names, magnitude = 0.0, set(), 1.0
    for first in range(0, len(sequences), _BATCH):
        batch = sequences[first : first + _BATCH]
        renumbered = [[new_ids[number] for number in ids] for ids in batch]
        expected = _outputs(models[0], batch, tokenizer.pad_id)
        got = _outputs(models[1], renumbered, new_ids.get(tokenizer.pad_id, 0))
        for name, value in expected.items():
            # Logits of the vocabulary: those of the tokens that stayed.
            if value.shape[-1] != got[name].shape[-1]:
                value = value[..., torch.tensor(rows)]
            largest = max(largest, float((value - got[name]).abs().max()))
            magnitude = max(magnitude, float(value.abs().max()))
            names.add(name)
    tolerance = TOLERANCE * magnitude
    _check(largest <= tolerance, f"an output differs by {largest:.2g}, expected {tolerance:.2g}")
    return TrimProof(
        texts=len(framed),
        random_sequences=_RANDOM_SEQUENCES,
        outputs=sorted(names),
        max_abs=largest,
        tolerance=tolerance,
    )


def _check(holds: bool, problem: str) -> None:
    if not holds:
        raise GateError(
            f"the trimmed model does not compute what the model before computes: {problem}",
            hint="nothing was published; this is a fault of the surgery, not of the input",
        )


def _load(source: ModelFolder) -> Any:
    """Returns a model with the head that its folder has weights of, in eval mode."""
    config = load_config(source)
    loaded = load_weights(_model_class(source), source, config, fresh_head=True)
    encoder = f"{loaded.model.base_model_prefix}."
    # A head without weights is drawn, and would differ.
    if any(not name.startswith(encoder) and "pooler" not in name for name in loaded.missing):
        loaded = load_weights(AutoModel, source, config)
    drop_missing_pooler(loaded)
    return loaded.model.eval()


def _model_class(source: ModelFolder) -> Any:
    head = source.family.mlm_head
    if head is not None and any(name.startswith(f"{head.projection}.") for name in source.shapes):
        return AutoModelForMaskedLM
    dense = None if head is None else head.dense
    if dense is not None and f"{dense}.weight" in source.shapes:
        return AutoModelForMaskedLM
    # A model of choices takes another shape of inputs; its states are compared.
    names = [name for name in source.architectures if not name.endswith("ForMultipleChoice")]
    return getattr(transformers, names[0], AutoModel) if names else AutoModel


def _random_sequences(rows: Sequence[int], length: int) -> list[list[int]]:
    """Sequences of tokens that stayed, the same for every call."""
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(len(rows), (_RANDOM_SEQUENCES, length), generator=generator)
    return [[rows[place] for place in sequence] for sequence in places.tolist()]


def _outputs(model: Any, sequences: Sequence[Sequence[int]], pad_id: int) -> dict[str, Tensor]:
    """Outputs of a batch by name; states and logits of padding are zero."""
    longest = max(map(len, sequences))
    ids_BL = torch.full((len(sequences), longest), pad_id)
    mask_BL = torch.zeros_like(ids_BL)
    for row, ids in enumerate(sequences):
        ids_BL[row, : len(ids)] = torch.tensor(ids)
        mask_BL[row, : len(ids)] = 1
    with torch.no_grad():
        answer = model(input_ids=ids_BL, attention_mask=mask_BL, output_hidden_states=False)
    outputs = {}
    for name, value in answer.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            per_token = value.ndim == 3 and value.shape[:2] == ids_BL.shape
            outputs[name] = value * mask_BL.unsqueeze(-1) if per_token else value
    return outputs
