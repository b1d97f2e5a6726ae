"""What activations range over on real text: smallest and largest values for static quantization."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from edgedistil.core import console
from edgedistil.core.errors import CorpusError

Method = Literal["min-max", "percentile", "entropy"]
METHODS: tuple[Method, ...] = ("min-max", "percentile", "entropy")
BINS = 2048
KEPT_SHARE = 0.9999  # percentile: this share of all values is covered
_LEVELS = 128  # entropy: half of uint8's levels for each side of 0

Feeds = Mapping[str, NDArray[np.int64]]


class Spread:
    """A histogram of one activation that grows with what it sees; exact in its extremes."""

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.counts = np.zeros(BINS, np.int64)
        self._edge = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        self.low, self.high = (
            min(self.low, float(values.min())),
            max(self.high, float(values.max())),
        )
        top = max(-self.low, self.high, 1e-12)
        if top > self._edge:
            self._widen(top)
        self.counts += np.histogram(values, BINS, (-self._edge, self._edge))[0]

    @property
    def centres(self) -> NDArray[np.float64]:
        edges = np.linspace(-self._edge, self._edge, BINS + 1)
        return (edges[1:] + edges[:-1]) / 2

    def _widen(self, top: float) -> None:
        """Old counts move into the bins that now cover their place."""
        old, self._edge = self.centres if self._edge else np.zeros(BINS), top * 1.25
        moved = np.histogram(old, BINS, (-self._edge, self._edge), weights=self.counts)[0]
        self.counts = moved.astype(np.int64)


def collect(float_file: Path, names: Sequence[str], feeds: Sequence[Feeds]) -> dict[str, Spread]:
    """The spread of each named tensor of a float graph over some calls.

    Raises:
        CorpusError: There are no calls: nothing can be calibrated without text.
    """
    if not feeds:
        raise CorpusError("the calibration text is empty", hint="give real text with --text FILE")
    model = onnx.load(float_file, load_external_data=False)
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    beside = float_file.with_name(f".{float_file.name}.observed")
    beside.write_bytes(model.SerializeToString())
    try:
        session = ort.InferenceSession(beside, _plain_options(), providers=["CPUExecutionProvider"])
        spreads = {name: Spread() for name in names}
        with console.progress("calibrating", len(feeds), unit="calls") as bar:
            for each in feeds:
                for name, values in zip(names, session.run(list(names), dict(each)), strict=True):
                    spreads[name].add(values)
                bar.advance()
    finally:
        beside.unlink()
    return spreads


def ranges(spreads: Mapping[str, Spread], method: Method) -> dict[str, tuple[float, float]]:
    """Smallest and largest value to be covered, by tensor."""
    of: dict[Method, Callable[[Spread], tuple[float, float]]] = {
        "min-max": lambda spread: (spread.low, spread.high),
        "percentile": percentile_range,
        "entropy": entropy_range,
    }
    return {name: of[method](spread) for name, spread in spreads.items()}


def percentile_range(spread: Spread, share: float = KEPT_SHARE) -> tuple[float, float]:
    """The range that leaves the same small share of values out at either end."""
    cumulated = np.cumsum(spread.counts) / spread.counts.sum()
    outside = (1 - share) / 2
    low = spread.centres[int(np.searchsorted(cumulated, outside))]
    high = spread.centres[min(int(np.searchsorted(cumulated, 1 - outside)), BINS - 1)]
    return max(float(low), spread.low), min(float(high), spread.high)


def entropy_range(spread: Spread) -> tuple[float, float]:
    """The symmetric range whose quantized histogram is closest to the whole one by KL divergence.

    Source: Migacz 2017, "8-bit inference with TensorRT": values beyond the range count as its outermost bins.
    """
    counts, middle = spread.counts.astype(np.float64), BINS // 2
    tried = range(_LEVELS // 2, middle + 1, _LEVELS // 8)
    best = min(tried, key=lambda half: _divergence(counts, middle - half, middle + half))
    edge = abs(float(spread.centres[middle - best]))
    return max(-edge, spread.low), min(edge, spread.high)


def _divergence(counts: NDArray[np.float64], start: int, stop: int) -> float:
    kept = counts[start:stop].copy()
    whole = kept.copy()
    whole[0] += counts[:start].sum()
    whole[-1] += counts[stop:].sum()
    groups = np.array_split(np.arange(len(kept)), min(_LEVELS * 2, len(kept)))
    coarse = np.zeros_like(kept)
    for group in groups:
        there = kept[group] > 0
        if there.any():
            coarse[group] = np.where(there, kept[group].sum() / there.sum(), 0)
    p, q = whole / whole.sum(), coarse / max(coarse.sum(), 1)
    both = (p > 0) & (q > 0)
    lost = p[
        (p > 0) & (q == 0)
    ].sum()  # nothing of the coarse histogram lies there: infinitely far, counted as 1 a bin
    return float((p[both] * np.log(p[both] / q[both])).sum() + lost * 10)


def _plain_options() -> Any:
    """Without fusion the tensors of the file are those that are computed."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    return options
