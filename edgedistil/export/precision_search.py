"""`auto`: finds the fastest 8-bit artefact whose outputs lose no more than a bound.

All linear layers in 8 bits are tried first: nothing is faster. If that loses too much, layers go
back to float32 in the order of the error that each of them causes, more and more of them, until the
bound holds. The text of the search is not the text of the parity check
(docs/decisions.md#the-search-judges-on-other-text-than-the-parity-check).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from edgedistil.core import console
from edgedistil.core.export_records import ParityFigures
from edgedistil.core.format import percent
from edgedistil.core.records import NotMeasured
from edgedistil.export.int8_arithmetic import Int8Plan
from edgedistil.export.linears import find_linears
from edgedistil.export.quantize import quantizable_linears
from edgedistil.export.storage import save_graph

# 8-bit multiply-adds in the time of one in float32: 300 to 440 against 60 G/s at 128 tokens
# (docs/log.md#integer-kernels).
FLOAT_COST = 5.0

Measure = Callable[[Path], ParityFigures]
# Quantizes a graph in place, by a plan.
Quantize = Callable[[ir.Model, Int8Plan], object]


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
    graph: ir.Model,
    plan: Int8Plan,
    measure: Measure,
    *,
    quantize: Quantize,
    folder: Path,
    max_drop: float,
) -> SearchResult:
    """Searches for the fastest plan that loses at most `max_drop`.

    Args:
        graph: The float32 graph; not changed.
        plan: How 8-bit weights are made for the target.
        measure: Compares a graph file with PyTorch, on the search's own probes.
        quantize: Makes the 8-bit graph of a plan.
        folder: Scratch folder for the graphs that are tried.
        max_drop: Bound of `output_drop`, 0..1.
    """
    trial = _Search(graph, plan, measure, quantize, folder)
    keep_float: tuple[str, ...] = ()
    for keep_float in trial.candidates():
        if trial.step(keep_float).drop <= max_drop:
            best = replace(plan, keep_float=keep_float)
            return SearchResult(best, trial.frontier, within_bound=True)
    # The last candidate has all layers in float32, and the bound still does not hold.
    all_float = replace(plan, keep_float=keep_float)
    return SearchResult(all_float, trial.frontier, within_bound=False)


@dataclass
class _Search:
    """Plans that were tried on one graph."""

    graph: ir.Model
    plan: Int8Plan
    measure: Measure
    quantize: Quantize
    folder: Path
    frontier: list[SearchStep] = field(default_factory=list)

    def candidates(self) -> Iterator[tuple[str, ...]]:
        """Yields the layers to keep in float32: none, then the most harmful ones, then all."""
        yield ()
        # Measured only if 8 bits for all layers lose too much: it takes a run for each layer.
        by_harm = self._layers_by_harm()
        for count in _counts(len(by_harm)):
            yield tuple(by_harm[:count])

    def step(self, keep_float: tuple[str, ...]) -> SearchStep:
        """Tries a plan, prints it, and adds it to the frontier."""
        speed = estimated_speed(self.graph, self.plan, keep_float)
        step = SearchStep(keep_float, speed, self._drop(keep_float))
        console.say(f"  auto · {step.describe()}")
        self.frontier.append(step)
        return step

    def _layers_by_harm(self) -> list[str]:
        """Names of the linear layers, those first that lose most in 8 bits."""
        names = [linear.name for linear in quantizable_linears(self.graph, self.plan)]
        harm: dict[str, float] = {}
        with console.progress("sensitivity of linear layers", len(names), unit="layers") as bar:
            for name in names:
                # One layer in 8 bits, all others in float32: its error is not hidden by theirs.
                harm[name] = self._drop([other for other in names if other != name])
                bar.advance()
        return sorted(names, key=lambda name: harm[name], reverse=True)

    def _drop(self, keep_float: Collection[str]) -> float:
        graph = self.graph.clone()
        self.quantize(graph, replace(self.plan, keep_float=tuple(keep_float)))
        # Every try replaces the file of the last one.
        file = self.folder / "tried.onnx"
        save_graph(graph, file, external=True)
        return output_drop(self.measure(file))


def output_drop(figures: ParityFigures) -> float:
    """What an artefact loses against PyTorch, 0..1.

    Agreement of decisions; for a regression the concordance of its values, and for hidden states
    their smallest cosine. 1 if there is no figure at all.
    """
    # The figures of the parity check, in this order: one that is absent does not apply to the task,
    # and a regression of several values has cosines too, which the parity check does not use.
    for figure in (figures.agreement, figures.concordance, figures.cosine_min):
        if not isinstance(figure, NotMeasured):
            return max(0.0, 1 - figure)
    return 1.0


def estimated_speed(graph: ir.Model, plan: Int8Plan, keep_float: Collection[str]) -> float:
    """Estimated speed of the linear layers, relative to all of them in float32.

    Other operators are not counted.
    """
    quantized = {linear.name for linear in quantizable_linears(graph, plan)} - set(keep_float)
    # Multiply-adds of a token: as many as the weight has numbers.
    work = {linear.name: linear.matrix().size for linear in find_linears(graph)}
    cost = 0.0
    for name, size in work.items():
        cost += size / (FLOAT_COST if name in quantized else 1)
    return sum(work.values()) / cost


def _counts(total: int) -> Iterator[int]:
    """Yields 1, 2, 3, 4, 6, 9, 13 … and `total`: every try costs a run of the probes."""
    # Small steps first: every layer in float costs speed.
    count = 1
    while count < total:
        yield count
        count = count + 1 if count < 4 else count * 3 // 2
    yield total
