"""`auto`: the fastest 8-bit artefact that loses no more than a bound, found on text that will not judge it.

All products in 8 bits come first: nothing is faster. Where that loses too much, the products go back to float32 in the
order of what each of them harms, more and more of them, until the bound holds. What was tried is the frontier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from edgedistil.core import console
from edgedistil.core.records import NotMeasured, ParityFigures
from edgedistil.export.linears import find_linears
from edgedistil.export.quantize import Int8Plan, quantize_dynamic, wanted_linears
from edgedistil.export.storage import save_graph

# Multiply-adds of float32 in the time of one 8-bit multiply-add, measured at 128 tokens: 300 to 440 against 60 G/s.
FLOAT_COST = 5.0

Figures = Callable[[Path], ParityFigures]


@dataclass(frozen=True)
class Step:
    """One tried plan: what stayed in float, its estimated speed against float32, and what it loses."""

    keep: tuple[str, ...]
    speed: float
    drop: float

    def tell(self) -> str:
        kept = f"{len(self.keep)} products in float32" if self.keep else "every product in 8 bits"
        return (
            f"{kept}: about {self.speed:.2f}x float32's product speed, loses {100 * self.drop:.2f}%"
        )


@dataclass(frozen=True)
class Found:
    plan: Int8Plan
    frontier: list[Step]
    holds: bool


def search(
    graph: ir.Model, plan: Int8Plan, figures: Figures, *, folder: Path, max_drop: float
) -> Found:
    """The first plan, fastest first, that loses at most `max_drop`; float32 for every product where none does.

    Args:
        graph: The float32 graph; not changed.
        plan: How 8-bit products are made for the target.
        figures: Parity of a graph file on the search's own probes.
        folder: For the graphs that are tried.
        max_drop: Agreement that may be lost, 0..1; for an encoder the cosine of hidden states.
    """
    names = [each.name for each in wanted_linears(graph, plan)]

    def drop_of(keep: Sequence[str]) -> float:
        variant = graph.clone()
        quantize_dynamic(variant, with_kept(plan, keep))
        file = folder / "tried.onnx"
        save_graph(variant, file, external=True)
        return lost(figures(file))

    frontier = [Step((), speed_of(graph, plan, ()), drop_of(()))]
    console.say(f"  auto · {frontier[0].tell()}")
    if frontier[0].drop <= max_drop:
        return Found(plan, frontier, holds=True)
    harm: dict[str, float] = {}
    with console.progress("which products are sensitive", len(names), unit="products") as bar:
        for name in names:
            harm[name] = drop_of([each for each in names if each != name])
            bar.advance()
    order = sorted(names, key=lambda name: harm[name], reverse=True)
    for count in _counts(len(names)):
        keep = tuple(order[:count])
        frontier.append(Step(keep, speed_of(graph, plan, keep), drop_of(keep)))
        console.say(f"  auto · {frontier[-1].tell()}")
        if frontier[-1].drop <= max_drop:
            return Found(with_kept(plan, keep), frontier, holds=True)
    return Found(with_kept(plan, names), frontier, holds=False)


def lost(figures: ParityFigures) -> float:
    """What an artefact loses: agreement; where a task has none, the smallest cosine, or the values' concordance."""
    kept = figures.cosine_min if isinstance(figures.agreement, NotMeasured) else figures.agreement
    if isinstance(kept, NotMeasured):
        kept = figures.concordance
    return 1.0 if isinstance(kept, NotMeasured) else max(0.0, 1 - kept)


def speed_of(graph: ir.Model, plan: Int8Plan, keep: Sequence[str]) -> float:
    """Estimated speed of the products against float32 for all of them; what is not a product is left out."""
    quantized = {each.name for each in wanted_linears(graph, plan)} - set(keep)
    work = {each.name: each.matrix().size for each in find_linears(graph)}
    cost = sum(size / (FLOAT_COST if name in quantized else 1) for name, size in work.items())
    return sum(work.values()) / cost


def with_kept(plan: Int8Plan, keep: Sequence[str]) -> Int8Plan:
    """The plan with these products left in float."""
    return Int8Plan(
        signed=plan.signed,
        per_channel=plan.per_channel,
        reduced_range=plan.reduced_range,
        embeddings=plan.embeddings,
        keep=tuple(keep),
    )


def _counts(total: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12 … and all."""
    count = 1
    while count < total:
        yield count
        count = count + 1 if count < 4 else count * 3 // 2
    yield total
