"""Encoders of some sizes with random weights, in fp32 and int8, as `edgedistil export` writes them.

Latency does not depend on the values of the weights. The cost model's constants of this host are
fitted on the shapes in `FITTED` and judged on the pairs in `JUDGED`; no shape is in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertModel,
)

from edgedistil.core.places import cache_root
from edgedistil.core.rundir import replacing
from edgedistil.core.task import ENCODER_TASK, FILL_MASK_TASK, Task
from edgedistil.export.untrained import save_precisions

VOCABULARY = 30_522


@dataclass(frozen=True)
class Encoder:
    """An encoder of one size.

    Attributes:
        kind: Family; a BERT has token types, a DistilBERT has none.
        layers: Number of layers.
        width: Hidden size.
        heads: Attention heads.
        has_head: Whether it has a masked-LM head, with the projection onto the vocabulary.
    """

    kind: Literal["bert", "distilbert"]
    layers: int
    width: int
    heads: int
    has_head: bool = False

    @property
    def name(self) -> str:
        name = f"{self.kind}-{self.layers}x{self.width}-{self.heads}"
        return f"{name}-mlm" if self.has_head else name

    @property
    def task(self) -> Task:
        return FILL_MASK_TASK if self.has_head else ENCODER_TASK

    @property
    def inputs(self) -> tuple[str, ...]:
        if self.kind == "bert":
            return ("input_ids", "attention_mask", "token_type_ids")
        return ("input_ids", "attention_mask")

    def graph(self, folder: Path, precision: str) -> Path:
        """Path of one of its graphs below the folder of all shapes."""
        return folder / self.name / precision / "model.onnx"

    def export(self, folder: Path) -> None:
        """Writes both graphs below `folder`, unless they exist."""
        if (folder / self.name).exists():
            return
        torch.manual_seed(0)
        model = self._model().eval().requires_grad_(False)
        # An interrupted export leaves no folder of this name.
        with replacing(folder / self.name) as temporary:
            save_precisions(
                model,
                {name: temporary / name / "model.onnx" for name in ("fp32", "int8")},
                task=self.task,
            )

    def _model(self) -> torch.nn.Module:
        if self.kind == "bert":
            bert = BertConfig(
                num_hidden_layers=self.layers,
                hidden_size=self.width,
                num_attention_heads=self.heads,
                intermediate_size=4 * self.width,
                vocab_size=VOCABULARY,
            )
            if self.has_head:
                return BertForMaskedLM(bert)
            return BertModel(bert, add_pooling_layer=False)
        distilbert = DistilBertConfig(
            n_layers=self.layers,
            dim=self.width,
            n_heads=self.heads,
            hidden_dim=4 * self.width,
            vocab_size=VOCABULARY,
        )
        if self.has_head:
            return DistilBertForMaskedLM(distilbert)
        return DistilBertModel(distilbert)


FITTED = (
    Encoder("distilbert", 2, 256, 8),
    Encoder("bert", 5, 256, 4),
    Encoder("distilbert", 3, 512, 8),
    Encoder("bert", 8, 512, 16),
    Encoder("distilbert", 2, 1024, 16),
    Encoder("bert", 5, 1024, 16),
    Encoder("distilbert", 2, 512, 8, has_head=True),
)
# Name of the pair → (teacher, student).
JUDGED: dict[str, tuple[Encoder, Encoder]] = {
    "BERT-base → DistilBERT": (
        Encoder("bert", 12, 768, 12),
        Encoder("distilbert", 6, 768, 12),
    ),
    "MiniLM → 3 layers": (
        Encoder("bert", 6, 384, 12),
        Encoder("distilbert", 3, 384, 12),
    ),
    "MiniLM → 3 layers, fill-mask": (
        Encoder("bert", 6, 384, 12, has_head=True),
        Encoder("distilbert", 3, 384, 12, has_head=True),
    ),
}


JUDGED_ENCODERS = tuple(encoder for pair in JUDGED.values() for encoder in pair)


def shapes_folder() -> Path:
    """Folder of the exported shapes, in the cache."""
    return cache_root() / "benchmarks" / "cost_model_shapes"


def export_all(folder: Path) -> None:
    """Writes the graphs of all shapes that do not exist yet."""
    for encoder in (*FITTED, *JUDGED_ENCODERS):
        encoder.export(folder)
