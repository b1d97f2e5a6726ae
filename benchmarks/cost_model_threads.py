"""Fits how onnxruntime's calls speed up with threads, by precision and by work per node.

    python benchmarks/cost_model_threads.py

Prints, for each machine with rows on one and on several threads, the speed-up of MatMuls, the
cycles per node of dividing its work and the serial share of the element-wise work
(`thread_scaling` of the device file; `thread_cycles` and `serial_share` in
edgedistil/costmodel/constants.py), and the measured and fitted speed-ups. Rows on one machine:
the medians of ten profiles (benchmarks/results/profile_repeat-2026-11-22.md), and those of
cost_model_host.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cost_model_work import stored_work
from page import RESULTS, argument_parser
from scipy.optimize import least_squares

from edgedistil.core.console import result
from edgedistil.core.device import DeviceSpec, ThreadScaling, load_device
from edgedistil.costmodel.constants import ONNXRUNTIME_CONSTANTS, Constants, core_family
from edgedistil.costmodel.model import predict_seconds

TEN_PROFILES = RESULTS / "profile_repeat-2026-11-22.md"
TEN_PROFILES_DEVICE = "x86-amx"
# Artefacts of that run → shapes with the same graphs.
_SHAPES = {
    "teacher feature-extraction": "bert-6x384-12",
    "student feature-extraction": "distilbert-3x384-12",
    "teacher fill-mask": "bert-6x384-12-mlm",
    "student fill-mask": "distilbert-3x384-12-mlm",
}
_ROW = re.compile(r"^\| (\w+ [\w-]+) \| (\w+) \| (\d+) \| (\d+) \| ([\d.]+) \|", re.MULTILINE)


@dataclass(frozen=True)
class TimedCall:
    """A measured time of one shape.

    Attributes:
        shape: Name of the encoder.
        precision: fp32 or int8.
        threads: Number of threads.
        tokens: Sequence length.
        ms: Milliseconds of a call.
    """

    shape: str
    precision: str
    threads: int
    tokens: int
    ms: float


@dataclass(frozen=True)
class SpeedUp:
    """How much faster a call is on several threads.

    Attributes:
        call: The call on several threads.
        measured: Time on one thread over time on several.
        predicted: The same by the model.
    """

    call: TimedCall
    measured: float
    predicted: float


@dataclass(frozen=True)
class ThreadFit:
    """Fitted thread scaling of one machine.

    Attributes:
        speedup: Speed-up of MatMuls.
        thread_cycles: Cycles per node for dividing its work.
        serial_share: Share of the element-wise work that does not speed up.
        rows: The measured and the fitted speed-ups.
    """

    speedup: float
    thread_cycles: float
    serial_share: float
    rows: list[SpeedUp]

    @property
    def largest_error(self) -> float:
        """Largest relative error of a speed-up."""
        errors = [abs(math.log(row.predicted / row.measured)) for row in self.rows]
        return math.exp(max(errors)) - 1


def main() -> None:
    argument_parser(__doc__).parse_args()
    fit = fit_threads(list(ten_profiles()), load_device(TEN_PROFILES_DEVICE))
    result(
        f"{TEN_PROFILES_DEVICE}: speed-up of MatMuls {fit.speedup:.3f}, "
        f"thread_cycles {fit.thread_cycles:,.0f}, serial_share {fit.serial_share:.3f}; "
        f"largest error {fit.largest_error:.0%}"
    )
    for row in fit.rows:
        call = row.call
        result(
            f"  {call.shape:26} {call.precision} {call.tokens:4} tokens, {call.threads} threads: "
            f"measured {row.measured:.2f}, fitted {row.predicted:.2f}"
        )


def ten_profiles() -> Iterator[TimedCall]:
    """Medians of ten profiles of MiniLM and its student on the server with AMX."""
    for artefact, precision, threads, tokens, ms in _ROW.findall(
        TEN_PROFILES.read_text(encoding="utf-8")
    ):
        if artefact in _SHAPES:
            shape = _SHAPES[artefact]
            yield TimedCall(shape, precision, int(threads), int(tokens), float(ms))


def fit_threads(calls: Sequence[TimedCall], spec: DeviceSpec) -> ThreadFit:
    """Fits the thread scaling of a machine to its speed-ups.

    Times are compared with each other only, so an error in the time of one thread cancels.

    Args:
        calls: Times on one thread, and of the same calls on several.
        spec: The machine.
    """
    constants = ONNXRUNTIME_CONSTANTS[core_family(spec)]
    one_thread = {(c.shape, c.precision, c.tokens): c.ms for c in calls if c.threads == 1}
    several = [call for call in calls if call.threads > 1]
    measured = [one_thread[c.shape, c.precision, c.tokens] / c.ms for c in several]
    threads = max(call.threads for call in several)

    def predicted(parameters: Sequence[float]) -> list[float]:
        return [_speedup(call, spec, constants, parameters) for call in several]

    def residuals(parameters: Sequence[float]) -> list[float]:
        return [math.log(p / m) for p, m in zip(predicted(parameters), measured, strict=True)]

    # (speed-up of MatMuls, 10,000 cycles per node, serial share): no more than one per thread.
    solution = least_squares(residuals, [1.8, 1.0, 0.3], bounds=([1, 0, 0], [threads, 50, 1]))
    rows = [SpeedUp(*row) for row in zip(several, measured, predicted(solution.x), strict=True)]
    speedup, ten_thousands, serial_share = (float(value) for value in solution.x)
    return ThreadFit(speedup, ten_thousands * 1e4, serial_share, rows)


def _speedup(
    call: TimedCall, spec: DeviceSpec, constants: Constants, parameters: Sequence[float]
) -> float:
    speedup, ten_thousands, serial_share = parameters
    work = stored_work(call.shape, call.precision, call.tokens)
    scaling = [1.0] + [float(speedup)] * (call.threads - 1)
    machine = spec.model_copy(
        update={"thread_scaling": ThreadScaling(speedups=scaling, assumed="a trial value")}
    )
    trial = replace(constants, thread_cycles=1e4 * ten_thousands, serial_share=serial_share)
    one = predict_seconds(work, machine, trial, threads=1)
    return one / predict_seconds(work, machine, trial, threads=call.threads)


if __name__ == "__main__":
    main()
