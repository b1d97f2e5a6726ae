"""Columns of the table of encoder families (`edgedistil.core.family`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# How a token's place reaches the model: by a row of a matrix, by a bias of the attention scores for
# each distance, by rotations of query and key, or by products with vectors of distances.
Positions = Literal["absolute", "relative-bias", "rotary", "disentangled"]
# Where a layer normalizes: the sum behind each residual connection, or the input of each block.
NormPlace = Literal["post", "pre"]
# LayerNorm, RMSNorm, or a scale and a shift without statistics (MobileBERT).
NormKind = Literal["layer", "rms", "affine"]


@dataclass(frozen=True)
class ConfigKeys:
    """Names of the sizes in a family's config.json; the defaults are BERT's."""

    layers: str = "num_hidden_layers"
    hidden: str = "hidden_size"
    heads: str = "num_attention_heads"
    intermediate: str = "intermediate_size"
    activation: str = "hidden_act"
    vocabulary: str = "vocab_size"
    positions: str = "max_position_embeddings"
    segments: str = "type_vocab_size"
    # A family whose embeddings are as wide as its layers has no such key.
    embedding: str = "embedding_size"


@dataclass(frozen=True)
class ModuleNames:
    """Names of a family's modules, from the encoder or from a layer on; the defaults are BERT's.

    Attributes:
        embeddings: Module that adds word, position and segment.
        output: Module whose output is the last hidden state; the list of the layers means the
            last of them.
        layers: List of the layers.
        word_embedding: Rows of the vocabulary.
        position_embedding: Rows of the positions; None for a family without absolute positions.
        segment_embedding: Rows of the token types.
        query: Query projection of a layer; None if its width is not the hidden size.
        attention: Query, key, value and output projection of a layer; None for a family whose heads
            cannot be removed one by one.
        up: First feed-forward projection of a layer; None as for `query`.
        embedding_projection: Module that widens factorised embeddings to the hidden size.
        blocks: Parts of a layer in order, and the module of the layer whose output ends each; ""
            for the layer itself.
    """

    embeddings: str = "embeddings"
    output: str = "encoder"
    layers: str = "encoder.layer"
    word_embedding: str = "embeddings.word_embeddings"
    position_embedding: str | None = "embeddings.position_embeddings"
    segment_embedding: str = "embeddings.token_type_embeddings"
    query: str | None = "attention.self.query"
    attention: tuple[str, str, str, str] | None = None
    up: str | None = "intermediate.dense"
    embedding_projection: str | None = None
    blocks: tuple[tuple[str, str], ...] = (
        ("attention", "attention.output.LayerNorm"),
        ("feed-forward", "output.LayerNorm"),
    )


@dataclass(frozen=True)
class MlmHead:
    """Names of the modules of a masked-LM head, from the model on.

    Attributes:
        dense: First linear layer; None in a head that only projects.
        norm: LayerNorm behind it; None as for `dense`.
        projection: Projection onto the vocabulary, tied to the word embeddings by default.
        wide: Module with the projection's further columns, transposed, where the states are wider
            than the word embeddings and no layer makes them narrower; None for other families.
        activation: Activation behind `dense`; None for one that config.json names.
        activation_key: Key of config.json that names it; None for the encoder's.
    """

    dense: str | None
    norm: str | None
    projection: str
    wide: str | None = None
    activation: str | None = None
    activation_key: str | None = None


# transformers 4 stores the heads that a layer lacks under this key, as layer → numbers of heads.
PRUNED_HEADS = "pruned_heads"
# Our own key: width of word embeddings that a matrix widens before positions are added.
EMBEDDING_RANK = "embedding_rank"
BERT_ATTENTION = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
)
_STANDARD_KEYS = ConfigKeys()
_STANDARD_NAMES = ModuleNames(attention=BERT_ATTENTION)
BERT_HEAD = MlmHead(
    dense="cls.predictions.transform.dense",
    norm="cls.predictions.transform.LayerNorm",
    projection="cls.predictions.decoder",
)


@dataclass(frozen=True, kw_only=True)
class FamilyInfo:
    """Facts about one encoder family.

    Attributes:
        model_type: Value of `model_type` in config.json.
        class_prefix: Beginning of transformers' class names, before `Model` or `ForMaskedLM`.
        module_prefix: Attribute that holds the encoder in a model with a head.
        tokenizer_class: Name that every version of transformers and transformers.js knows.
        default_tokenizer: Tokenizer class of a folder that names none.
        defaults: What transformers assumes where config.json has no such key.
        token_types: Whether the model takes `token_type_ids` (segments A and B).
        keys: Names of the sizes in config.json.
        names: Names of the modules.
        mlm_head: Modules of the masked-LM head; None if transformers has no such head.
        positions: How a token's place reaches the model.
        pad_counts_positions: Whether the first token's position follows the padding's, and tokens
            that equal the padding have no position of their own, as in RoBERTa.
        position_pad: Padding id that positions are counted from; None for config.json's.
        mixes_neighbours: Whether the embedding of a token reads the tokens next to it.
        norm_place: Where a layer normalizes.
        norm_kind: What a layer normalizes with.
        residual_norms: LayerNorms of a layer that read the sum of a residual connection.
        gated: Whether the feed-forward multiplies its activation by a second projection.
        shares_layers: Whether several layers have the same weights, as in ALBERT.
        masks_queries: Whether the model computes other states at padding than the graph, which
            masks keys only. No token reads them.
        options: Key of config.json → values of it that are supported; others are refused.
        missing_heads: Endings of class names that transformers does not have for the family.
        pretraining_has_mlm: Whether a `…ForPreTraining` checkpoint holds the masked-LM head.
        has_trained_models: Whether trained weights of the family were at hand where this tool was
            tested. Of the other families the structure is proved, and not the quality.
        in_transformers_4: Whether the releases before 5 have the family; optimum-onnx needs one.
        min_runtime: Oldest onnxruntime (major, minor) that has every operator of its graphs.
    """

    model_type: str
    class_prefix: str
    module_prefix: str
    tokenizer_class: str
    default_tokenizer: str
    defaults: Mapping[str, Any]
    token_types: bool = True
    keys: ConfigKeys = _STANDARD_KEYS
    names: ModuleNames = _STANDARD_NAMES
    mlm_head: MlmHead | None = BERT_HEAD
    positions: Positions = "absolute"
    pad_counts_positions: bool = False
    position_pad: int | None = None
    mixes_neighbours: bool = False
    norm_place: NormPlace = "post"
    norm_kind: NormKind = "layer"
    residual_norms: int = 2
    gated: bool = False
    shares_layers: bool = False
    masks_queries: bool = False
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    missing_heads: tuple[str, ...] = ()
    pretraining_has_mlm: bool = True
    has_trained_models: bool = False
    in_transformers_4: bool = True
    # The first release that reads opset 17, which every exported graph uses.
    min_runtime: tuple[int, int] = (1, 14)

    @property
    def proof_in_words(self) -> str:
        """What was shown of the family, for pages, plans and `edgedistil inspect`."""
        if self.has_trained_models:
            return "structure and quality proved on trained weights"
        return "structure proved on random weights; quality unproved here: no trained weights"

    def with_defaults(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a parsed config.json with every size that it leaves out, as transformers does.

        DistilBERT's sizes may also have BERT's names.
        """
        completed = {**self.defaults, **config}
        # transformers has no other names for the remaining sizes, and ignores BERT's.
        for name in ("layers", "hidden", "heads"):
            own, standard = getattr(self.keys, name), getattr(_STANDARD_KEYS, name)
            if own not in config and standard in config:
                completed[own] = config[standard]
        return completed

    def layers(self, config: Mapping[str, Any]) -> int:
        """Transformer layers of a model, from its parsed config.json."""
        return int(self.with_defaults(config)[self.keys.layers])

    def hidden(self, config: Mapping[str, Any]) -> int:
        """Width of the hidden states of a model, from its parsed config.json."""
        return int(self.with_defaults(config)[self.keys.hidden])

    def heads(self, config: Mapping[str, Any]) -> int:
        """Attention heads that each layer of a model has, from its parsed config.json."""
        removed = config.get(PRUNED_HEADS) or {}
        # The same number in every layer (`edgedistil.core.pruned_heads`).
        fewer = max(map(len, removed.values()), default=0)
        return int(self.with_defaults(config)[self.keys.heads]) - fewer

    def head_width(self, config: Mapping[str, Any]) -> int:
        """Width of an attention head, which does not depend on the number of removed heads."""
        return self.hidden(config) // int(self.with_defaults(config)[self.keys.heads])

    def embedding(self, config: Mapping[str, Any]) -> int:
        """Width of the word embeddings of a model, from its parsed config.json."""
        if self.keys.embedding not in self.defaults:
            return self.hidden(config)
        return int(self.with_defaults(config)[self.keys.embedding])

    def word_width(self, config: Mapping[str, Any]) -> int:
        """Columns of the stored word-embedding matrix of a model, from its parsed config.json."""
        return int(config.get(EMBEDDING_RANK) or self.embedding(config))

    def factorises(self, config: Mapping[str, Any]) -> bool:
        """Whether the vocabulary's vectors have another width than the hidden states."""
        return not self.mixes_neighbours and self.word_width(config) != self.hidden(config)

    def position_width(self, config: Mapping[str, Any]) -> int:
        """Width of the position embeddings of a model, from its parsed config.json."""
        # MobileBERT widens the words before it adds the positions.
        return self.hidden(config) if self.mixes_neighbours else self.embedding(config)

    def vocabulary(self, config: Mapping[str, Any]) -> int:
        """Rows of the word-embedding matrix, from a model's parsed config.json."""
        return int(self.with_defaults(config)[self.keys.vocabulary])

    def positions_limit(self, config: Mapping[str, Any]) -> int:
        """Tokens of the longest text that a model has positions for, from its config.json."""
        return int(self.with_defaults(config)[self.keys.positions]) - self.first_position(config)

    def first_position(self, config: Mapping[str, Any]) -> int:
        """Row of the position matrix that the first token of a text has."""
        if not self.pad_counts_positions:
            return 0
        if self.position_pad is not None:
            return self.position_pad + 1
        return int(self.with_defaults(config)["pad_token_id"]) + 1

    def has_position_matrix(self, config: Mapping[str, Any]) -> bool:
        """Whether a model looks positions up in a matrix, from its parsed config.json."""
        # DeBERTa may do so besides the distances in its attention.
        biased = config.get("position_biased_input", True)
        return self.names.position_embedding is not None and bool(biased)

    def segments(self, config: Mapping[str, Any]) -> int:
        """Token types that a model has vectors for, from its parsed config.json."""
        return int(self.with_defaults(config)[self.keys.segments]) if self.token_types else 1
