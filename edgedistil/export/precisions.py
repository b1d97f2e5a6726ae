"""A precision by name → the graph in it, with the reasons for how it was made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgedistil.core.errors import CorpusError
from edgedistil.core.precision import Precision, PrecisionRequest
from edgedistil.export.calibrate import METHODS, collect, ranges
from edgedistil.export.linears import find_words
from edgedistil.export.precision_search import search, with_kept
from edgedistil.export.quantization_target import (
    Advice,
    Target,
    advise_int8,
    weight_only_reasons,
)
from edgedistil.export.quantize import by_input, quantize_dynamic, quantize_static, wanted_linears
from edgedistil.export.reference import make_probes
from edgedistil.export.source import Source
from edgedistil.export.storage import save_graph
from edgedistil.export.weight_only import halve_weights, quantize_int4
from edgedistil.parity.gate import check_artefact
from edgedistil.parity.probes import Probes

CALIBRATION_CALLS, CALIBRATION_BATCH, CALIBRATION_LENGTH = 24, 4, 128
SEARCH_SEED, SEARCH_LENGTH = 21, 64


@dataclass
class Workshop:
    """What making a variant needs: the float graph and its file, the target, and text that will not judge it."""

    graph: ir.Model
    float_file: Path
    source: Source
    target: Target
    text: Sequence[str]
    scratch: Path
    max_drop: float
    keep: tuple[str, ...] = ()
    _probes: list[Probes] = field(default_factory=list)

    def other_probes(self) -> Probes:
        """Short probes from the calibration text: they choose, the run's own probes judge."""
        if not self._probes:
            made = make_probes(
                self.source.model,
                self.source.tokenizer,
                self.source.task,
                self.text,
                seed=SEARCH_SEED,
            )
            self._probes.append(made.up_to(SEARCH_LENGTH))
        return self._probes[0]


@dataclass(frozen=True)
class Variant:
    graph: ir.Model
    precision: Precision
    reasons: dict[str, str]
    warnings: list[str]


def make_fp32(shop: Workshop) -> Variant:
    return Variant(shop.graph, "fp32", {}, [])


def make_fp16(shop: Workshop) -> Variant:
    """Returns the graph with float16 weights.

    Raises:
        ModelError: A weight does not fit into float16.
    """
    copy = shop.graph.clone()
    reasons, warnings = weight_only_reasons(shop.target, "fp16")
    halve_weights(copy)
    return Variant(copy, "fp16", reasons, warnings)


def make_int8(shop: Workshop) -> Variant:
    advice = advise_int8(shop.target, signed=True)
    return Variant(_dynamic(shop, advice), "int8", advice.reasons, advice.warnings)


def make_uint8(shop: Workshop) -> Variant:
    advice = advise_int8(shop.target, signed=False)
    return Variant(_dynamic(shop, advice), "uint8", advice.reasons, advice.warnings)


def _dynamic(shop: Workshop, advice: Advice) -> ir.Model:
    copy = shop.graph.clone()
    quantize_dynamic(copy, with_kept(advice.plan, shop.keep))
    return copy


def make_int4(shop: Workshop) -> Variant:
    copy = shop.graph.clone()
    reasons, warnings = weight_only_reasons(shop.target, "int4")
    quantize_int4(copy, advise_int8(shop.target, signed=True).plan)
    return Variant(copy, "int4", reasons, warnings)


def make_int8_static(shop: Workshop) -> Variant:
    """Calibrated three ways; the one that answers most like PyTorch on the calibration text stays."""
    advice = advise_int8(shop.target, signed=True)
    plan = with_kept(advice.plan, shop.keep)
    copy = shop.graph.clone()
    names = [x.name or "" for x in by_input(wanted_linears(copy, plan))]
    spreads = collect(shop.float_file, names, calibration_feeds(shop.source, shop.text))
    errors: dict[str, float] = {}
    made: dict[str, ir.Model] = {}
    for method in METHODS:
        made[method] = shop.graph.clone()
        quantize_static(made[method], plan, ranges(spreads, method))
        errors[method] = _figures(shop, made[method]).mean_abs
    best = min(errors, key=lambda method: errors[method])
    told = ", ".join(f"{method} {error:.4g}" for method, error in errors.items())
    reasons = advice.reasons | {
        "activations": f"ranges calibrated on {CALIBRATION_CALLS * CALIBRATION_BATCH} sequences of held-out text",
        "calibration": f"{best}: smallest mean error on that text ({told})",
    }
    lost = "int8-static saves the search for extremes in each call, and loses more agreement than int8 where text differs"
    return Variant(made[best], "int8-static", reasons, [lost])


def make_auto(shop: Workshop) -> Variant:
    copy = shop.graph.clone()
    advice = advise_int8(shop.target, signed=True)
    found = search(
        shop.graph,
        advice.plan,
        lambda file: _check(shop, file),
        folder=shop.scratch,
        max_drop=shop.max_drop,
    )
    quantize_dynamic(copy, found.plan)
    kept = ", ".join(found.plan.keep) or "none"
    reasons = advice.reasons | {
        "auto": f"fastest that loses at most {100 * shop.max_drop:g}% on the search's text; in float32: {kept}",
        "frontier": " | ".join(step.tell() for step in found.frontier),
    }
    warnings = (
        []
        if found.holds
        else [
            f"auto: no 8-bit artefact keeps {100 * shop.max_drop:g}%; only the words are in 8 bits"
        ]
    )
    return Variant(copy, "int8", reasons, warnings)


MAKERS: dict[PrecisionRequest, Callable[[Workshop], Variant]] = {
    "fp32": make_fp32,
    "fp16": make_fp16,
    "int8": make_int8,
    "uint8": make_uint8,
    "int8-static": make_int8_static,
    "int4": make_int4,
    "auto": make_auto,
}


def make_variant(shop: Workshop, precision: PrecisionRequest) -> Variant:
    """Returns the graph in a precision; the float graph of the shop is not changed.

    Raises:
        CorpusError: Calibration without text.
        ModelError: A weight that the precision cannot hold.
    """
    return MAKERS[precision](shop)


# Artefacts that `remake` can make again with some nodes in float, to explain their error.
REQUANTIZABLE: tuple[Precision, ...] = ("int8", "uint8")


def remake(shop: Workshop, nodes: Sequence[str]) -> Path:
    """The int8 graph again with these nodes of the float graph left in float; in the scratch folder."""
    plan = with_kept(advise_int8(shop.target, signed=True).plan, nodes)
    words = find_words(shop.graph)
    if words is not None and words.name in nodes:
        plan = replace(plan, embeddings=False)
    copy = shop.graph.clone()
    quantize_dynamic(copy, plan)
    file = shop.scratch / "remade.onnx"
    save_graph(copy, file, external=True)
    return file


def calibration_feeds(source: Source, text: Sequence[str]) -> list[dict[str, Any]]:
    """Padded batches of real text.

    Raises:
        CorpusError: There is none.
    """
    lines = [line for line in text if line.strip()]
    if not lines:
        raise CorpusError("the calibration text is empty", hint="give real text with --text FILE")
    spread = np.linspace(
        0, len(lines) - 1, min(len(lines), CALIBRATION_CALLS * CALIBRATION_BATCH)
    ).astype(int)
    chosen = [lines[index] for index in spread]
    longest = min(CALIBRATION_LENGTH, source.model.config.max_position_embeddings)
    names = [
        "input_ids",
        "attention_mask",
        *(["token_type_ids"] if source.takes_token_types else []),
    ]
    feeds = []
    for start in range(0, len(chosen), CALIBRATION_BATCH):
        batch = source.tokenizer(
            chosen[start : start + CALIBRATION_BATCH],
            padding=True,
            truncation=True,
            max_length=longest,
            return_tensors="np",
            return_token_type_ids=source.takes_token_types,
        )
        feeds.append({name: batch[name].astype(np.int64) for name in names})
    return feeds


def _figures(shop: Workshop, graph: ir.Model) -> Any:
    file = shop.scratch / "tried.onnx"
    save_graph(graph, file, external=True)
    return _check(shop, file)


def _check(shop: Workshop, file: Path) -> Any:
    task, name = shop.source.task, shop.source.name
    return check_artefact(
        file, shop.other_probes(), precision="int8", model=name, task=task
    ).overall
