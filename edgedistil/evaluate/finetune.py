"""Fine-tunes a model on a labelled task with transformers' Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from edgedistil.core import console
from edgedistil.core.errors import TrainingDiverged
from edgedistil.core.scratch import scratch_folder
from edgedistil.evaluate.encode import pad_batch
from edgedistil.evaluate.kind import TaskKind, TrainingRow
from edgedistil.evaluate.scoring import Logits
from edgedistil.evaluate.spec import SecondDistillation, Training
from edgedistil.evaluate.task_model import accepted_inputs, batch_tensors
from edgedistil.models import native_dtype
from edgedistil.models.losses import mixed_loss, partly_labelled_loss
from edgedistil.models.quiet import quiet


@dataclass(frozen=True, kw_only=True)
class FineTuneSettings:
    """Everything that fine-tuning needs besides the model and the rows.

    Attributes:
        kind: Kind of the task.
        training: Hyper-parameters.
        steps: Optimizer steps; None: as many as rows and epochs give.
        seed: Seed of data order and dropout.
        pad: Id of the padding token.
        label: Label of the progress bar.
    """

    kind: TaskKind
    training: Training
    seed: int
    steps: int | None = None
    pad: int
    label: str


@dataclass(frozen=True)
class SoftTargets:
    """Outputs of the fine-tuned teacher to train a student on.

    Attributes:
        logits: The teacher's outputs for each training row.
        second: Weight and temperature of the soft-target loss.
    """

    logits: Sequence[Logits]
    second: SecondDistillation


def fine_tune(
    model: PreTrainedModel,
    rows: Sequence[TrainingRow],
    settings: FineTuneSettings,
    soft_targets: SoftTargets | None = None,
) -> None:
    """Trains a model in place.

    Args:
        model: Model with a head for the task.
        rows: Training rows; those without a label need soft targets.
        settings: Kind, hyper-parameters and seed.
        soft_targets: Outputs of the teacher for `rows`; None: labels only.
    Raises:
        TrainingDiverged: The loss is NaN or infinite.
    """
    training = settings.training
    # For the warm-up and the progress bar; the Trainer counts the same steps.
    steps = settings.steps or training.steps(len(rows))
    with (
        # The Trainer creates its output folder and writes nothing into it.
        scratch_folder("trainer") as scratch,
        console.progress(settings.label, steps, unit="steps") as bar,
    ):
        trainer = _Trainer(
            kind=settings.kind,
            second=soft_targets.second if soft_targets is not None else None,
            model=model,
            args=_training_arguments(settings, steps, str(scratch)),
            train_dataset=_Rows(rows, soft_targets),
            data_collator=_Collator(settings.kind, settings.pad, accepted_inputs(model)),
            callbacks=[_AdvanceBar(bar)],
        )
        # Our own bar is the only output.
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
        with quiet():
            trainer.train()
            # Without this the model keeps running under autocast, and scores are in bfloat16.
            trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)


def _training_arguments(settings: FineTuneSettings, steps: int, scratch: str) -> TrainingArguments:
    training = settings.training
    use_cpu = not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=scratch,
        # Optimization.
        per_device_train_batch_size=training.batch,
        num_train_epochs=training.epochs,
        # Where it is set, it takes precedence over the epochs.
        max_steps=settings.steps or -1,
        learning_rate=training.learning_rate,
        warmup_steps=round(training.warmup * steps),
        weight_decay=training.weight_decay,
        max_grad_norm=training.clip,
        lr_scheduler_type="linear",
        # Precision and device: docs/log.md#bfloat16-for-fine-tuning.
        bf16=uses_bfloat16(),
        use_cpu=use_cpu,
        # Data. Batches of similar length need less padding.
        seed=settings.seed,
        data_seed=settings.seed,
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
        dataloader_pin_memory=not use_cpu,
        # No files and no output of the Trainer's own.
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="critical",
    )


def uses_bfloat16() -> bool:
    """Whether the device that the Trainer picks multiplies bfloat16 in hardware."""
    # The Trainer takes the first GPU where there is one.
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return native_dtype.bfloat16_is_native(device)


# --- batches -------------------------------------------------------------------------------------


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Training rows and their soft targets as a data set."""

    def __init__(self, rows: Sequence[TrainingRow], soft_targets: SoftTargets | None) -> None:
        self._rows = rows
        self._soft_targets = soft_targets

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._rows[index]
        # The Trainer groups rows by the length of `input_ids`; the collator does not need them.
        item: dict[str, Any] = {"input_ids": row.encoded.input_ids, "row": row}
        if self._soft_targets is not None:
            item["soft"] = self._soft_targets.logits[index]
        return item


class _Collator:
    """Makes a padded batch of tensors from items of `_Rows`."""

    def __init__(self, kind: TaskKind, pad: int, accepted: set[str]) -> None:
        self._kind = kind
        self._pad = pad
        self._accepted = accepted

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        rows: list[TrainingRow] = [item["row"] for item in items]
        # Pad to the longest row of the batch, and drop inputs that the model does not take.
        arrays = pad_batch([row.encoded for row in rows], self._pad)
        batch = batch_tensors(arrays, self._accepted)
        batch |= self._kind.label_batch(np.array([row.label for row in rows]))

        # `_Trainer.compute_loss` removes these two: the model does not take them.
        if "soft" in items[0]:
            length = batch["input_ids"].shape[1]
            logits = [item["soft"] for item in items]
            batch["soft"] = self._kind.soft_target_batch(logits, length)
            batch["labelled"] = torch.tensor([row.labelled for row in rows])
        return batch


# --- loss ----------------------------------------------------------------------------------------


class _Trainer(Trainer):  # type: ignore[misc] # transformers ships no types
    """Trainer that can add soft targets to the loss and stops if the loss is not finite."""

    def __init__(
        self, *, kind: TaskKind, second: SecondDistillation | None, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self._kind = kind
        self._second = second

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ARG002 - Trainer passes it; our losses are means
    ) -> Any:
        """Overrides the Trainer's loss, which comes from the model's head."""
        soft, labelled = inputs.pop("soft", None), inputs.pop("labelled", None)
        if self._second is None or soft is None or labelled is None:
            outputs = model(**inputs)
            loss = outputs.loss
        else:
            # Without labels the head does not compute a loss of its own.
            labels = [inputs.pop(name) for name in self._kind.label_inputs]
            outputs = model(**inputs)
            loss = loss_with_soft_targets(
                self._kind,
                [outputs[name] for name in self._kind.outputs],
                labels,
                soft,
                inputs["attention_mask"],
                labelled,
                second=self._second,
            )

        if not torch.isfinite(loss):
            raise TrainingDiverged(
                f"the fine-tuning loss is {loss.item()} at step {self.state.global_step + 1}",
                hint="lower learning_rate in the task's file",
            )
        return (loss, outputs) if return_outputs else loss


def loss_with_soft_targets(
    kind: TaskKind,
    logits: Sequence[Tensor],
    labels: Sequence[Tensor],
    soft: Tensor,
    mask_BL: Tensor,
    labelled_B: Tensor,
    *,
    second: SecondDistillation,
) -> Tensor:
    """Computes the mean loss of a batch whose rows may lack a label.

    Labelled rows have the mixed loss of labels and soft targets, the others the soft-target loss.

    Args:
        kind: Kind of the task.
        logits: The student's outputs: (B, C), or for spans start and end, (B, L) each.
        labels: Classes or values (B,), or for spans start and end, (B,) each.
        soft: The teacher's outputs, (B, C) or (B, 2, L).
        mask_BL: 1 at tokens, 0 at padding.
        labelled_B: Whether each row has a label.
        second: Weight and temperature of the soft targets.
    Returns:
        Scalar.
    """
    # Labelled and unlabelled rows separately; each part counts by its number of rows.
    means = []
    for rows_B in (labelled_B, ~labelled_B):
        if not rows_B.any():
            means.append((soft.new_zeros(()), 0))
            continue
        part = [output[rows_B] for output in logits]
        loss = kind.soft_target_loss(part, soft[rows_B], mask_BL[rows_B], second.temperature)
        if rows_B is labelled_B:
            label_loss = kind.label_loss(part, [label[rows_B] for label in labels])
            loss = mixed_loss(label_loss, loss, alpha=second.alpha)
        means.append((loss, int(rows_B.sum())))
    return partly_labelled_loss(means[0], means[1])


class _AdvanceBar(TrainerCallback):  # type: ignore[misc] # transformers ships no types
    """Advances the progress bar after each step."""

    def __init__(self, bar: console.Bar) -> None:
        self._bar = bar

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._bar.advance()
