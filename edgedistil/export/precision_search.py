"""`auto`: finds the fastest 8-bit artefact whose outputs lose no more than a bound.

All linear layers in 8 bits are tried first: nothing is faster. If that loses too much, layers go back
to float32 in the order of the error that each of them causes, more and more of them, until the bound
holds. The text of the search is not the text of the parity check
(docs/decisions.md#the-search-judges-on-other-text-than-the-parity-check).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from edgedistil.core import console
from edgedistil.core.format import percent
from edgedistil.core.records import NotMeasured, ParityFigures
from edgedistil.export.linears import find_linears
from edgedistil.export.quantize import Int8Plan, quantizable_linears, quantize_dynamic
from edgedistil.export.storage import save_graph

# 8-bit multiply-adds in the time of one in float32: 300 to 440 against 60 G/s at 128 tokens
# (docs/log.md#integer-kernels).
FLOAT_COST = 5.0

Measure = Callable[[Path], ParityFigures]


@dataclass(frozen=True)
class SearchStep:
    """A plan that was tried.

    Attributes:
        keep_float: Linear layers in float32.
        speed: Estimated speed of the linear layers, relative to all of them in float32.
        drop: Agreement that is lost, 0..1.
    """

    keep_float: tuple[str, ...]
    speed: float
    drop: float

    def describe(self) -> str:
        """One line for the console and the record."""
        plan = "all linear layers in 8 bits"
        if self.keep_float:
            plan = f"{len(self.keep_float)} linear layers in float32"
        return (
            f"{plan}: about {self.speed:.2f}x the speed of float32, loses {percent(self.drop, 2)}"
        )


@dataclass(frozen=True)
class SearchResult:
    """The plan that a search selected.

    Attributes:
        plan: The fastest plan within the bound; all linear layers in float32 if none is.
        frontier: The plans that were tried, fastest first.
        within_bound: Whether the selected plan holds the bound.
    """

    plan: Int8Plan
    frontier: list[SearchStep]
    within_bound: bool


def search(
    graph: ir.Model, plan: Int8Plan, measure: Measure, *, folder: Path, max_drop: float
) -> SearchResult:
    """Searches for the fastest plan that loses at most `max_drop`.

    Args:
        graph: The float32 graph; not changed.
        plan: How 8-bit weights are made for the target.
        measure: Compares a graph file with PyTorch, on the search's own probes.
        folder: Scratch folder for the graphs that are tried.
        max_drop: Bound of `output_drop`, 0..1.
    """
    names = [linear.name for linear in quantizable_linears(graph, plan)]

    def drop_of(keep_float: Collection[str]) -> float:
        variant = graph.clone()
        quantize_dynamic(variant, replace(plan, keep_float=tuple(keep_float)))
        file = folder / "tried.onnx"
        save_graph(variant, file, external=True)
        return output_drop(measure(file))

    frontier: list[SearchStep] = []

    def holds(keep_float: tuple[str, ...]) -> bool:
        speed = estimated_speed(graph, plan, keep_float)
        step = SearchStep(keep_float, speed, drop_of(keep_float))
        console.say(f"  auto · {step.describe()}")
        frontier.append(step)
        return step.drop <= max_drop

    if holds(()):
        return SearchResult(plan, frontier, within_bound=True)

    # Measure how much each layer loses alone, with all others in float32.
    harm: dict[str, float] = {}
    with console.progress("sensitivity of linear layers", len(names), unit="layers") as bar:
        for name in names:
            harm[name] = drop_of([other for other in names if other != name])
            bar.advance()

    # Put the most harmful layers back to float32 until the bound holds.
    by_harm = sorted(names, key=lambda name: harm[name], reverse=True)
    for count in _counts(len(names)):
        keep_float = tuple(by_harm[:count])
        if holds(keep_float):
            return SearchResult(replace(plan, keep_float=keep_float), frontier, within_bound=True)
    return SearchResult(replace(plan, keep_float=tuple(names)), frontier, within_bound=False)


def output_drop(figures: ParityFigures) -> float:
    """What an artefact loses against PyTorch, 0..1.

    Agreement of decisions; for a task without decisions the smallest cosine of hidden states, and for
    a regression the concordance of its values. 1 if there is no figure at all.
    """
    for figure in (figures.agreement, figures.cosine_min, figures.concordance):
        if not isinstance(figure, NotMeasured):
            return max(0.0, 1 - figure)
    return 1.0


def estimated_speed(graph: ir.Model, plan: Int8Plan, keep_float: Collection[str]) -> float:
    """Estimated speed of the linear layers, relative to all of them in float32.

    Other operators are not counted.
    """
    quantized = {linear.name for linear in quantizable_linears(graph, plan)} - set(keep_float)
    work = {linear.name: linear.matrix().size for linear in find_linears(graph)}
    cost = 0.0
    for name, size in work.items():
        cost += size / (FLOAT_COST if name in quantized else 1)
    return sum(work.values()) / cost


def _counts(total: int) -> Iterator[int]:
    """Yields 1, 2, 3, 4, 6, 9, 13 … and `total`: every try costs a run of the probes."""
    count = 1
    while count < total:
        yield count
        count = count + 1 if count < 4 else count * 3 // 2
    yield total
