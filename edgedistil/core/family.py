"""Table of the supported encoder families, one row each.

A family is what transformers calls `model_type` in config.json. Code that handles several families
asks the row instead of comparing names, so that a family which differs only in these facts is a new
row. What a family computes differently (offset positions, factorised embeddings, shared layers)
becomes a column here when the first such family is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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


_STANDARD_KEYS = ConfigKeys()


@dataclass(frozen=True)
class FamilyInfo:
    """Facts about one encoder family.

    Attributes:
        model_type: Value of `model_type` in config.json.
        class_prefix: Beginning of transformers' class names, before `Model` or `ForMaskedLM`.
        module_prefix: Attribute that holds the encoder in a model with a head.
        tokenizer_class: Name that every version of transformers and transformers.js knows.
        token_types: Whether the model takes `token_type_ids` (segments A and B).
        can_teach: Whether a model of this family can be distilled.
        default_tokenizer: Tokenizer class of a folder that names none.
        defaults: What transformers assumes where config.json has no such key.
        keys: Names of the sizes in config.json.
    """

    model_type: str
    class_prefix: str
    module_prefix: str
    tokenizer_class: str
    token_types: bool
    can_teach: bool
    default_tokenizer: str
    defaults: Mapping[str, Any]
    keys: ConfigKeys = _STANDARD_KEYS

    def with_defaults(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a parsed config.json with every size that it leaves out, as transformers does.

        DistilBERT's sizes may also have BERT's names.
        """
        completed = {**self.defaults, **config}
        for field, standard in vars(_STANDARD_KEYS).items():
            own = getattr(self.keys, field)
            if own not in config and standard in config:
                completed[own] = config[standard]
        return completed

    def layers(self, config: Mapping[str, Any]) -> int:
        """Transformer layers of a model, from its parsed config.json."""
        return int(self.with_defaults(config)[self.keys.layers])

    def hidden(self, config: Mapping[str, Any]) -> int:
        """Width of the hidden states of a model, from its parsed config.json."""
        return int(self.with_defaults(config)[self.keys.hidden])

    def vocabulary(self, config: Mapping[str, Any]) -> int:
        """Rows of the word-embedding matrix, from a model's parsed config.json."""
        return int(self.with_defaults(config)[self.keys.vocabulary])

    def positions(self, config: Mapping[str, Any]) -> int:
        """Tokens of the longest text that a model has positions for, from its config.json."""
        return int(self.with_defaults(config)[self.keys.positions])

    def segments(self, config: Mapping[str, Any]) -> int:
        """Token types that a model has vectors for, from its parsed config.json."""
        return int(self.with_defaults(config)[self.keys.segments]) if self.token_types else 1


FAMILIES: dict[str, FamilyInfo] = {
    row.model_type: row
    for row in (
        FamilyInfo(
            model_type="bert",
            class_prefix="Bert",
            module_prefix="bert",
            tokenizer_class="BertTokenizer",
            token_types=True,
            can_teach=True,
            default_tokenizer="BertTokenizer",
            defaults={
                "vocab_size": 30522,
                "hidden_size": 768,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "intermediate_size": 3072,
                "hidden_act": "gelu",
                "max_position_embeddings": 512,
                "type_vocab_size": 2,
                "pad_token_id": 0,
            },
        ),
        FamilyInfo(
            model_type="distilbert",
            class_prefix="DistilBert",
            module_prefix="distilbert",
            tokenizer_class="DistilBertTokenizer",
            token_types=False,
            can_teach=False,
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
            keys=ConfigKeys(
                layers="n_layers",
                hidden="dim",
                heads="n_heads",
                intermediate="hidden_dim",
                activation="activation",
            ),
        ),
    )
}
# Families that a teacher can be of, for messages.
TEACHER_FAMILIES = tuple(name for name, family in FAMILIES.items() if family.can_teach)
