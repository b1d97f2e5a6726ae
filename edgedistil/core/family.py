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
    intermediate: str = "intermediate_size"
    activation: str = "hidden_act"


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
        keys: Names of the sizes in config.json.
    """

    model_type: str
    class_prefix: str
    module_prefix: str
    tokenizer_class: str
    token_types: bool
    can_teach: bool
    keys: ConfigKeys = ConfigKeys()

    def layers(self, config: Mapping[str, Any]) -> int:
        """Transformer layers of a model, from its parsed config.json."""
        return int(config[self.keys.layers])

    def hidden(self, config: Mapping[str, Any]) -> int:
        """Width of the hidden states of a model, from its parsed config.json."""
        return int(config[self.keys.hidden])


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
        ),
        FamilyInfo(
            model_type="distilbert",
            class_prefix="DistilBert",
            module_prefix="distilbert",
            tokenizer_class="DistilBertTokenizer",
            token_types=False,
            can_teach=False,
            keys=ConfigKeys(
                layers="n_layers",
                hidden="dim",
                intermediate="hidden_dim",
                activation="activation",
            ),
        ),
    )
}
# Families that a teacher can be of, for messages.
TEACHER_FAMILIES = tuple(name for name, family in FAMILIES.items() if family.can_teach)
