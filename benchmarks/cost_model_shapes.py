"""Encoders of given shapes with random weights, in fp32 and int8, as `edgedistil export` writes them.

A latency does not depend on what the weights are. The cost model's constants of this host are fitted on the shapes in
`FITTED` and judged on the pairs in `JUDGED`; no shape is in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertModel,
)

from edgedistil.core.rundir import replacing
from edgedistil.export.passes import Shape, run_passes, standard_passes
from edgedistil.export.quantization_target import advise_int8, find_target
from edgedistil.export.quantize import quantize_dynamic
from edgedistil.export.storage import save_graph
from edgedistil.export.trace import trace

PRECISIONS = ("fp32", "int8")
VOCABULARY = 30_522


@dataclass(frozen=True)
class Encoder:
    """A BERT (with token types) or a DistilBERT of this size; `head` adds the vocabulary projection."""

    kind: str
    layers: int
    width: int
    heads: int
    head: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.layers}x{self.width}-{self.heads}{'-mlm' if self.head else ''}"

    @property
    def task(self) -> str:
        return "fill-mask" if self.head else "feature-extraction"

    @property
    def inputs(self) -> tuple[str, ...]:
        return (
            "input_ids",
            "attention_mask",
            *(("token_type_ids",) if self.kind == "bert" else ()),
        )

    def graph(self, place: Path, precision: str) -> Path:
        return place / self.name / precision / "model.onnx"

    def make(self, place: Path) -> None:
        """Writes both graphs below `place`, if they are not there."""
        if (place / self.name).exists():
            return
        torch.manual_seed(0)
        model = self._model().eval().requires_grad_(False)
        bert = self.kind == "bert"
        with replacing(place / self.name) as aside:
            graph = trace(model, task=self.task, token_types=bert)
            run_passes(
                graph,
                standard_passes(
                    Shape.of(graph, model.config), token_types=bert, drop_token_types=False
                ),
            )
            save_graph(graph, aside / "fp32" / "model.onnx", external=True)
            quantize_dynamic(graph, advise_int8(find_target(None), signed=True).plan)
            save_graph(graph, aside / "int8" / "model.onnx", external=True)

    def _model(self) -> torch.nn.Module:
        if self.kind == "bert":
            config = BertConfig(
                num_hidden_layers=self.layers,
                hidden_size=self.width,
                num_attention_heads=self.heads,
                intermediate_size=4 * self.width,
                vocab_size=VOCABULARY,
            )
            return (
                BertForMaskedLM(config) if self.head else BertModel(config, add_pooling_layer=False)
            )
        shape = DistilBertConfig(
            n_layers=self.layers,
            dim=self.width,
            n_heads=self.heads,
            hidden_dim=4 * self.width,
            vocab_size=VOCABULARY,
        )
        return DistilBertForMaskedLM(shape) if self.head else DistilBertModel(shape)


FITTED = (
    Encoder("distilbert", 2, 256, 8),
    Encoder("bert", 5, 256, 4),
    Encoder("distilbert", 3, 512, 8),
    Encoder("bert", 8, 512, 16),
    Encoder("distilbert", 2, 1024, 16),
    Encoder("bert", 5, 1024, 16),
    Encoder("distilbert", 2, 512, 8, head=True),
)
JUDGED = (
    ("BERT-base → DistilBERT", Encoder("bert", 12, 768, 12), Encoder("distilbert", 6, 768, 12)),
    ("MiniLM → 3 layers", Encoder("bert", 6, 384, 12), Encoder("distilbert", 3, 384, 12)),
    (
        "MiniLM → 3 layers, fill-mask",
        Encoder("bert", 6, 384, 12, head=True),
        Encoder("distilbert", 3, 384, 12, head=True),
    ),
)


def make_all(place: Path) -> None:
    for each in (*FITTED, *(each for _, *pair in JUDGED for each in pair)):
        each.make(place)
