"""Table of the precisions that an ONNX artefact can have, one row each.

Every package reads its facts about a precision from here: file names, records, help texts, the
minimum onnxruntime version and which tolerances the parity check applies. To add a precision, add
its name and its row here, and register the function that builds it in
`edgedistil.export.precisions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Precision = Literal["fp32", "fp16", "int8", "uint8", "int8-dynamic", "int8-static", "int4"]
PrecisionRequest = Precision | Literal["auto"]


@dataclass(frozen=True)
class PrecisionInfo:
    """Facts about one precision.

    Attributes:
        name: Name in recipes, records and on the command line.
        description: One sentence for help texts.
        suffix: Between `model` and `.onnx` in the file name; transformers.js finds files by it.
        weight_bits: Bits of one weight in the MatMuls, scales aside.
        tolerances: Key of the bounds in `edgedistil.parity.tolerances`.
        js_dtype: transformers.js's name of the file (`dtype`); None if it has no name for it.
        integer_matmul: Whether the MatMuls multiply 8-bit integers.
        invariant: Whether a text has the same outputs alone, padded, and in any batch.
        min_runtime: Oldest onnxruntime (major, minor) that has every operator of such a graph.
    """

    name: Precision
    description: str
    suffix: str
    weight_bits: int
    tolerances: str
    js_dtype: str | None = None
    integer_matmul: bool = False
    invariant: bool = True
    # The first release that reads opset 17, which every exported graph uses.
    min_runtime: tuple[int, int] = (1, 14)


@dataclass(frozen=True)
class AutoPrecision:
    """Facts about the request `auto`, which searches for a precision and has no files of its own.

    Attributes:
        result: Precision of the artefact that the search writes.
    """

    name: Literal["auto"]
    description: str
    result: Precision
    min_runtime: tuple[int, int]


# The order is the order of preference where several 8-bit or 4-bit artefacts of a model exist.
PRECISIONS: dict[Precision, PrecisionInfo] = {
    row.name: row
    for row in (
        PrecisionInfo(
            name="fp32",
            description="Weights and arithmetic in float32, as PyTorch computes.",
            suffix="",
            weight_bits=32,
            tolerances="fp32",
            js_dtype="fp32",
        ),
        PrecisionInfo(
            name="fp16",
            description="Weights in float16, half the file size; CPUs compute in float32.",
            suffix="_fp16",
            weight_bits=16,
            tolerances="fp16",
            js_dtype="fp16",
        ),
        PrecisionInfo(
            name="int8",
            description="Signed 8-bit weights; the same output alone, padded, or in any batch.",
            suffix="_int8",
            weight_bits=8,
            tolerances="int8",
            js_dtype="int8",
            integer_matmul=True,
        ),
        PrecisionInfo(
            name="uint8",
            description="Unsigned 8-bit weights; slower than int8 on every CPU measured.",
            suffix="_uint8",
            weight_bits=8,
            tolerances="int8",
            js_dtype="uint8",
            integer_matmul=True,
        ),
        PrecisionInfo(
            name="int8-dynamic",
            description="Signed 8-bit weights; neighbours and padding change an output.",
            suffix="_int8_dynamic",
            weight_bits=8,
            tolerances="int8-dynamic",
            integer_matmul=True,
            invariant=False,
        ),
        PrecisionInfo(
            name="int8-static",
            description="Signed 8-bit weights; activation ranges are calibrated beforehand.",
            suffix="_int8_static",
            weight_bits=8,
            tolerances="int8-static",
            integer_matmul=True,
        ),
        PrecisionInfo(
            name="int4",
            description="4-bit weights in blocks of 32, the smallest file; slower than int8.",
            suffix="_q4",
            weight_bits=4,
            tolerances="int4",
            js_dtype="q4",
            min_runtime=(1, 17),  # MatMulNBits
        ),
    )
}
AUTO = AutoPrecision(
    name="auto",
    description="The fastest 8-bit artefact whose drop in agreement stays within --max-drop.",
    result="int8",
    min_runtime=(1, 17),
)
PRECISION_REQUESTS: tuple[PrecisionRequest, ...] = (*PRECISIONS, AUTO.name)

# Precisions that are written unless a recipe or --quantize says otherwise.
DEFAULT_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")

# Which file the model card loads in its examples: the fastest one that every client has a name for.
EXAMPLE_PRECISIONS: tuple[Precision, ...] = ("int8", "uint8", "fp16", "fp32")

assert tuple(PRECISIONS) == get_args(Precision), "every precision has exactly one row"


def graph_name(precision: Precision) -> str:
    """File name of a precision's graph: `model_int8.onnx`."""
    return f"model{PRECISIONS[precision].suffix}.onnx"


def result_of(request: PrecisionRequest) -> Precision:
    """Precision of the artefact that a request produces."""
    return AUTO.result if request == "auto" else request


def min_runtime(request: PrecisionRequest) -> tuple[int, int]:
    """Oldest onnxruntime (major, minor) that runs what a request produces."""
    return AUTO.min_runtime if request == "auto" else PRECISIONS[request].min_runtime
