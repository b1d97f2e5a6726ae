"""Ranges of activations on real text, for static quantization."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from edgedistil.core import console
from edgedistil.core.errors import CorpusError
from edgedistil.core.session import PROVIDERS, SessionOptions

Method = Literal["min-max", "percentile", "entropy"]
Range = tuple[float, float]
Feeds = Mapping[str, NDArray[np.int64]]

METHODS: tuple[Method, ...] = ("min-max", "percentile", "entropy")
# As many as the source of `entropy_range` uses.
BINS = 2048
# Share of all values that a percentile range covers.
COVERED_SHARE = 0.9999
# Levels of uint8 on one side of 0.
_LEVELS = 128
# Added to the divergence for each unit of probability that falls into empty bins: infinity by
# definition, which no range could be compared by.
_EMPTY_BIN_PENALTY = 10
# A histogram is made wider than the value that did not fit, so that it is rarely made wider.
_HEADROOM = 1.25
_SMALLEST_EDGE = 1e-12
# Rows of each tensor that scales are compared on: more would change no choice and cost memory.
SAMPLED_ROWS = 512


# --- observation ---------------------------------------------------------------------------------


class Histogram:
    """A symmetric histogram of one activation that grows with its values.

    Attributes:
        low: Smallest value, exact, at most 0.
        high: Largest value, exact, at least 0.
        counts: Values in each bin.
    """

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.counts = np.zeros(BINS, np.int64)
        self._edge = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Counts values; bins become wider if a value is outside."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        top = max(-self.low, self.high, _SMALLEST_EDGE)
        if top > self._edge:
            self._widen(top)
        self.counts += np.histogram(values, BINS, (-self._edge, self._edge))[0]

    @property
    def centres(self) -> NDArray[np.float64]:
        """Middle of each bin."""
        edges = np.linspace(-self._edge, self._edge, BINS + 1)
        return (edges[1:] + edges[:-1]) / 2

    def _widen(self, top: float) -> None:
        """Moves the counts into bins that reach beyond `top`."""
        centres = self.centres if self._edge else np.zeros(BINS)
        self._edge = top * _HEADROOM
        moved = np.histogram(centres, BINS, (-self._edge, self._edge), weights=self.counts)[0]
        self.counts = moved.astype(np.int64)


def collect_histograms(
    float_file: Path, names: Sequence[str], feeds: Sequence[Feeds]
) -> dict[str, Histogram]:
    """Runs a float32 graph and counts the values of some of its tensors.

    Args:
        float_file: The graph; a temporary file is written next to it.
        names: Tensors of the graph.
        feeds: Inputs of each call.
    Returns:
        Name of the tensor → its histogram over all calls.
    Raises:
        CorpusError: There are no feeds.
    """
    histograms = {name: Histogram() for name in names}
    for _, tensors in _observe(float_file, names, feeds):
        for name, values in tensors.items():
            histograms[name].add(values)
    return histograms


@dataclass(frozen=True)
class RowSample:
    """Values of one tensor at real tokens, without padding.

    Attributes:
        low_K: Smallest value of each channel.
        high_K: Largest value of each channel.
        rows_RK: Some rows, evenly from all calls.
    """

    low_K: NDArray[np.float32]
    high_K: NDArray[np.float32]
    rows_RK: NDArray[np.float32]


def collect_rows(
    float_file: Path, names: Sequence[str], feeds: Sequence[Feeds]
) -> dict[str, RowSample]:
    """Runs a float32 graph and samples the rows of some of its tensors.

    Args:
        float_file: The graph; a temporary file is written next to it.
        names: Tensors of the graph, whose last axis is the channel.
        feeds: Inputs of each call, with `attention_mask`.
    Returns:
        Name of the tensor → extremes of its channels, and some of its rows.
    Raises:
        CorpusError: There are no feeds.
    """
    low: dict[str, NDArray[np.float32]] = {}
    high: dict[str, NDArray[np.float32]] = {}
    sampled: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    rng = np.random.default_rng(0)
    share = -(-SAMPLED_ROWS // max(1, len(feeds)))
    for feed, tensors in _observe(float_file, names, feeds):
        for name, values in tensors.items():
            rows = _token_rows(values, feed["attention_mask"])
            low[name] = np.minimum(low.get(name, rows[0]), rows.min(axis=0))
            high[name] = np.maximum(high.get(name, rows[0]), rows.max(axis=0))
            sampled[name].append(rows[rng.permutation(len(rows))[:share]])
    return {
        name: RowSample(low[name], high[name], rng.permutation(np.concatenate(sampled[name])))
        for name in names
    }


def _token_rows(values: NDArray[np.float32], mask_BL: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows of a tensor, without those of padding if it has a row for each token."""
    # Inside the graph the sequence is the first axis; a head may have turned it.
    for mask in (mask_BL.T, mask_BL):
        if values.shape[:-1] == mask.shape:
            return np.asarray(values[mask == 1])
    return values.reshape(-1, values.shape[-1])


def _observe(
    float_file: Path, names: Sequence[str], feeds: Sequence[Feeds]
) -> Iterator[tuple[Feeds, dict[str, NDArray[np.float32]]]]:
    """Yields the values of some tensors for each call of a graph."""
    if not feeds:
        raise CorpusError("the calibration text is empty", hint="give real text with --text FILE")
    # In the same folder, because the graph names its weights by a relative path.
    observed_file = float_file.with_name(f".{float_file.name}.observed")
    observed_file.write_bytes(_graph_with_outputs(float_file, names))
    # Higher levels fuse nodes, and the tensors between them are not computed any more.
    options = SessionOptions(graph_level="basic").to_onnxruntime()
    try:
        session = ort.InferenceSession(observed_file, options, providers=list(PROVIDERS))
        with console.progress("calibrating", len(feeds), unit="calls") as bar:
            for feed in feeds:
                # Only the tensors of one call are in memory at a time.
                tensors = session.run(list(names), dict(feed))
                yield feed, dict(zip(names, tensors, strict=True))
                bar.advance()
    finally:
        observed_file.unlink()


def _graph_with_outputs(float_file: Path, names: Sequence[str]) -> bytes:
    """The graph, serialized, with inner tensors as additional outputs."""
    model = onnx.load(float_file, load_external_data=False)
    outputs = {output.name for output in model.graph.output}
    inner = [name for name in names if name not in outputs]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    data: bytes = model.SerializeToString()
    return data


# --- ranges --------------------------------------------------------------------------------------


def activation_ranges(
    histograms: Mapping[str, Histogram], method: Method
) -> dict[str, tuple[float, float]]:
    """Returns the smallest and the largest value to cover, by tensor."""
    functions: dict[Method, Callable[[Histogram], Range]] = {
        "min-max": lambda histogram: (histogram.low, histogram.high),
        "percentile": percentile_range,
        "entropy": entropy_range,
    }
    return {name: functions[method](histogram) for name, histogram in histograms.items()}


def percentile_range(histogram: Histogram, share: float = COVERED_SHARE) -> Range:
    """The range that covers a share of the values and excludes as many at either end."""
    cumulated = np.cumsum(histogram.counts) / histogram.counts.sum()
    outside = (1 - share) / 2
    centres = histogram.centres
    low = centres[int(np.searchsorted(cumulated, outside))]
    high = centres[min(int(np.searchsorted(cumulated, 1 - outside)), BINS - 1)]
    return max(float(low), histogram.low), min(float(high), histogram.high)


def entropy_range(histogram: Histogram) -> Range:
    """The symmetric range whose quantized histogram has the smallest KL divergence.

    Source: Migacz 2017, "8-bit inference with TensorRT": values beyond a range count as values of
        its outermost bins.
    """
    counts = histogram.counts.astype(np.float64)
    middle = BINS // 2
    half_widths = range(_LEVELS // 2, middle + 1, _LEVELS // 8)
    best = min(half_widths, key=lambda half: _divergence(counts, middle - half, middle + half))
    edge = abs(float(histogram.centres[middle - best]))
    return max(-edge, histogram.low), min(edge, histogram.high)


def _divergence(counts: NDArray[np.float64], start: int, stop: int) -> float:
    """KL divergence of the clipped histogram from the same one in 256 levels, in nats."""
    inside = counts[start:stop].copy()
    clipped = inside.copy()
    clipped[0] += counts[:start].sum()
    clipped[-1] += counts[stop:].sum()

    # Quantize: the bins of one level share its values evenly, and empty bins stay empty.
    coarse = np.zeros_like(inside)
    for level in np.array_split(np.arange(len(inside)), min(_LEVELS * 2, len(inside))):
        occupied = inside[level] > 0
        if occupied.any():
            coarse[level] = np.where(occupied, inside[level].sum() / occupied.sum(), 0)

    p = clipped / clipped.sum()
    q = coarse / max(coarse.sum(), 1)
    both = (p > 0) & (q > 0)
    missed = p[(p > 0) & (q == 0)].sum()
    return float((p[both] * np.log(p[both] / q[both])).sum() + missed * _EMPTY_BIN_PENALTY)
