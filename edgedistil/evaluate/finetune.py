"""Fine-tune an encoder on a task with transformers' Trainer, and run the result."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from edgedistil.core import console
from edgedistil.core.errors import ModelError, TrainingDiverged
from edgedistil.core.rundir import replacing
from edgedistil.evaluate import squad
from edgedistil.evaluate.encode import Encoded, Ids, encode_texts, open_tokenizer, pad_id
from edgedistil.evaluate.examples import Example
from edgedistil.evaluate.scoring import Forward, Logits, all_logits, arrays
from edgedistil.evaluate.spec import SecondDistillation, Training
from edgedistil.models import native_dtype
from edgedistil.models.losses import (
    mixed_loss,
    partly_labelled_loss,
    soft_span_loss,
    soft_target_loss,
    soft_value_loss,
)
from edgedistil.models.quiet import quiet

_LABELS = (
    "labels",
    "start_positions",
    "end_positions",
)  # transformers' names, of one kind of task or the other
_LOGITS = ("logits", "start_logits", "end_logits")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "added_tokens.json",
)


def task_model(
    folder: Path, *, kind: str, labels: Sequence[str], seed: int, random_weights: bool = False
) -> PreTrainedModel:
    """The encoder in `folder` with a fresh head for the task; what is drawn at random follows the seed.

    Raises:
        ModelError: The folder holds no model that transformers loads from safetensors.
    """
    set_seed(seed)
    auto = AutoModelForQuestionAnswering if kind == "span" else AutoModelForSequenceClassification
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            if kind == "regression":
                config.num_labels, config.problem_type = 1, "regression"
            elif kind != "span":
                config.id2label = dict(enumerate(labels))
                config.label2id = {label: index for index, label in enumerate(labels)}
                config.problem_type = "single_label_classification"
            if random_weights:
                return auto.from_config(config, dtype=torch.float32)
            return auto.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                local_files_only=True,
                dtype=torch.float32,
            )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder} holds no model that can be fine-tuned: {str(error).splitlines()[0]}"
        ) from error


def fine_tuned_model(folder: Path, *, kind: str) -> PreTrainedModel:
    """A model that `save_model` wrote, head and all, in eval mode."""
    auto = AutoModelForQuestionAnswering if kind == "span" else AutoModelForSequenceClassification
    with quiet():
        model: PreTrainedModel = auto.from_pretrained(
            folder, use_safetensors=True, local_files_only=True
        )
    return model.eval()


def features(
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    *,
    kind: str,
    max_length: int,
    labelled: bool = True,
) -> list[dict[str, Any]]:
    """Training rows: `encoded` and the labels; a question gives one row a window, taught with its first answer.

    Args:
        labelled: False: the rows are for soft targets alone, and what stands as their label is not looked at.
    """
    if kind == "span":
        return [
            {
                "encoded": window.encoded,
                "labels": squad.answer_tokens(window, example.answers[0]) if labelled else (0, 0),
                "labelled": labelled,
            }
            for example in examples
            for window in squad.windows(tokenizer, example, max_length)
        ]
    encoded = encode_texts(tokenizer, [example.texts for example in examples], max_length)
    return [
        {"encoded": each, "labels": example.label, "labelled": labelled}
        for each, example in zip(encoded, examples, strict=True)
    ]


def fine_tune(
    model: PreTrainedModel,
    rows: Sequence[dict[str, Any]],
    *,
    kind: str,
    pad: int,
    training: Training,
    seed: int,
    label: str,
    soft_targets: Sequence[Logits] | None = None,
    second: SecondDistillation | None = None,
) -> None:
    """Trains `model` in place on `rows`.

    Args:
        rows: From `features`; those without a label need soft targets.
        label: Shown beside the progress bar.
        soft_targets: The fine-tuned teacher's logits of each row; None: labels only.
        second: Weight and temperature of the soft targets.
    Raises:
        TrainingDiverged: The loss is NaN or infinite.
    """
    device_is_cpu = not torch.cuda.is_available()
    steps = -(-len(rows) // training.batch) * training.epochs
    with (
        tempfile.TemporaryDirectory(prefix="edgedistil-trainer-") as scratch,
        console.progress(label, steps, unit="steps") as bar,
    ):
        arguments = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=training.batch,
            num_train_epochs=training.epochs,
            learning_rate=training.learning_rate,
            warmup_steps=round(training.warmup * steps),
            weight_decay=training.weight_decay,
            max_grad_norm=training.clip,
            lr_scheduler_type="linear",
            bf16=bfloat16_is_native(),
            use_cpu=device_is_cpu,
            seed=seed,
            data_seed=seed,
            train_sampling_strategy="group_by_length",
            remove_unused_columns=False,
            dataloader_pin_memory=not device_is_cpu,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            log_level="critical",
        )
        trainer = _Trainer(
            model=model,
            args=arguments,
            train_dataset=_Rows(rows, soft_targets),
            data_collator=_Collator(kind, pad, accepted_inputs(model)),
            callbacks=[_Bar(bar)],
        )
        trainer.second = second if soft_targets is not None else None
        trainer.kind = kind
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
        with quiet():
            trainer.train()
            trainer.accelerator.unwrap_model(
                model, keep_fp32_wrapper=False
            )  # or it answers in bfloat16 ever after


def bfloat16_is_native() -> bool:
    """Whether the device that the Trainer picks computes in bfloat16 natively."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return native_dtype.bfloat16_is_native(device)


def accepted_inputs(model: PreTrainedModel) -> set[str]:
    """Names of the forward arguments: DistilBERT takes no token types."""
    return set(inspect.signature(model.forward).parameters)


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    def __init__(
        self, rows: Sequence[dict[str, Any]], soft_targets: Sequence[Logits] | None
    ) -> None:
        self._rows, self._soft = rows, soft_targets

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._rows[index]
        soft = {} if self._soft is None else {"soft": self._soft[index]}
        return {
            "input_ids": row["encoded"].input_ids,
            **row,
            **soft,
        }  # input_ids: the length sampler looks there


class _Collator:
    def __init__(self, kind: str, pad: int, accepted: set[str]) -> None:
        self._kind, self._pad, self._accepted = kind, pad, accepted

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        encoded: list[Encoded] = [row["encoded"] for row in rows]
        batch = tensors(arrays(encoded, self._pad), self._accepted)
        labels = np.array([row["labels"] for row in rows])
        if self._kind == "span":
            batch["start_positions"], batch["end_positions"] = (
                torch.from_numpy(labels[:, i].copy()) for i in (0, 1)
            )
        else:
            kind = np.float32 if self._kind == "regression" else np.int64
            batch["labels"] = torch.from_numpy(labels.astype(kind))
        if "soft" in rows[0]:
            batch["soft"] = _stacked([row["soft"] for row in rows], batch["input_ids"].shape[1])
            batch["labelled"] = torch.tensor([row["labelled"] for row in rows])
        return batch


def tensors(batch: tuple[Ids, Ids, Ids], accepted: set[str]) -> dict[str, Tensor]:
    named = dict(zip(("input_ids", "attention_mask", "token_type_ids"), batch, strict=True))
    return {name: torch.from_numpy(array) for name, array in named.items() if name in accepted}


def _stacked(soft: list[Logits], length: int) -> Tensor:
    """Soft targets of a batch: (B, C), or (B, 2, L) with zeros at padding, which the loss masks out."""
    if len(soft[0]) == 1:
        return torch.from_numpy(np.stack([each[0] for each in soft]).astype(np.float32))
    array = np.zeros((len(soft), 2, length), dtype=np.float32)
    for row, (start, end) in enumerate(soft):
        array[row, 0, : len(start)], array[row, 1, : len(end)] = start, end
    return torch.from_numpy(array)


class _Trainer(Trainer):  # type: ignore[misc] # transformers ships no types
    """Trainer whose loss may have soft targets in it, and which stops at a loss that is no number."""

    second: SecondDistillation | None
    kind: str

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ARG002 - Trainer passes it; our losses are means over the batch
    ) -> Any:
        soft, labelled = inputs.pop("soft", None), inputs.pop("labelled", None)
        if self.second is None or soft is None or labelled is None:
            outputs = model(**inputs)
            loss = outputs.loss
        else:
            labels = [inputs.pop(name) for name in _LABELS if name in inputs]
            outputs = model(**inputs)
            logits = [outputs[name] for name in _LOGITS if name in outputs]
            loss = loss_with_soft_targets(
                self.kind,
                logits,
                labels,
                soft,
                inputs["attention_mask"],
                labelled,
                second=self.second,
            )
        if not torch.isfinite(loss):
            raise TrainingDiverged(
                f"the fine-tuning loss is {loss.item()} at step {self.state.global_step + 1}",
                hint="lower learning_rate in the task's file",
            )
        return (loss, outputs) if return_outputs else loss


def loss_with_soft_targets(
    kind: str,
    logits: Sequence[Tensor],
    labels: Sequence[Tensor],
    soft: Tensor,
    mask_BL: Tensor,
    labelled_B: Tensor,
    *,
    second: SecondDistillation,
) -> Tensor:
    """Mean over a batch: labels and soft targets where there are labels, soft targets alone elsewhere.

    Args:
        logits: The student's: (B, C), or for spans start and end, (B, L) each.
        labels: Classes or values (B,), or for spans start and end, (B,) each.
        soft: The teacher's logits, (B, C) or (B, 2, L).
        labelled_B: Which rows have a label.
    """
    means = []
    for rows in (labelled_B, ~labelled_B):
        ours, theirs = [each[rows] for each in logits], [each[rows] for each in labels]
        if not rows.any():
            means.append((soft.new_zeros(()), 0))
            continue
        loss = _soft_loss(kind, ours, soft[rows], mask_BL[rows], second.temperature)
        if rows is labelled_B:
            loss = mixed_loss(_label_loss(kind, ours, theirs), loss, alpha=second.alpha)
        means.append((loss, int(rows.sum())))
    return partly_labelled_loss(means[0], means[1])


def _label_loss(kind: str, logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """What transformers' heads compute from labels."""
    if kind == "regression":
        return functional.mse_loss(logits[0][:, 0].float(), labels[0].float())
    losses = [
        functional.cross_entropy(each.float(), label)
        for each, label in zip(logits, labels, strict=True)
    ]
    return torch.stack(losses).mean()


def _soft_loss(
    kind: str, logits: Sequence[Tensor], soft: Tensor, mask_BL: Tensor, temperature: float
) -> Tensor:
    if kind == "span":
        sides = [
            soft_span_loss(each, soft[:, i], mask_BL, temperature=temperature)
            for i, each in enumerate(logits)
        ]
        return torch.stack(sides).mean()
    if kind == "regression":
        return soft_value_loss(logits[0][:, 0], soft[:, 0])
    return soft_target_loss(logits[0], soft, temperature=temperature)


class _Bar(TrainerCallback):  # type: ignore[misc] # transformers ships no types
    def __init__(self, bar: console.Bar) -> None:
        self._bar = bar

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._bar.advance()


def torch_forward(model: PreTrainedModel) -> Forward:
    """Runs batches through the model in float32, eval mode, on the device that it is on."""
    model.eval()
    accepted = accepted_inputs(model)

    @torch.inference_mode()
    def forward(input_ids: Ids, mask: Ids, type_ids: Ids) -> Logits:
        inputs = {
            k: v.to(model.device) for k, v in tensors((input_ids, mask, type_ids), accepted).items()
        }
        outputs = model(**inputs)
        found = (
            (outputs.logits,) if "logits" in outputs else (outputs.start_logits, outputs.end_logits)
        )
        return tuple(each.float().cpu().numpy() for each in found)

    return forward


def teacher_logits(
    folder: Path, rows: Sequence[dict[str, Any]], *, kind: str, tokenizer: Tokenizer
) -> list[Logits]:
    """The fine-tuned teacher's logits of each training row: soft targets for a student that reads the same ids.

    Raises:
        ModelError: Teacher and student have different tokenizers.
    """
    if open_tokenizer(folder).get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"the teacher in {folder} has another vocabulary than the student: its logits have no partner"
        )
    model = fine_tuned_model(folder, kind=kind)
    if torch.cuda.is_available():
        model.to("cuda")
    encoded = [row["encoded"] for row in rows]
    return all_logits(torch_forward(model), encoded, pad_id(tokenizer), label="soft targets")


def save_model(
    model: PreTrainedModel, tokenizer_folder: Path, folder: Path, *, stamp: dict[str, Any]
) -> None:
    """The fine-tuned model with its tokenizer, as a folder that transformers loads; whole or not at all.

    Args:
        stamp: File name → JSON that is written beside the weights.
    """
    with replacing(folder) as aside, quiet():
        model.save_pretrained(aside)
        for name, content in stamp.items():
            (aside / name).write_text(json.dumps(content), encoding="utf-8")
        for name in _TOKENIZER_FILES:
            if (tokenizer_folder / name).is_file():
                shutil.copyfile(tokenizer_folder / name, aside / name)


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """PyTorch computes with `count` threads inside; None leaves it alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        yield
    finally:
        torch.set_num_threads(before)
