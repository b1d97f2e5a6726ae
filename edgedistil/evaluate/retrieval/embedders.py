"""What turns the texts of a collection into vectors: PyTorch models, artefacts, and a baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgedistil.core import console
from edgedistil.core.options import EmbedSide
from edgedistil.core.sentence_vector import Similarity
from edgedistil.core.tokenizer import TextTokenizer, read_tokenizer
from edgedistil.inference.batching import batch_indices, pad_batch, within_positions
from edgedistil.inference.encoder import Encoder
from edgedistil.models.sentence_encoder import SentenceEncoder, load_sentence_encoder

Vectors = NDArray[np.float32]

# Tokens of a document at most: the attention takes their square, and the models of these
# collections were trained on no more.
MAX_LENGTH = 256
_BATCH_TOKENS = 8192
# Weight of a frequent token in the static baseline: a / (a + p). Source: Arora et al. 2017 (SIF).
_SIF = 1e-3


def _count_none(texts: Sequence[str], side: EmbedSide) -> int:
    del texts, side  # word vectors read all of a text
    return 0


@dataclass(frozen=True)
class Embedder:
    """A model that gives vectors.

    Attributes:
        name: Name in records.
        embed: Returns the vectors of texts that are queries or documents, (texts, width).
        similarity: How its vectors are compared.
        count_cut: Returns how many texts are longer than the model reads.
    """

    name: str
    embed: Callable[[Sequence[str], EmbedSide], Vectors]
    similarity: Similarity = "cosine"
    count_cut: Callable[[Sequence[str], EmbedSide], int] = _count_none


def torch_embedder(name: str, folder: Path) -> Embedder:
    """Returns the embedder of a model folder, in float32.

    Raises:
        ModelError: The folder has no encoder that is supported, or a damaged one.
    """
    encoder = load_sentence_encoder(folder)
    tokenizer = read_tokenizer(folder)

    def embed(texts: Sequence[str], side: EmbedSide) -> Vectors:
        prompt = encoder.vector.prompt(side)
        return _run(encoder, tokenizer, [prompt + text for text in texts], label=f"{name} {side}")

    def count_cut(texts: Sequence[str], side: EmbedSide) -> int:
        prompt = encoder.vector.prompt(side)
        room = _longest(encoder, tokenizer) - tokenizer.special_count(pair=False)
        ids = tokenizer.encode_texts([prompt + text for text in texts])
        return sum(len(tokens) > room for tokens in ids)

    return Embedder(name, embed, encoder.vector.similarity, count_cut)


def _longest(encoder: SentenceEncoder, tokenizer: TextTokenizer) -> int:
    """Tokens of a text at most."""
    limits = [MAX_LENGTH, encoder.vector.max_length, tokenizer.positions]
    return min(limit for limit in limits if limit is not None)


def _run(
    encoder: SentenceEncoder, tokenizer: TextTokenizer, texts: Sequence[str], *, label: str
) -> Vectors:
    longest = _longest(encoder, tokenizer)
    framed = tokenizer.encode_framed(texts, longest)
    vectors = np.empty((len(texts), encoder.vector.dimension), np.float32)
    lengths = [len(ids) for ids, _ in framed]
    batches = list(batch_indices(lengths, largest_batch=within_positions(_BATCH_TOKENS)))
    on_the_left = tokenizer.padding_side == "left"
    with console.progress(
        f"embedding: {label}", len(texts), unit="texts", has_steps=len(batches) > 1
    ) as bar:
        for indices in batches:
            batch = pad_batch(framed, indices, pad_id=tokenizer.pad_id, on_the_left=on_the_left)
            type_ids = None
            if tokenizer.gives_token_types:
                type_ids = torch.from_numpy(batch.type_ids_BL)
            with torch.inference_mode():
                _, vectors_BV = encoder(
                    torch.from_numpy(batch.ids_BL), torch.from_numpy(batch.mask_BL), type_ids
                )
            vectors[indices] = vectors_BV.numpy()
            bar.advance(len(indices))
    return vectors


def artefact_embedder(name: str, folder: Path, precision: str) -> Embedder:
    """Returns the embedder of an exported artefact, run by onnxruntime.

    Raises:
        InputError: The folder has no such precision, or its graph gives no sentence vectors.
    """
    encoder = Encoder(folder, precision=precision, max_length=MAX_LENGTH)

    def embed(texts: Sequence[str], side: EmbedSide) -> Vectors:
        return encoder.embed(texts, side=side)

    return Embedder(f"{name} {precision}", embed, encoder.vector.similarity)


def static_embedder(folder: Path, documents: Sequence[str]) -> Embedder:
    """Returns the baseline without a transformer: weighted means of a model's word vectors.

    A token weighs a / (a + p), where p is its share of the collection's documents.

    Args:
        folder: The model whose word vectors are used.
        documents: Texts that the shares are counted on.
    Source: Arora et al. 2017, "A simple but tough-to-beat baseline for sentence embeddings",
    without the removal of the common component.
    """
    table_VD = _word_vectors(load_sentence_encoder(folder))
    tokenizer = read_tokenizer(folder)
    counts = Counter(token for ids in tokenizer.encode_texts(documents) for token in ids)
    share_V = np.zeros(len(table_VD))
    for token, count in counts.items():
        share_V[token] = count / counts.total()
    weighted_VD = (table_VD * (_SIF / (_SIF + share_V))[:, None]).astype(np.float32)

    def embed(texts: Sequence[str], side: EmbedSide) -> Vectors:
        del side  # word vectors have no prompts
        vectors = np.zeros((len(texts), weighted_VD.shape[1]), np.float32)
        for row, ids in enumerate(tokenizer.encode_texts(texts)):
            vectors[row] = weighted_VD[ids].sum(axis=0)
        return vectors

    return Embedder("static", embed)


def _word_vectors(encoder: SentenceEncoder) -> NDArray[np.float32]:
    table: NDArray[np.float32] = encoder.backbone.get_input_embeddings().weight.detach().numpy()
    return table
