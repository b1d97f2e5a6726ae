"""How wide a predicted band has to be: every device is predicted from the others.

    python benchmarks/cost_model_spread.py

Prints, for each family of cores, the error of every judged device and the spread (high end of a
band over its low end) that holds nine of ten rows, each device weighing the same. A device is
judged with constants to which it did not contribute:

- published rows of ncnn: the one efficiency of the runtime is fitted on the other boards of the
  family;
- published rows of onnxruntime: the shipped constants of ARM cores, which are assumed;
- the server with Zen 4: the shipped constants, which were fitted on the server with AMX;
- the server with AMX: constants fitted on the server with Zen 4. Its int8 kernels have no other
  device, so only fp32 counts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cost_model_published import Published, published_rows
from cost_model_threads import ten_profiles
from cost_model_work import record_path, stored_work
from page import argument_parser

from edgedistil.core.console import result
from edgedistil.core.device import DeviceSpec, load_device
from edgedistil.core.rundir import read_json
from edgedistil.costmodel.constants import (
    ONNXRUNTIME_CONSTANTS,
    UNCERTAIN_FIELDS,
    Constants,
    core_family,
)
from edgedistil.costmodel.fit import fit_constants
from edgedistil.costmodel.model import cost_terms, predict_seconds
from edgedistil.costmodel.workload import NodeWork

# A band is meant to hold this share of the rows.
COVERAGE = 0.9
# A family of which fewer than three devices were judged with onnxruntime may hold surprises that
# the judged ones do not show: its bands have at least this spread. Without any, the other runtimes'
# rows test only clocks, lanes and threads.
FEW_DEVICES = 3
LEAST_SPREAD_OF_FEW = 2.5
LEAST_SPREAD_OF_NONE = 3.0
AMX, VNNI = "x86-amx", "x86-avx512-vnni"


@dataclass(frozen=True)
class Judged:
    """A measured row, predicted from other devices.

    Attributes:
        family: Family of cores; "x86" has the servers with and without AMX.
        device: Board or machine.
        row: What was measured.
        runtime: Runtime.
        measured_ms: Measured time.
        predicted_ms: Middle of the band.
    """

    family: str
    device: str
    row: str
    runtime: str
    measured_ms: float
    predicted_ms: float

    @property
    def error(self) -> float:
        """Logarithm of measured over predicted."""
        return math.log(self.measured_ms / self.predicted_ms)


@dataclass(frozen=True)
class FamilySpread:
    """Spread that the judged rows of a family ask for.

    Attributes:
        family: Family of cores.
        rows: The judged rows.
        required: Smallest spread that holds `COVERAGE` of them, devices weighing the same.
        onnxruntime_devices: Number of devices judged with onnxruntime.
    """

    family: str
    rows: list[Judged]
    required: float
    onnxruntime_devices: int

    @property
    def least(self) -> float:
        """Smallest spread that the family's constants may have."""
        if self.onnxruntime_devices >= FEW_DEVICES:
            return self.required
        floor = LEAST_SPREAD_OF_FEW if self.onnxruntime_devices else LEAST_SPREAD_OF_NONE
        return max(self.required, floor)


def main() -> None:
    argument_parser(__doc__).parse_args()
    for spread in family_spreads():
        result(
            f"{spread.family}: {len(spread.rows)} rows, {spread.onnxruntime_devices} devices with "
            f"onnxruntime; required {spread.required:.2f}, at least {spread.least:.2f}"
        )
        for device, rows in by_device(spread.rows).items():
            ratios = sorted(math.exp(row.error) for row in rows)
            result(
                f"  {device}: {len(rows)} rows, measured over predicted "
                f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
            )


def family_spreads() -> list[FamilySpread]:
    """Returns the spread of each family, in the order of its first row."""
    by_family: dict[str, list[Judged]] = defaultdict(list)
    for row in judged_rows():
        by_family[row.family].append(row)
    return [
        FamilySpread(
            family,
            rows,
            required_spread(rows),
            len({row.device for row in rows if row.runtime == "onnxruntime"}),
        )
        for family, rows in by_family.items()
    ]


def judged_rows() -> list[Judged]:
    """Returns every row that has a prediction from other devices."""
    return [*_judged_published(published_rows()), *_judged_servers()]


def by_device(rows: Sequence[Judged]) -> dict[str, list[Judged]]:
    """Groups rows by device."""
    grouped: dict[str, list[Judged]] = defaultdict(list)
    for row in rows:
        grouped[row.device].append(row)
    return grouped


def required_spread(rows: Sequence[Judged], coverage: float = COVERAGE) -> float:
    """Smallest spread whose bands hold a share of the rows, each device weighing the same."""
    devices = by_device(rows)
    weights = sorted(
        (abs(row.error), 1 / len(device_rows))
        for device_rows in devices.values()
        for row in device_rows
    )
    held = 0.0
    for error, weight in weights:
        held += weight / len(devices)
        # A sum of fractions may end a rounding error below the share.
        if held >= coverage - 1e-9:
            return math.exp(2 * error)
    raise ValueError("no rows")


# --- published rows ------------------------------------------------------------------------------


def _judged_published(rows: Sequence[Published]) -> list[Judged]:
    judged = []
    for row in rows:
        constants = _constants_without(row, rows)
        if constants is None:
            continue
        seconds = predict_seconds(row.work, row.device, constants, threads=row.threads)
        family, runtime = core_family(row.device), row.runtime.split()[0]
        judged.append(Judged(family, row.device.name, row.board, runtime, row.ms, 1000 * seconds))
    return judged


def _constants_without(row: Published, rows: Sequence[Published]) -> Constants | None:
    """Constants for a row from the other boards; None if its runtime has no other board."""
    shipped = ONNXRUNTIME_CONSTANTS[core_family(row.device)]
    if row.runtime.startswith("onnxruntime"):
        return shipped
    others = [
        other
        for other in rows
        if other.runtime.split()[0] == row.runtime.split()[0]
        and core_family(other.device) == core_family(row.device)
        and other.device.name != row.device.name
    ]
    if not others:
        return None
    factors = [math.log(matmul_factor(other, shipped)) for other in others]
    return scale_matmuls(shipped, math.exp(sum(factors) / len(factors)))


def matmul_factor(row: Published, constants: Constants) -> float:
    """Factor of both MatMul efficiencies with which constants reproduce a row."""
    terms = cost_terms(row.work, row.device, constants, threads=row.threads)
    matmuls = [UNCERTAIN_FIELDS.index(name) for name in ("fp32_efficiency", "attention_efficiency")]
    matmul_seconds = float(terms[matmuls] @ constants.unit_costs[matmuls])
    other_seconds = float(terms @ constants.unit_costs) - matmul_seconds
    return matmul_seconds / max(row.ms / 1000 - other_seconds, 1e-6)


def scale_matmuls(constants: Constants, factor: float) -> Constants:
    """Returns constants with both efficiencies of float MatMuls scaled."""
    return replace(
        constants,
        fp32_efficiency=constants.fp32_efficiency * factor,
        attention_efficiency=constants.attention_efficiency * factor,
    )


# --- servers -------------------------------------------------------------------------------------


def _judged_servers() -> list[Judged]:
    amx, vnni = load_device(AMX), load_device(VNNI)
    # The server with Zen 4, from constants of the server with AMX.
    from_amx = ONNXRUNTIME_CONSTANTS["x86"]
    judged = [
        _judge(row, vnni, from_amx, "server with Zen 4", threads=1) for row in one_thread_rows(VNNI)
    ]

    # The server with AMX, on two days, from constants of the server with Zen 4.
    from_zen4 = replace(
        fit_on_server(VNNI),
        thread_cycles=ONNXRUNTIME_CONSTANTS["amx"].thread_cycles,
        serial_share=ONNXRUNTIME_CONSTANTS["amx"].serial_share,
    )
    days = [(row, 1) for row in one_thread_rows(AMX)]
    days += [
        (
            {
                "shape": call.shape,
                "precision": call.precision,
                "tokens": call.tokens,
                "milliseconds": call.ms,
            },
            call.threads,
        )
        for call in ten_profiles()
    ]
    for row, threads in days:
        if row["precision"] == "fp32":
            judged.append(_judge(row, amx, from_zen4, "server with AMX", threads=threads))
    return judged


def one_thread_rows(device: str) -> list[dict[str, Any]]:
    """Rows of a server on one thread; `milliseconds` is processor time where it was taken.

    On one thread both are the same on a quiet machine; on a busy one the processor time is what is
    left of the call without the waiting.
    """
    rows = read_json(record_path(device))["alone"]
    return [
        {**row, "milliseconds": row.get("cpu_ms", row["ms"])} for row in rows if row["threads"] == 1
    ]


def fit_on_server(device: str) -> Constants:
    """Constants fitted on all one-thread rows of one server."""
    spec = load_device(device)
    prior = ONNXRUNTIME_CONSTANTS[core_family(spec)]
    samples = []
    for row in one_thread_rows(device):
        terms = cost_terms(_work(row), spec, prior, threads=1)
        samples.append((terms, row["milliseconds"] / 1000))
    return fit_constants(samples, prior)


def _judge(
    row: Mapping[str, Any], spec: DeviceSpec, constants: Constants, name: str, *, threads: int
) -> Judged:
    seconds = predict_seconds(_work(row), spec, constants, threads=threads)
    label = f"{row['shape']} {row['precision']}, {row['tokens']} tokens, {threads} threads"
    return Judged("x86", name, label, "onnxruntime", row["milliseconds"], 1000 * seconds)


def _work(row: Mapping[str, Any]) -> list[NodeWork]:
    return stored_work(row["shape"], row["precision"], row["tokens"])


if __name__ == "__main__":
    main()
