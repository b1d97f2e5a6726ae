"""The tolerances: which figure of which precision must keep which bound, and why the bound is where it is."""

from __future__ import annotations

from edgedistil.records import Precision, Tolerance


def tolerances_for(precision: Precision, task: str) -> list[Tolerance]:
    """The bounds of a precision that a task has figures for; never empty."""
    return [each for each in TOLERANCES[precision] if _applies(each.figure, task)]


def _applies(figure: str, task: str) -> bool:
    if figure in {"agreement", "kl_nats"}:
        return task != "feature-extraction"
    if figure == "cosine_min":
        return task == "feature-extraction"
    return True


def _at_most(figure: str, value: float, reason: str) -> Tolerance:
    return Tolerance(figure=figure, bound="at most", value=value, reason=reason)


def _at_least(figure: str, value: float, reason: str) -> Tolerance:
    return Tolerance(figure=figure, bound="at least", value=value, reason=reason)


# The measured figures in the reasons: MiniLM (6 layers, 384 wide) with a masked-LM head that had seen 0.2M tokens, and
# its encoder, on 67 sequences and 458 masked words (docs/log.md). Such a head is the hard case: its distributions are
# flat, so a small error turns a word; a better trained one keeps more.
_MEASURED = "measured on MiniLM"

_INT8 = [
    _at_least(
        "agreement",
        0.80,
        "measured: 0.948, 0.934, 0.915 and 0.882 on four heads trained for minutes; how many turn follows how flat"
        " the model is, not quantization alone. Weights wrongly quantized with one scale a tensor: 0.47",
    ),
    _at_most(
        "kl_nats",
        0.03,
        "measured: 0.001 to 0.009 on the same four; one scale a tensor: 0.078. The sharper bound of the two",
    ),
    _at_least("cosine_min", 0.90, f"{_MEASURED}: 0.953 for the worst of 4,000 positions, 8 bits for every activation"),
]

TOLERANCES: dict[Precision, list[Tolerance]] = {
    "fp32": [
        _at_most("max_abs", 1e-4, f"float32 summed in another order; {_MEASURED}: 1.4e-5, so ten times is an error"),
        _at_least("agreement", 1.0, "the same numbers must give the same answers (near-ties in PyTorch do not count)"),
        _at_least("cosine_min", 0.999999, f"float32 keeps a direction to seven digits; {_MEASURED}: 1 - 3e-12"),
    ],
    "fp16": [
        _at_least("agreement", 0.99, f"11 bits of significand turn near-ties only; {_MEASURED}: 0.998"),
        _at_most("kl_nats", 1e-4, f"{_MEASURED}: 3e-7; what overflows above 65504 is far beyond"),
        _at_least("cosine_min", 0.9999, f"{_MEASURED}: 0.999998, at 11 bits of significand"),
    ],
    "int8": _INT8,
    "uint8": _INT8,
    "int8-static": [
        _at_least(
            "agreement", 0.85, "ranges fixed beforehand clip what calibration did not see; reasoned, not measured"
        ),
        _at_most("kl_nats", 0.10, "three times dynamic int8's bound, for clipped activations"),
        _at_least("cosine_min", 0.80, "outlying activations of a few positions are clipped hardest"),
    ],
    "int4": [
        _at_least("agreement", 0.80, f"16 levels a weight in blocks; {_MEASURED}: 0.895"),
        _at_most("kl_nats", 0.10, f"{_MEASURED}: 0.025; float activations, so the error is the weights' alone"),
        _at_least("cosine_min", 0.80, f"{_MEASURED}: 0.896 for the worst of 4,000 positions"),
    ],
}
