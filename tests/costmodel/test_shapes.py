"""Work from shapes against the work that was counted on exported graphs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from edgedistil.core.device import load_device
from edgedistil.core.records import Band
from edgedistil.costmodel.constants import ONNXRUNTIME_CONSTANTS, core_family
from edgedistil.costmodel.model import latency_band
from edgedistil.costmodel.shapes import EncoderShape, encoder_work
from edgedistil.costmodel.workload import NodeWork

WORK = Path(__file__).parents[2] / "benchmarks" / "results" / "cost_model_work.json"
_NAME = re.compile(r"(\w+)-(\d+)x(\d+)-(\d+)(-mlm)? (\w+) (\d+)")


def shape_of(name: str) -> tuple[EncoderShape, str, int]:
    """The shape, precision and length in the name of a counted call."""
    match = _NAME.fullmatch(name)
    assert match is not None
    kind, *sizes, head, precision, length = match.groups()
    layers, hidden, heads = map(int, sizes)
    shape = EncoderShape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        head_width=hidden // heads,
        intermediate=4 * hidden,
        vocabulary=30522,
        embedding=hidden,
        positions=512,
        segments=2 if kind == "bert" else 0,
        has_head=head is not None,
    )
    return shape, precision, int(length)


def counted_calls() -> dict[str, list[NodeWork]]:
    calls = {}
    for name, nodes in json.loads(WORK.read_text())["calls"].items():
        calls[name] = [NodeWork("", *values) for *values, n in nodes for _ in range(n)]
    return calls


@pytest.mark.parametrize("device", ["rpi4", "zero2w", "x86-avx2"])
def test_times_are_those_of_counted_graphs(device: str) -> None:
    spec = load_device(device)
    constants = ONNXRUNTIME_CONSTANTS[core_family(spec)]

    def band(work: list[NodeWork], threads: int) -> Band:
        return latency_band(work, spec, constants, threads=threads)

    calls = counted_calls()
    assert len(calls) > 100
    for name, counted in calls.items():
        shape, precision, length = shape_of(name)
        work = encoder_work(shape, length, precision)  # type: ignore[arg-type]
        assert sum(n.macs for n in work) == sum(n.macs for n in counted), name
        assert sum(n.weight_bytes for n in work) == sum(n.weight_bytes for n in counted), name
        for threads in (1, 4):
            expected = band(counted, threads).low
            assert band(work, threads).low == pytest.approx(expected, rel=0.03), name


def test_a_forgotten_layer_would_be_found() -> None:
    calls = counted_calls()
    shape, precision, length = shape_of("bert-6x384-12 int8 64")
    work = encoder_work(shape, length, precision)[:-20]  # type: ignore[arg-type]
    counted = calls["bert-6x384-12 int8 64"]
    assert sum(n.macs for n in work) != sum(n.macs for n in counted)


def test_parameters_are_those_of_transformers() -> None:
    from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertForMaskedLM

    config = BertConfig(
        vocab_size=97, hidden_size=20, num_attention_heads=4, num_hidden_layers=3,
        intermediate_size=28, max_position_embeddings=31,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False)
    sizes = {
        "layers": 3, "hidden": 20, "heads": 4, "head_width": 5, "intermediate": 28,
        "vocabulary": 97, "embedding": 20, "positions": 31,
    }  # fmt: skip
    assert EncoderShape(**sizes, segments=2).parameters == model.num_parameters()

    small = DistilBertConfig(
        vocab_size=97, dim=20, n_heads=4, n_layers=3, hidden_dim=28, max_position_embeddings=31
    )
    with_head = DistilBertForMaskedLM(small)
    shape = EncoderShape(**sizes, segments=0, has_head=True)
    assert shape.parameters == with_head.num_parameters()
