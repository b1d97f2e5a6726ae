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


_INT8 = [
    _at_least("agreement", 0.90, "provisional"),
    _at_most("kl_nats", 0.10, "provisional"),
    _at_least("cosine_min", 0.90, "provisional"),
]

TOLERANCES: dict[Precision, list[Tolerance]] = {
    "fp32": [
        _at_most("max_abs", 1e-4, "float32 summed in another order: a correct graph stays near 1e-5 on logits of ±20"),
        _at_least("agreement", 1.0, "the same numbers must give the same answers (near-ties in PyTorch do not count)"),
        _at_least("cosine_min", 0.9999999, "float32 rounding keeps a direction to seven digits"),
    ],
    "fp16": [
        _at_least("agreement", 0.99, "provisional"),
        _at_most("kl_nats", 1e-3, "provisional"),
        _at_least("cosine_min", 0.9999, "provisional"),
    ],
    "int8": _INT8,
    "uint8": _INT8,
    "int8-static": [
        _at_least("agreement", 0.85, "provisional"),
        _at_most("kl_nats", 0.20, "provisional"),
        _at_least("cosine_min", 0.85, "provisional"),
    ],
    "int4": [
        _at_least("agreement", 0.80, "provisional"),
        _at_most("kl_nats", 0.30, "provisional"),
        _at_least("cosine_min", 0.80, "provisional"),
    ],
}
