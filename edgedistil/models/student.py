"""The student: a DistilBERT made of some of its teacher's layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM

from edgedistil.core.errors import ModelError
from edgedistil.models.quiet import quiet


def alternate_layers(teacher_layers: int, student_layers: int | None = None) -> list[int]:
    """Indices of teacher layers, spread evenly from the first to the last; 12 → 6 gives 0 2 4 7 9 11.

    Args:
        teacher_layers: Depth of the teacher.
        student_layers: Depth of the student; none: half of the teacher's, rounded up.
    Raises:
        ModelError: A depth is not positive, or the student is deeper than the teacher.
    """
    wanted = (teacher_layers + 1) // 2 if student_layers is None else student_layers
    if teacher_layers < 1 or not 1 <= wanted <= teacher_layers:
        raise ModelError(
            f"cannot take {wanted} layers out of {teacher_layers}: expected 1 to {max(teacher_layers, 1)}",
            hint="give the layers one by one, [student] layers = [0, …]; a layer may be taken twice",
        )
    if wanted == 1:
        return [0]
    # Round half down, in integers: floating point would decide ties by its own error.
    last, steps = teacher_layers - 1, wanted - 1
    return [(2 * index * last + steps - 1) // (2 * steps) for index in range(wanted)]


def make_student(
    teacher_model: BertForMaskedLM,
    *,
    layer_map: Sequence[int],
    init: Literal["teacher", "random"],
    fold_segment: bool,
    copy_head_transform: bool,
    freeze_positions: bool,
    dropout: float,
    seed: int,
) -> DistilBertForMaskedLM:
    """A student as wide as its teacher, with one layer for each entry of `layer_map`.

    Args:
        layer_map: Teacher layer that each student layer starts from; only its length counts for `random`.
        init: `teacher` copies weights, `random` draws them all.
        fold_segment: Add the teacher's segment-A vector to the positions. BERT always adds it and a DistilBERT has
            none, so without this the student's embeddings differ from the teacher's from the start.
        copy_head_transform: Copy dense layer and LayerNorm of the MLM head; the vocabulary's part always is.
        freeze_positions: See `freeze_positions`.
        dropout: Of hidden states and of attention.
        seed: Of everything that is drawn.
    Raises:
        ModelError: A layer that the teacher does not have, or no layer at all.
    Source: Sanh et al. 2019, §3.
    """
    teacher_layers = teacher_model.config.num_hidden_layers
    outside = [layer for layer in layer_map if not 0 <= layer < teacher_layers]
    if outside or not layer_map:
        raise ModelError(
            f"layer map {list(layer_map)}: the teacher has no layer {outside[0]}"
            if outside
            else "layer map is empty",
            hint=f"this teacher's layers are 0 to {teacher_layers - 1}",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = DistilBertForMaskedLM(_config(teacher_model, len(layer_map), dropout))
    if init == "teacher":
        with torch.no_grad():
            _copy_embeddings(teacher_model, student, fold_segment)
            for source, target in zip(layer_map, student.distilbert.transformer.layer, strict=True):
                _copy_layer(teacher_model.bert.encoder.layer[source], target)
            _copy_head(teacher_model, student, copy_head_transform)
    if freeze_positions:
        freeze_position_embeddings(student)
    return student.train()


def load_student(
    folder: Path, teacher_model: BertForMaskedLM, *, layers: int, dropout: float
) -> DistilBertForMaskedLM:
    """A student that was distilled before, to be distilled further: on other text, say, or by another teacher.

    Args:
        folder: A DistilBERT in safetensors with its MLM head, such as the folder `student` of a run.
        layers: Depth that it must have.
        dropout: Of hidden states and of attention; the one that it was saved with counts no more.
    Raises:
        ModelError: No such folder, another kind of model, or one that does not fit the teacher.
    """
    hint = 'expected "teacher", "random", or the folder of a distilled student, such as runs/NAME/student'
    if not (folder / "config.json").is_file():
        raise ModelError(f'student.init "{folder}": no config.json there', hint=hint)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            if not isinstance(config, DistilBertConfig):
                raise ModelError(
                    f'student.init "{folder}" is a {config.model_type}, not a distilbert', hint=hint
                )
            config.dropout = config.attention_dropout = dropout
            student, report = DistilBertForMaskedLM.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f'student.init "{folder}" cannot be loaded: {str(error).splitlines()[0]}', hint=hint
        ) from error
    if report["missing_keys"]:
        raise ModelError(
            f'student.init "{folder}" lacks {sorted(report["missing_keys"])[0]}', hint=hint
        )
    of = teacher_model.config
    wanted = (layers, of.hidden_size, of.vocab_size, of.max_position_embeddings)
    got = (config.n_layers, config.dim, config.vocab_size, config.max_position_embeddings)
    for what, expected, found in zip(
        ("layers", "hidden width", "words", "positions"), wanted, got, strict=True
    ):
        if found != expected:
            raise ModelError(
                f'student.init "{folder}" has {what} {found}, expected {expected}', hint=hint
            )
    return student.train()


def freeze_position_embeddings(student: DistilBertForMaskedLM) -> None:
    """Exclude the position table from training.

    The original froze BERT's positions by saying that they are sinusoidal; today that flag fills sinusoids in and
    leaves them trainable, so it stays false and the table is frozen here. A saved model does not remember it.
    """
    student.distilbert.embeddings.position_embeddings.weight.requires_grad_(False)


def _config(teacher: BertForMaskedLM, layers: int, dropout: float) -> DistilBertConfig:
    of = teacher.config
    return DistilBertConfig(
        vocab_size=of.vocab_size,
        max_position_embeddings=of.max_position_embeddings,
        sinusoidal_pos_embds=False,
        n_layers=layers,
        n_heads=of.num_attention_heads,
        dim=of.hidden_size,
        hidden_dim=of.intermediate_size,
        dropout=dropout,
        attention_dropout=dropout,
        activation=of.hidden_act,
        initializer_range=of.initializer_range,
        pad_token_id=of.pad_token_id,
        tie_word_embeddings=True,
    )


def _copy_embeddings(
    teacher: BertForMaskedLM, student: DistilBertForMaskedLM, fold_segment: bool
) -> None:
    source, target = teacher.bert.embeddings, student.distilbert.embeddings
    target.word_embeddings.weight.copy_(source.word_embeddings.weight)
    positions = source.position_embeddings.weight
    if fold_segment:
        positions = positions + source.token_type_embeddings.weight[0]
    target.position_embeddings.weight.copy_(positions)
    _copy(source.LayerNorm, target.LayerNorm)


def _copy_layer(source: Any, target: Any) -> None:
    own = source.attention.self
    for theirs, ours in (
        (own.query, target.attention.q_lin),
        (own.key, target.attention.k_lin),
        (own.value, target.attention.v_lin),
        (source.attention.output.dense, target.attention.out_lin),
        (source.attention.output.LayerNorm, target.sa_layer_norm),
        (source.intermediate.dense, target.ffn.lin1),
        (source.output.dense, target.ffn.lin2),
        (source.output.LayerNorm, target.output_layer_norm),
    ):
        _copy(theirs, ours)


def _copy_head(
    teacher: BertForMaskedLM, student: DistilBertForMaskedLM, with_transform: bool
) -> None:
    head = teacher.cls.predictions
    student.vocab_projector.bias.copy_(
        head.decoder.bias
    )  # its weight is tied to the word embeddings
    if with_transform:
        _copy(head.transform.dense, student.vocab_transform)
        _copy(head.transform.LayerNorm, student.vocab_layer_norm)


def _copy(source: nn.Module, target: nn.Module) -> None:
    target.load_state_dict(source.state_dict())
