"""Plants every fault in every artefact of small models, and asks the product's own gate.

A fault counts if it moves the outputs, on texts that the gate never saw, by more than a fifth of
the distance between the sound artefact and PyTorch. Then it is caught or missed; otherwise it is
harmless, whatever the gate says.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedModel,
)

from benchmarks.planted.faults import Fault
from benchmarks.planted.package_faults import PackageFault
from benchmarks.planted.plant import Plant
from edgedistil.core.errors import EdgeDistilError, ParityError
from edgedistil.core.export_records import CertificateRecord
from edgedistil.core.options import ExportOptions
from edgedistil.core.precision import Precision
from edgedistil.core.rundir import RunDir
from edgedistil.core.task import TASKS, Task
from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.export.package_check import check_package
from edgedistil.export.publish import export_model
from edgedistil.export.source import ExportSource, read_source
from edgedistil.export.weight_source import read_weight_source
from edgedistil.parity.formula import WeightSource
from edgedistil.parity.gate import check_artefact, load_artefact
from edgedistil.parity.probes import Probes

Outcome = Literal["caught", "missed", "harmless", "absent"]
Feeds = Mapping[str, NDArray[np.int64]]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int8-static", "int4")

# A fault is harmful from this share of the sound artefact's own error on.
HARMFUL_SHARE = 0.2
SPECIALS = 5
LAYERS, HIDDEN, HEADS, INNER, POSITIONS = 3, 64, 4, 96, 130


@dataclass(frozen=True)
class Subject:
    """One kind of model.

    Attributes:
        name: Name in tables.
        task: Task of the model.
        model_class: Class of transformers.
        config: Values of its config besides the sizes.
    """

    name: str
    task: Task
    model_class: type[PreTrainedModel]
    config: Mapping[str, Any]


_LABELS = {index: f"label {index}" for index in range(5)}
SUBJECTS = (
    Subject("encoder", "feature-extraction", BertModel, {}),
    Subject("fill-mask", "fill-mask", BertForMaskedLM, {}),
    Subject(
        "classifier", "text-classification", BertForSequenceClassification, {"id2label": _LABELS}
    ),
    Subject(
        "multi-label",
        "text-classification",
        BertForSequenceClassification,
        {"id2label": _LABELS, "problem_type": "multi_label_classification"},
    ),
    Subject(
        "token classification",
        "token-classification",
        BertForTokenClassification,
        {"id2label": _LABELS},
    ),
)


@dataclass(frozen=True)
class Planted:
    """What came of one fault in one artefact.

    Attributes:
        fault: Name of the fault.
        kind: Kind of the fault.
        subject: Name of the model.
        precision: Precision of the artefact; "all" for the package.
        share: How far the outputs moved, as a share of the sound artefact's own error on the same
            texts; of all shapes of texts the largest.
        outcome: What came of it.
        by: What caught it: the certificate, the parts, a figure, or an error.
    """

    fault: str
    kind: str
    subject: str
    precision: str
    share: float
    outcome: Outcome
    by: tuple[str, ...]


@dataclass(frozen=True)
class Exported:
    """The sound artefacts of one model, and what the gate compares them with."""

    subject: Subject
    source: ExportSource
    model: PreTrainedModel
    folder: Path
    probes: Probes
    weights: WeightSource
    text: Sequence[str]
    feeds: Sequence[Feeds]

    def file(self, precision: Precision) -> Path:
        from edgedistil.core.precision import graph_name

        return self.folder / "onnx" / graph_name(precision)


def export_subject(
    subject: Subject,
    tokenizer_folder: Path,
    text: Sequence[str],
    root: Path,
    *,
    precisions: Sequence[Precision] = PRECISIONS,
    **changes: Any,
) -> Exported:
    """Exports a random model; every sound artefact passes, or this raises ParityError."""
    tokenizer = read_tokenizer(tokenizer_folder)
    torch.manual_seed(11)
    sizes = {
        "vocab_size": tokenizer.size,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "max_position_embeddings": POSITIONS,
        # Larger than a fresh model's, so that outputs differ between texts.
        "initializer_range": 0.1,
    }
    config = BertConfig(**{**sizes, **subject.config, **changes})
    run = RunDir(root / "run")
    folder = root / "source"
    model = subject.model_class(config).eval()
    _make_uneven(model)
    model.save_pretrained(folder)
    for file in tokenizer_folder.iterdir():
        shutil.copyfile(file, folder / file.name)
    source = read_source(folder, name="subject", role="other", task=subject.task)
    export_model(run, source, ExportOptions(precisions=list(precisions)), text=text)
    loaded = source.load_model()
    return Exported(
        subject=subject,
        source=source,
        model=loaded,
        folder=run.export("subject", subject.task),
        probes=Probes.load(run.probes("subject", subject.task)),
        weights=read_weight_source(loaded, subject.task, source.load_sentence_encoder(loaded)),
        text=text,
        feeds=unseen_feeds(tokenizer.size, POSITIONS),
    )


def _make_uneven(model: PreTrainedModel) -> None:
    """Gives biases and norms values of their own, as training does: zeros would hide faults."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += 0.1 * noise if "bias" in name else 0.2 * noise


def unseen_feeds(vocabulary: int, positions: int) -> list[Feeds]:
    """Random ids of the complete vocabulary at many lengths and batch sizes, with two segments."""
    rng = np.random.default_rng(77)
    feeds = []
    shapes = [(1, 3), (1, 6), (1, 9), (2, 11), (1, 17), (3, 30), (1, 33), (2, 47), (4, 63)]
    shapes += [(1, 65), (1, 90), (2, 97), (1, 128), (5, 24), (1, positions), (2, positions - 1)]
    for count, length in shapes:
        ids = rng.integers(SPECIALS, vocabulary, (count, length))
        mask = np.ones((count, length), np.int64)
        for row in range(1, count):
            mask[row, max(2, length - rng.integers(0, length // 2 + 1)) :] = 0
        types = (np.arange(length)[None] >= length // 2) * mask
        feeds.append({"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": types})
    return feeds


# --- judging --------------------------------------------------------------------------------------


def plant_all(
    exported: Exported, precision: Precision, faults: Sequence[Fault], scratch: Path
) -> Iterator[Planted]:
    """Plants each fault in a copy of an artefact, and yields what came of it."""
    sound = _outputs(exported.file(precision), exported, precision)
    errors = _distances(sound, _pytorch_outputs(exported))
    for fault in faults:
        yield _plant(fault, exported, precision, scratch / "model.onnx", sound, errors)


def _plant(
    fault: Fault,
    exported: Exported,
    precision: Precision,
    file: Path,
    sound: list[NDArray[Any]],
    errors: NDArray[Any],
) -> Planted:
    plant = Plant(exported.file(precision))
    share, outcome, by = 0.0, "absent", ()
    if fault.apply(plant):
        plant.save(file)
        share = _share(file, exported, precision, sound, errors)
        by = caught_by(file, exported, precision)
        outcome = "caught" if by else "missed"
        if share <= HARMFUL_SHARE:
            outcome = "harmless"
    return Planted(
        fault=fault.name,
        kind=fault.kind,
        subject=exported.subject.name,
        precision=precision,
        share=share,
        outcome=outcome,  # type: ignore[arg-type]
        by=by,
    )


def _share(
    file: Path,
    exported: Exported,
    precision: Precision,
    sound: list[NDArray[Any]],
    errors: NDArray[Any],
) -> float:
    """Returns the largest share over all shapes of texts: the mean would hide one length."""
    try:
        moved = _distances(_outputs(file, exported, precision), sound)
        return float((moved / errors).max())
    except EdgeDistilError:
        return float("inf")
    except Exception:
        return float("inf")


def caught_by(file: Path, exported: Exported, precision: Precision) -> tuple[str, ...]:
    """Returns which parts of the gate refuse an artefact; empty if it passes."""
    task = exported.subject.task
    try:
        record = check_artefact(
            file,
            exported.probes,
            precision=precision,
            model="m",
            task=task,
            source=exported.weights,
        )
    except EdgeDistilError as error:
        return (type(error).__name__,)
    by = []
    if isinstance(record.certificate, CertificateRecord) and record.certificate.problems:
        by.append("certificate")
    if isinstance(record.parts, list):
        from edgedistil.parity.part_check import wrong_parts

        by += ["parts"] if wrong_parts(record.parts, record.precision) else []
    by += sorted({result.tolerance.figure for result in record.results if not result.holds})
    return tuple(by)


def plant_in_package(exported: Exported, fault: PackageFault, scratch: Path) -> Planted:
    """Plants a fault in a copy of the package."""
    folder = scratch / "package"
    shutil.copytree(exported.folder, folder, dirs_exist_ok=True)
    outcome: Outcome = "absent"
    if fault.apply(folder):
        try:
            check_package(folder, exported.source.folder, exported.text[:100])
            outcome = "missed"
        except ParityError:
            outcome = "caught"
    shutil.rmtree(folder)
    by = ("package",) if outcome == "caught" else ()
    return Planted(fault.name, "package", exported.subject.name, "all", 1.0, outcome, by)


def _outputs(file: Path, exported: Exported, precision: Precision) -> list[NDArray[Any]]:
    run = load_artefact(file, precision)
    names = TASKS[exported.subject.task].outputs
    results = []
    for feeds in exported.feeds:
        outputs = run(feeds)
        results += [_attended(outputs[name], feeds) for name in names]
    return results


def _pytorch_outputs(exported: Exported) -> list[NDArray[Any]]:
    results = []
    for feeds in exported.feeds:
        tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
        with torch.inference_mode():
            outputs = exported.model(**tensors)
        names = TASKS[exported.subject.task].outputs
        results += [_attended(outputs[name].numpy(), feeds) for name in names]
    return results


def _attended(output: NDArray[Any], feeds: Feeds) -> NDArray[Any]:
    mask = feeds["attention_mask"] == 1
    return output[mask] if output.ndim > 2 else output


def _distances(a: Sequence[NDArray[Any]], b: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Root mean square of the differences of each output, for each shape of texts."""
    squares = [((x.astype(np.float64) - y) ** 2).mean() for x, y in zip(a, b, strict=True)]
    return np.sqrt(np.array(squares))
