"""Table of the supported encoder families, one row each.

A family is what transformers calls `model_type` in config.json. Code that handles several families
asks the row instead of comparing names, so that a family which differs only in these facts is a new
row. A family whose attention is new also needs one pass (`edgedistil/export/passes/`).
"""

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
        output: Module whose output is the last hidden state.
        layers: List of the layers.
        word_embedding: Rows of the vocabulary.
        position_embedding: Rows of the positions; None for a family without absolute positions.
        segment_embedding: Rows of the token types.
        query: Query projection of a layer; None if its width is not the hidden size.
        up: First feed-forward projection of a layer; None as for `query`.
        embedding_projection: Module that widens factorised embeddings to the hidden size.
        blocks: Parts of a layer in order, and the module whose output ends each.
    """

    embeddings: str = "embeddings"
    output: str = "encoder"
    layers: str = "encoder.layer"
    word_embedding: str = "embeddings.word_embeddings"
    position_embedding: str | None = "embeddings.position_embeddings"
    segment_embedding: str = "embeddings.token_type_embeddings"
    query: str | None = "attention.self.query"
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
        dense: First linear layer.
        norm: LayerNorm behind it.
        projection: Projection onto the vocabulary, tied to the word embeddings by default.
        activation: Activation behind `dense`; None for the encoder's.
    """

    dense: str
    norm: str
    projection: str
    activation: str | None = None


_STANDARD_KEYS = ConfigKeys()
_STANDARD_NAMES = ModuleNames()
_BERT_HEAD = MlmHead(
    dense="cls.predictions.transform.dense",
    norm="cls.predictions.transform.LayerNorm",
    projection="cls.predictions.decoder",
)
_LM_HEAD = MlmHead(
    dense="lm_head.dense",
    norm="lm_head.layer_norm",
    projection="lm_head.decoder",
    activation="gelu",
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
        can_teach: Whether a model of this family can be distilled.
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
        options: Key of config.json → values of it that are supported; others are refused.
        missing_heads: Endings of class names that transformers does not have for the family.
        pretraining_has_mlm: Whether a `…ForPreTraining` checkpoint holds the masked-LM head.
    """

    model_type: str
    class_prefix: str
    module_prefix: str
    tokenizer_class: str
    default_tokenizer: str
    defaults: Mapping[str, Any]
    token_types: bool = True
    can_teach: bool = False
    keys: ConfigKeys = _STANDARD_KEYS
    names: ModuleNames = _STANDARD_NAMES
    mlm_head: MlmHead | None = _BERT_HEAD
    positions: Positions = "absolute"
    pad_counts_positions: bool = False
    position_pad: int | None = None
    mixes_neighbours: bool = False
    norm_place: NormPlace = "post"
    norm_kind: NormKind = "layer"
    residual_norms: int = 2
    gated: bool = False
    shares_layers: bool = False
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    missing_heads: tuple[str, ...] = ()
    pretraining_has_mlm: bool = True

    def with_defaults(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a parsed config.json with every size that it leaves out, as transformers does.

        DistilBERT's sizes may also have BERT's names.
        """
        completed = {**self.defaults, **config}
        for name, standard in vars(_STANDARD_KEYS).items():
            own = getattr(self.keys, name)
            if own not in config and standard in config:
                completed[own] = config[standard]
        return completed

    def layers(self, config: Mapping[str, Any]) -> int:
        """Transformer layers of a model, from its parsed config.json."""
        return int(self.with_defaults(config)[self.keys.layers])

    def hidden(self, config: Mapping[str, Any]) -> int:
        """Width of the hidden states of a model, from its parsed config.json."""
        return int(self.with_defaults(config)[self.keys.hidden])

    def embedding(self, config: Mapping[str, Any]) -> int:
        """Width of the word embeddings of a model, from its parsed config.json."""
        if self.keys.embedding not in self.defaults:
            return self.hidden(config)
        return int(self.with_defaults(config)[self.keys.embedding])

    def factorises(self, config: Mapping[str, Any]) -> bool:
        """Whether the vocabulary's vectors have another width than the hidden states."""
        return not self.mixes_neighbours and self.embedding(config) != self.hidden(config)

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

    def segments(self, config: Mapping[str, Any]) -> int:
        """Token types that a model has vectors for, from its parsed config.json."""
        return int(self.with_defaults(config)[self.keys.segments]) if self.token_types else 1


_BERT_SIZES: Mapping[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}


def _roberta(model_type: str, class_prefix: str, tokenizer: str, vocabulary: int) -> FamilyInfo:
    """Row of a family with RoBERTa's modules."""
    return FamilyInfo(
        model_type=model_type,
        class_prefix=class_prefix,
        module_prefix="roberta",
        tokenizer_class=tokenizer,
        default_tokenizer=tokenizer,
        defaults={**_BERT_SIZES, "vocab_size": vocabulary, "pad_token_id": 1},
        mlm_head=_LM_HEAD,
        pad_counts_positions=True,
        missing_heads=("ForPreTraining",),
    )


FAMILIES: dict[str, FamilyInfo] = {
    row.model_type: row
    for row in (
        FamilyInfo(
            model_type="bert",
            class_prefix="Bert",
            module_prefix="bert",
            tokenizer_class="BertTokenizer",
            default_tokenizer="BertTokenizer",
            defaults=_BERT_SIZES,
            can_teach=True,
        ),
        FamilyInfo(
            model_type="distilbert",
            class_prefix="DistilBert",
            module_prefix="distilbert",
            tokenizer_class="DistilBertTokenizer",
            default_tokenizer="BertTokenizer",
            defaults={
                "vocab_size": 30522,
                "dim": 768,
                "n_layers": 6,
                "n_heads": 12,
                "hidden_dim": 3072,
                "activation": "gelu",
                "max_position_embeddings": 512,
                "pad_token_id": 0,
            },
            token_types=False,
            keys=ConfigKeys(
                layers="n_layers",
                hidden="dim",
                heads="n_heads",
                intermediate="hidden_dim",
                activation="activation",
            ),
            names=ModuleNames(
                output="transformer",
                layers="transformer.layer",
                query="attention.q_lin",
                up="ffn.lin1",
                blocks=(("attention", "sa_layer_norm"), ("feed-forward", "output_layer_norm")),
            ),
            mlm_head=MlmHead(
                dense="vocab_transform", norm="vocab_layer_norm", projection="vocab_projector"
            ),
            missing_heads=("ForPreTraining",),
        ),
        _roberta("roberta", "Roberta", "RobertaTokenizer", 50265),
        _roberta("xlm-roberta", "XLMRoberta", "XLMRobertaTokenizer", 30522),
        _roberta("camembert", "Camembert", "CamembertTokenizer", 30522),
        FamilyInfo(
            model_type="electra",
            class_prefix="Electra",
            module_prefix="electra",
            tokenizer_class="ElectraTokenizer",
            default_tokenizer="BertTokenizer",
            defaults={
                **_BERT_SIZES,
                "embedding_size": 128,
                "hidden_size": 256,
                "num_attention_heads": 4,
                "intermediate_size": 1024,
            },
            names=ModuleNames(embedding_projection="embeddings_project"),
            mlm_head=MlmHead(
                dense="generator_predictions.dense",
                norm="generator_predictions.LayerNorm",
                projection="generator_lm_head",
                activation="gelu",
            ),
            # It holds the discriminator's head, which finds replaced tokens.
            pretraining_has_mlm=False,
        ),
        FamilyInfo(
            model_type="albert",
            class_prefix="Albert",
            module_prefix="albert",
            tokenizer_class="AlbertTokenizer",
            default_tokenizer="AlbertTokenizer",
            defaults={
                **_BERT_SIZES,
                "vocab_size": 30000,
                "embedding_size": 128,
                "hidden_size": 4096,
                "num_attention_heads": 64,
                "intermediate_size": 16384,
                "hidden_act": "gelu_new",
            },
            names=ModuleNames(
                layers="encoder.albert_layer_groups.0.albert_layers",
                query="attention.query",
                up="ffn",
                embedding_projection="encoder.embedding_hidden_mapping_in",
                blocks=(
                    ("attention", "attention.LayerNorm"),
                    ("feed-forward", "full_layer_layer_norm"),
                ),
            ),
            mlm_head=MlmHead(
                dense="predictions.dense",
                norm="predictions.LayerNorm",
                projection="predictions.decoder",
            ),
            shares_layers=True,
            options={"inner_group_num": (1,)},
        ),
        FamilyInfo(
            model_type="mpnet",
            class_prefix="MPNet",
            module_prefix="mpnet",
            tokenizer_class="MPNetTokenizer",
            default_tokenizer="MPNetTokenizer",
            defaults={
                **{key: value for key, value in _BERT_SIZES.items() if key != "type_vocab_size"},
                "vocab_size": 30527,
                "pad_token_id": 1,
            },
            token_types=False,
            names=ModuleNames(
                query="attention.attn.q",
                blocks=(
                    ("attention", "attention.LayerNorm"),
                    ("feed-forward", "output.LayerNorm"),
                ),
            ),
            # transformers has no other number of buckets in its forward pass.
            options={"relative_attention_num_buckets": (32,)},
            mlm_head=_LM_HEAD,
            positions="relative-bias",
            pad_counts_positions=True,
            # transformers counts from 1 whatever config.json says.
            position_pad=1,
            missing_heads=("ForPreTraining",),
        ),
        FamilyInfo(
            model_type="ernie",
            class_prefix="Ernie",
            module_prefix="ernie",
            tokenizer_class="BertTokenizer",
            default_tokenizer="BertTokenizer",
            defaults=_BERT_SIZES,
        ),
        FamilyInfo(
            model_type="mobilebert",
            class_prefix="MobileBert",
            module_prefix="mobilebert",
            tokenizer_class="MobileBertTokenizer",
            default_tokenizer="MobileBertTokenizer",
            defaults={
                **_BERT_SIZES,
                "embedding_size": 128,
                "hidden_size": 512,
                "num_hidden_layers": 24,
                "num_attention_heads": 4,
                "intermediate_size": 512,
                "hidden_act": "relu",
            },
            names=ModuleNames(
                query=None,
                up=None,
                # Inside a layer the states are narrower.
                blocks=(("attention and feed-forward", "output.bottleneck.LayerNorm"),),
            ),
            mixes_neighbours=True,
            norm_kind="affine",
            residual_norms=0,
            options={"normalization_type": ("no_norm",)},
        ),
    )
}
# Families that a teacher can be of, for messages.
TEACHER_FAMILIES = tuple(name for name, family in FAMILIES.items() if family.can_teach)
