"""Tiny random models of every family, with the tokenizers of their kind, exported once each."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoConfig, PreTrainedModel

from edgedistil.core.export_records import ExportRecord, ParityRecord
from edgedistil.core.family import FAMILIES
from edgedistil.core.options import ExportOptions
from edgedistil.core.rundir import RunDir
from edgedistil.core.task import TASKS, Task
from edgedistil.core.tokenizer_files import TOKENIZER_FILES
from edgedistil.export import conformance
from edgedistil.export.publish import export_model
from edgedistil.export.source import read_source
from edgedistil.parity.probes import by_question
from tests.fixtures.tokenizer_folders import our_text

LAYERS, HIDDEN, HEADS, INNER = 2, 32, 4, 48
# More rows than the tokenizer has tokens, as in a vocabulary that is padded for a device.
VOCABULARY, POSITIONS = 1031, 67
# Sequence lengths that no trace and no probe had, besides the shortest and the longest.
LENGTHS = (1, 2, 13)


@dataclass(frozen=True)
class Case:
    """One family as its models are.

    Attributes:
        model_type: The family.
        tokenizer: Layout of `tokenizer_folders`.
        config: Values of config.json besides the sizes.
    """

    model_type: str
    tokenizer: str
    config: Mapping[str, Any] = field(default_factory=dict)


# ModernBERT's own ids are beyond a small vocabulary.
_MODERN_IDS = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
# As DeBERTa's published models are: distances in the attention only.
_DISTANCES = {"relative_attention": True, "position_biased_input": False, "type_vocab_size": 0}
CASES = {
    "bert": Case("bert", "bert"),
    "ernie": Case("ernie", "bert"),
    "distilbert": Case("distilbert", "distilbert"),
    "electra": Case("electra", "electra", {"embedding_size": 24}),
    "roberta": Case("roberta", "roberta", {"type_vocab_size": 1}),
    "xlm-roberta": Case("xlm-roberta", "xlm-roberta", {"type_vocab_size": 1}),
    "camembert": Case("camembert", "camembert", {"type_vocab_size": 1}),
    "mpnet": Case("mpnet", "mpnet"),
    "albert": Case("albert", "albert", {"embedding_size": 24}),
    "modernbert": Case("modernbert", "modernbert", {"local_attention": 8, **_MODERN_IDS}),
    "nomic_bert": Case("nomic_bert", "bert"),
    "eurobert": Case(
        "eurobert",
        "eurobert",
        {
            "num_key_value_heads": 2,
            "pad_token_id": 2,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "mask_token_id": 3,
        },
    ),
    "deberta": Case("deberta", "deberta", {**_DISTANCES, "pos_att_type": ["c2p", "p2c"]}),
    "deberta-v2": Case(
        "deberta-v2",
        "deberta-v2",
        {
            **_DISTANCES,
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_buckets": 16,
        },
    ),
    # Without LayerNorms larger weights would let the states grow from layer to layer.
    "mobilebert": Case(
        "mobilebert",
        "bert",
        {
            "embedding_size": 24,
            "intra_bottleneck_size": 28,
            "true_hidden_size": 28,
            "initializer_range": 0.15,
        },
    ),
}


def make_model(case: Case, task: Task, **changes: Any) -> PreTrainedModel:
    """A random model with the task's head, whose outputs differ between positions."""
    row = FAMILIES[case.model_type]
    keys = row.keys
    sizes = {
        keys.layers: LAYERS,
        keys.hidden: HIDDEN,
        keys.heads: HEADS,
        keys.intermediate: INNER,
        keys.vocabulary: VOCABULARY,
        keys.positions: POSITIONS,
        "initializer_range": 0.2,
    }
    config = AutoConfig.for_model(case.model_type, **{**sizes, **case.config, **changes})
    torch.manual_seed(11)
    model_class = getattr(transformers, row.class_prefix + TASKS[task].architectures[0])
    model: PreTrainedModel = model_class(config)
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Exported:
    """An exported model, and what it was exported from."""

    model: PreTrainedModel
    task: Task
    folder: Path
    artefacts: list[tuple[ExportRecord, ParityRecord]]

    def session(self, precision: str = "fp32") -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        file = self.folder / self.record(precision).files[0].path
        return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def operators(self, precision: str = "fp32") -> Counter[str]:
        file = self.folder / self.record(precision).files[0].path
        graph = onnx.load(file, load_external_data=False)
        return Counter(node.op_type for node in graph.graph.node)

    def record(self, precision: str = "fp32") -> ExportRecord:
        return next(record for record, _ in self.artefacts if record.precision == precision)


Export = Callable[..., Exported]


@pytest.fixture(scope="session")
def export_case(
    tokenizer_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Export:
    """Saves a model with its tokenizer, and exports it; `rebuild` changes the model first."""

    def export(
        name: str,
        task: Task,
        precisions: tuple[str, ...] = ("fp32", "int8"),
        rebuild: Callable[[PreTrainedModel], PreTrainedModel] | None = None,
        **changes: Any,
    ) -> Exported:
        case = CASES[name]
        model = make_model(case, task, **changes)
        if rebuild is not None:
            model = rebuild(model).eval().requires_grad_(False)
        root = tmp_path_factory.mktemp(f"{name}-{task}")
        source_folder = root / "source"
        model.save_pretrained(source_folder)
        copy_tokenizer(tokenizer_folders[case.tokenizer], source_folder)
        run = RunDir(root / "run")
        source = read_source(source_folder, name="tiny", role="other", task=task)
        options = ExportOptions(precisions=list(precisions))
        with pytest.MonkeyPatch.context() as patch:
            # A quarter of an export's time, and the subject of tests/export/test_conformance.py.
            patch.setattr(conformance, "conformance_texts", lambda _special: our_text()[:16])
            artefacts = export_model(run, source, options, text=our_text())
        return Exported(model, task, run.export("tiny", task), artefacts)

    return export


def copy_tokenizer(source: Path, target: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def feeds(exported: Exported, B: int, L: int) -> dict[str, NDArray[np.int64]]:
    """Random token ids; the first sequence is padded with the model's own padding id."""
    config = exported.model.config
    row = FAMILIES[config.model_type]
    rng = np.random.default_rng(B * 1000 + L)
    ids_BL = rng.integers(5, VOCABULARY, (B, L))
    mask_BL = np.ones((B, L), np.int64)
    if B > 1:
        mask_BL[0, max(1, L // 2) :] = 0
        ids_BL[mask_BL == 0] = config.pad_token_id
    segments = max(1, row.segments(config.to_dict()))
    return {
        "input_ids": ids_BL,
        "attention_mask": mask_BL,
        "token_type_ids": rng.integers(0, segments, (B, L)),
    }


def largest_difference(exported: Exported, B: int, L: int) -> float:
    """Largest difference between the float32 graph and transformers, at tokens."""
    session = exported.session()
    arrays = feeds(exported, B, L)
    # Sequences of one question, whose number no trace had.
    choices = B if TASKS[exported.task].has_choices else None
    asked = by_question(arrays, choices)
    inputs = {value.name: asked[value.name] for value in session.get_inputs()}
    with torch.no_grad():
        outputs = exported.model(**{name: torch.from_numpy(a) for name, a in inputs.items()})
    worst = 0.0
    names = TASKS[exported.task].outputs
    for actual, name in zip(session.run(names, inputs), names, strict=True):
        difference = np.abs(actual - outputs[name].numpy())
        # Outputs of a sequence have no padding.
        if TASKS[exported.task].level not in ("sequence", "choice"):
            difference = difference[arrays["attention_mask"] == 1]
        worst = max(worst, float(difference.max()))
    return worst


# --- what holds for every family and task --------------------------------------------------------


def check_lengths(exported: Exported) -> None:
    """The shortest and the longest text, alone and padded, and a length that nothing has run."""
    config = exported.model.config
    longest = FAMILIES[config.model_type].positions_limit(config.to_dict())
    for L in (*LENGTHS, longest):
        for B in (1, 3):
            assert largest_difference(exported, B, L) < 1e-4, f"{B} x {L}"


def check_fused(exported: Exported) -> None:
    """Counts that the family's structure gives, in the record and in the graph."""
    config = exported.model.config
    fused = exported.record().fused
    operators = exported.operators()
    assert fused["attention"] == LAYERS
    assert operators["Softmax"] == LAYERS
    # Scores and context of each attention; every other product has a weight.
    assert operators["FusedMatMul"] + operators["MatMul"] >= 2 * LAYERS + 6 * LAYERS
    norms = 0 if config.model_type == "mobilebert" else 2 * LAYERS
    assert fused.get("residual-sums", 0) == norms
    row = FAMILIES[config.model_type]
    assert fused.get("embedding-sums", 0) == row.pad_counts_positions
    assert fused.get("choices-split", 0) == operators["Flatten"] + (operators["Flatten"] > 0)
    exact = config.to_dict().get(row.keys.activation) == "gelu"
    assert operators["Erf"] == 0
    assert operators["Gelu"] == fused.get("gelu", 0)
    assert fused.get("gelu", 0) >= (LAYERS if exact else 0)
    assert fused.get("bias-sums", 0) >= (LAYERS if exact else 0)
    # No head, layer or mask computes a shape: the length, and what embeddings need, is all.
    assert operators["Shape"] <= 3 + TASKS[exported.task].has_choices


def check_int8(exported: Exported, *, constant_linears: int = 0) -> None:
    """The artefact is in the folder, its weights are integers, and shared ones are stored once."""
    records = {record.precision: parity for record, parity in exported.artefacts}
    assert records["int8"].passed
    assert all(result.holds for result in records["int8"].results)
    parameters = sum(parameter.numel() for parameter in exported.model.parameters())
    stored = exported.record().bytes_by_part
    # A pooler that the task does not read, and vectors of a single segment, are not stored.
    assert sum(stored.values()) <= 4 * parameters * 1.06
    # Layers of constants are stored in 8 bits, and computed in float when a session starts.
    assert exported.operators("int8")["MatMul"] == constant_linears
    assert exported.operators("int8")["MatMulIntegerToFloat"] >= 5 * LAYERS
