"""Predicts what the longer texts of a trimmed vocabulary cost on a device."""

from __future__ import annotations

from edgedistil.core.device import DeviceSpec
from edgedistil.core.model_folder import ModelFolder
from edgedistil.core.precision import DEFAULT_PRECISIONS
from edgedistil.core.records import NotMeasured
from edgedistil.core.trim_records import TrimLatency, TrimRecord
from edgedistil.costmodel.constants import ONNXRUNTIME_CONSTANTS, core_family
from edgedistil.costmodel.model import latency_band, predict_seconds
from edgedistil.costmodel.shapes import encoder_shape, encoder_work, unsupported_reason


def trim_latencies(
    source: ModelFolder, record: TrimRecord, device: DeviceSpec, *, special: int
) -> list[TrimLatency] | NotMeasured:
    """Returns the predicted time of the encoder on a mean held-out text, before and after.

    The vocabulary has no part in an encoder's time, but more tokens do.

    Args:
        source: The model.
        record: The trimmed vocabulary, with its held-out text.
        device: The device; one thread.
        special: Special tokens around a text.
    """
    reason = unsupported_reason(source)
    if reason is not None:
        return NotMeasured(not_measured=reason)
    shape, text = encoder_shape(source), record.heldout
    limit = source.family.positions_limit(source.config)
    means = [special + n / text.texts for n in (text.tokens_before, text.tokens_after)]
    lengths = [min(limit, round(mean)) for mean in means]
    constants = ONNXRUNTIME_CONSTANTS[core_family(device)]
    rows = []
    for precision in DEFAULT_PRECISIONS:
        works = [encoder_work(shape, n, precision) for n in (*lengths, lengths[0] + 1)]
        bands = [latency_band(work, device, constants, threads=1) for work in works]
        seconds = [predict_seconds(work, device, constants, threads=1) for work in works]
        rows.append(
            TrimLatency(
                device=device.name,
                precision=precision,
                length_before=lengths[0],
                length_after=lengths[1],
                before_ms=bands[0],
                after_ms=bands[1],
                # By the time of one more token: the mean texts differ by a part of a token.
                cost_ms=(seconds[2] - seconds[0]) * (means[1] - means[0]) * 1000,
            )
        )
    return rows
