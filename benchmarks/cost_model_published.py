"""Published latencies of transformers on boards, with the work and the device that they are about.

Rows of convolutional networks (MobileNet) are left out: the model has no cost of a convolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cost_model_work import stored_work

from edgedistil.core.device import DeviceSpec, Figure, load_device
from edgedistil.costmodel.workload import NodeWork

DISTILBERT = "DistilBERT, 128 tokens"
VIT = "ViT-B/32-384 (BERT-base's encoder at 145 tokens)"
TRANSLATION = "translation encoder, 30 tokens"
FP32_BYTES, FP16_BYTES = 4, 2
# Two points of the published set: (GFLOP, milliseconds, which one of the set).
TRANSLATION_POINTS = ((0.61, 139.0, "fastest"), (1.09, 205.0, "median"))


@dataclass(frozen=True)
class Published:
    """One published measurement.

    Attributes:
        board: Board and thread count, as the table names them.
        device: The board's figures.
        threads: Number of threads.
        model: Name of the model.
        runtime: Runtime and arithmetic.
        work: Nodes of one call.
        ms: Published latency, in milliseconds.
        is_fitted: Whether constants are fitted on the row; it is then not judged.
    """

    board: str
    device: DeviceSpec
    threads: int
    model: str
    runtime: str
    work: list[NodeWork]
    ms: float
    is_fitted: bool = False


def published_rows() -> list[Published]:
    """All rows; for each runtime but onnxruntime and family of cores, exactly one is fitted."""
    return [*_onnxruntime_rows(), *_ncnn_fp32_rows(), *_ncnn_fp16_rows(), *_pytorch_rows()]


def _onnxruntime_rows() -> list[Published]:
    """DistilBERT by onnxruntime 1.24.1 on four cores of a Neoverse N2 server."""
    n2 = board("graviton2", "Neoverse N2, 4 cores", ghz=3.4)
    # smmla: int8 follows from the instruction set.
    n2 = n2.model_copy(update={"isa": n2.isa.model_copy(update={"i8mm": True})})

    def row(precision: str, ms: float) -> Published:
        work = stored_work("distilbert-6x768-12", precision, 128)
        runtime = f"onnxruntime {precision}"
        return Published("Neoverse N2, 4 threads", n2, 4, DISTILBERT, runtime, work, ms)

    return [row("fp32", 61.8), row("int8", 16.9)]


def _ncnn_fp32_rows() -> list[Published]:
    pi4 = board("rpi4", "Raspberry Pi 4", ghz=1.8)
    rk3399 = board("rpi4", "RK3399", ghz=1.8, cores=2)
    zero2 = board("rpi3", "Orange Pi Zero 2", ghz=1.5)
    x3 = board("rpi3", "RDK X3", ghz=1.5, bandwidth_gb_per_s=6.0)
    work = vit_work(FP32_BYTES)

    def row(name: str, device: DeviceSpec, threads: int, ms: float) -> Published:
        # The A53 boards have one row each; the first one is fitted.
        is_fitted = name in ("Pi 4, 1 thread", "Orange Pi Zero 2, 4 × A53")
        return Published(name, device, threads, VIT, "ncnn fp32", work, ms, is_fitted)

    return [
        row("Pi 4, 1 thread", pi4, 1, 6605),
        row("Pi 4, 4 threads", pi4, 4, 1872),
        row("RK3399, 2 × A72", rk3399, 2, 3372),
        row("Orange Pi Zero 2, 4 × A53", zero2, 4, 6842),
        row("RDK X3, 4 × A53", x3, 4, 3373),
    ]


def _ncnn_fp16_rows() -> list[Published]:
    pi5 = board("rpi5", "Raspberry Pi 5", ghz=2.4, half=True)
    rk3588 = board("rk3588", "RK3588", ghz=2.4, half=True)
    orin = board("jetson-orin-nano", "Orin Nano", ghz=1.5, half=True)
    phone = board("rk3588", "Snapdragon 855+", ghz=2.96, half=True)
    # Four threads also run on three cores with a lower clock, which limits all of them.
    phone_4 = board("rk3588", "Snapdragon 855+ (1 at 2.96, 3 at 2.42)", ghz=2.42, half=True)
    radxa = board("rpi3", "Radxa Zero 3W (A55)", ghz=1.4, half=True, bandwidth_gb_per_s=4.0)
    work = vit_work(FP16_BYTES)

    def row(name: str, device: DeviceSpec, threads: int, ms: float) -> Published:
        is_fitted = name == "Pi 5, 1 thread"
        return Published(name, device, threads, VIT, "ncnn fp16", work, ms, is_fitted)

    return [
        row("Pi 5, 1 thread", pi5, 1, 1249),
        row("Pi 5, 4 threads", pi5, 4, 601),
        row("RK3588, 4 × A76", rk3588, 4, 429),
        row("Orin Nano CPU, 1 thread", orin, 1, 2282),
        row("Orin Nano CPU, 6 threads", orin, 6, 610),
        row("Snapdragon 855+, 1 thread", phone, 1, 990),
        row("Snapdragon 855+, 4 threads", phone_4, 4, 568),
        row("Radxa Zero 3W, 4 × A55", radxa, 4, 3683),
    ]


def _pytorch_rows() -> list[Published]:
    """The line through the set's 2,000 encoders at 1.74 GFLOP, and two of its points."""
    pi4 = board("rpi4", "Raspberry Pi 4 (1.5 GHz)", ghz=1.5)

    def row(name: str, gflop: float, ms: float, *, is_fitted: bool = False) -> Published:
        work = translation_work(gflop)
        return Published(name, pi4, 4, TRANSLATION, "PyTorch fp32", work, ms, is_fitted)

    line_ms = (0.079 + 0.116 * 1.74) * 1000
    rows = [row("Pi 4, 1.74 GFLOP (the set's line)", 1.74, line_ms, is_fitted=True)]
    rows += [
        row(f"Pi 4, {gflop} GFLOP ({which})", gflop, ms) for gflop, ms, which in TRANSLATION_POINTS
    ]
    return rows


# --- devices -------------------------------------------------------------------------------------


def board(
    device: str,
    title: str,
    *,
    ghz: float,
    cores: int | None = None,
    half: bool = False,
    **memory: float,
) -> DeviceSpec:
    """Returns a shipped device with other figures.

    Args:
        device: Name of the shipped device with the same cores.
        title: Name of the board.
        ghz: Clock.
        cores: Number of cores, if it differs.
        half: Whether fp16 arithmetic replaces fp32's.
        memory: Figures of the memory section that differ.
    """
    spec = load_device(device)
    cluster = spec.clusters[0]
    macs = cluster.macs_per_cycle
    if half:
        twice = Figure(value=2 * macs.fp32.value, assumed="fp16 runs at twice fp32's rate")
        macs = macs.model_copy(update={"fp32": macs.fp16 or twice})
    changes = {"clock_ghz": Figure(value=ghz, assumed="as published"), "macs_per_cycle": macs}
    if cores is not None:
        changes["cores"] = Figure(value=float(cores), assumed="as published")
    memory_figures = {
        name: Figure(value=value, assumed="of this board's memory")
        for name, value in memory.items()
    }
    return spec.model_copy(
        update={
            "name": title,
            "clusters": [cluster.model_copy(update=changes), *spec.clusters[1:]],
            "memory": spec.memory.model_copy(update=memory_figures),
        }
    )


# --- work ----------------------------------------------------------------------------------------


def matmul(
    rows: int, inner: int, columns: int, *, weights: bool = True, element_bytes: int = FP32_BYTES
) -> NodeWork:
    """Work of one MatMul; without `weights`, both operands are activations."""
    weight_bytes = element_bytes * inner * columns if weights else 0
    return NodeWork(
        name="matmul",
        op="MatMul",
        arithmetic="fp32",
        macs=rows * inner * columns,
        weight_bytes=weight_bytes,
        rows=rows,
        moved_bytes=element_bytes * rows * (inner + columns),
        elements=rows * columns,
        heavy=False,
    )


def elementwise(elements: int, *, heavy: bool = False) -> NodeWork:
    """Work of one element-wise operator, which reads and writes every element."""
    return NodeWork(
        name="elementwise",
        op="Gelu" if heavy else "Add",
        arithmetic="none",
        macs=0,
        weight_bytes=0,
        rows=0,
        moved_bytes=2 * FP32_BYTES * elements,
        elements=elements,
        heavy=heavy,
    )


def vit_work(element_bytes: int) -> list[NodeWork]:
    """12 layers of 768 at 145 tokens, and the patch embedding: 13.04 G multiply-adds."""
    length, width, inner, heads = 145, 768, 3072, 12
    # Projections of query, key, value and output.
    layer = [matmul(length, width, width, element_bytes=element_bytes) for _ in range(4)]
    # Scores and weighted values of all heads.
    layer.append(matmul(length * heads, 64, length, weights=False))
    layer.append(matmul(length * heads, length, 64, weights=False))
    # Feed-forward.
    layer.append(matmul(length, width, inner, element_bytes=element_bytes))
    layer.append(matmul(length, inner, width, element_bytes=element_bytes))
    # Gelu, Softmax, then sums and norms.
    layer.append(elementwise(length * inner, heavy=True))
    layer.append(elementwise(heads * length * length, heavy=True))
    layer += [elementwise(length * width) for _ in range(4)]
    patches = matmul(144, 32 * 32 * 3, width, element_bytes=element_bytes)
    return [*layer * 12, patches]


def translation_work(gflop: float) -> list[NodeWork]:
    """6 layers at 30 tokens with the published FLOPs, spread evenly over 6 MatMuls per layer."""
    macs = int(gflop * 1e9 / 2 / 36)
    width = int(math.sqrt(macs / 30))
    matmuls = [matmul(30, width, width) for _ in range(36)]
    return matmuls + [elementwise(30 * width) for _ in range(120)]
