"""A run with a small teacher and student in ONNX and a real tokenizer, as an export leaves it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedistil.records import ExportRecord, FileFacts, Role, provenance, write_record
from edgedistil.rundir import RunDir, create_run, mark_latest, sha256_file, write_text

V, D, F, P = 53, 31, 61, 67
WORDS = ("boat", "left", "harbour", "before", "sunrise", "river", "road", "bread", "price", "knife", "often", "little")
TEXT = "\n".join(" ".join(WORDS[i : i + 9]) + " " + " ".join(WORDS[: i + 2]) + "." for i in range(4)) + "\n"


def small_encoder(layers: int) -> onnx.ModelProto:
    """Embedding, then `layers` of single-head attention and a feed-forward with weights named as in a BERT."""
    random = np.random.default_rng(layers)
    weights: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def weight(name: str, *shape: int) -> str:
        weights.append(numpy_helper.from_array(random.normal(0, 0.1, shape).astype(np.float32), name))
        return name

    def node(op: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=f"/{output}/{op}", **attributes))
        return output

    x = node("Gather", [weight("embeddings.word_embeddings.weight", V, D), "input_ids"], "embedded")
    for i in range(layers):
        q, k, v = (
            node("MatMul", [x, weight(f"encoder.layer.{i}.attention.{n}.weight", D, D)], f"{n}{i}") for n in "qkv"
        )
        scores = node("MatMul", [q, node("Transpose", [k], f"kt{i}", perm=[0, 2, 1])], f"scores{i}")
        x = node("MatMul", [node("Softmax", [scores], f"weights{i}", axis=-1), v], f"attended{i}")
        up = node("MatMul", [x, weight(f"encoder.layer.{i}.intermediate.weight", D, F)], f"up{i}")
        act = node("Tanh", [up], f"act{i}")
        last = f"down{i}" if i < layers - 1 else "last_hidden_state"
        x = node("MatMul", [act, weight(f"encoder.layer.{i}.output.weight", F, D)], last)
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, shape)],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*shape, D])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write_tokenizer(folder: Path) -> None:
    """A WordLevel tokenizer that frames texts as BERT's does, with truncation and padding baked in."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=5)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_export(run: RunDir, role: Role, layers: int) -> None:
    """`role`'s encoder in fp32 and int8 with their records, as the export stage leaves them."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder = run.export(role, "feature-extraction")
    (folder / "onnx").mkdir(parents=True)
    write_text(folder / "config.json", json.dumps({"max_position_embeddings": P}))
    write_tokenizer(folder)
    fp32, int8 = folder / "onnx" / "model.onnx", folder / "onnx" / "model_int8.onnx"
    onnx.save(small_encoder(layers), fp32)
    quantize_dynamic(fp32, int8, weight_type=QuantType.QInt8)
    for precision, path in (("fp32", fp32), ("int8", int8)):
        record = ExportRecord(
            model=role,
            role=role,
            task="feature-extraction",
            precision=precision,  # type: ignore[arg-type]
            files=[FileFacts(path=f"onnx/{path.name}", bytes=path.stat().st_size, sha256=sha256_file(path))],
            source_sha256="ab",
            parameters=V * D + layers * (3 * D * D + 2 * D * F),
            opset=17,
            ir_version=9,
            target_device="host",
            reasons={},
            fused={},
            kept_float=[],
            bytes_by_part={},
            seconds=1,
            provenance=provenance("test"),
        )
        write_record(folder / f"export.{precision}.json", record)


@pytest.fixture
def make_run(runs: Path) -> Callable[[str], RunDir]:
    def make(name: str) -> RunDir:
        run = create_run(name)
        write_text(run.heldout_text, TEXT)
        write_export(run, "teacher", 4)
        write_export(run, "student", 2)
        mark_latest(run)
        return run

    return make


@pytest.fixture
def exported(make_run: Callable[[str], RunDir], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run with a teacher of 4 layers and a student of 2, and a user's cache of its own."""
    monkeypatch.setenv("EDGEDISTIL_CACHE", str(tmp_path / "cache"))
    return make_run("small")
