"""The student: its teacher's architecture with fewer layers, or a DistilBERT for a BERT."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.models.heads import layers_of_map, prune_heads, set_pruned_heads
from edgedistil.models.mlm_head import head_names
from edgedistil.models.narrow import narrow_feed_forward
from edgedistil.models.quiet import quiet
from edgedistil.models.reduced import class_for

# Settings of dropout in the encoder, of all families; those of task heads are left as they are.
_DROPOUT_KEYS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "dropout",
)
_INIT_HINT = 'expected "teacher", "random", or a folder of a distilled student, runs/NAME/student'


def alternate_layers(teacher_layers: int, student_layers: int | None = None) -> list[int]:
    """Returns indices of teacher layers, spread evenly from the first to the last.

    12 → 6 gives 0 2 4 7 9 11.

    Args:
        teacher_layers: Depth of the teacher.
        student_layers: Depth of the student; None: half of the teacher's, rounded up.
    Raises:
        ModelError: A depth is not positive, or the student is deeper than the teacher.
    """
    count = (teacher_layers + 1) // 2 if student_layers is None else student_layers
    if teacher_layers < 1 or not 1 <= count <= teacher_layers:
        raise ModelError(
            f"cannot take {count} layers from a teacher of {teacher_layers} layers: "
            f"expected 1 to {max(teacher_layers, 1)}",
            hint="list the layers, [student] layers = [0, …]; a layer may be taken twice",
        )
    if count == 1:
        return [0]
    # Rounded half down, in integers: floating point would decide ties by its rounding error.
    last, steps = teacher_layers - 1, count - 1
    return [(2 * index * last + steps - 1) // (2 * steps) for index in range(count)]


# --- a new student -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StudentOptions:
    """How a student is built.

    Attributes:
        init: `teacher` copies weights, `random` draws all of them.
        fold_segment: Add the segment-A embedding of a BERT to the position embeddings. BERT always
            adds it and DistilBERT has none, so without this the student's embeddings differ from
            the teacher's from the start. Students of other families have segments of their own.
        copy_head_transform: Copy dense layer and LayerNorm of the MLM head too; its projection is
            always copied.
        freeze_positions: Exclude the position embeddings from training.
        dropout: Probability, for hidden states and attention.
        seed: Of all weights that are drawn.
        intermediate: Units of the feed-forward; None: as many as the teacher's.
        heads: Attention heads of each layer; None: as many as the teacher's.
    """

    init: Literal["teacher", "random"] = "teacher"
    fold_segment: bool = True
    copy_head_transform: bool = True
    freeze_positions: bool = False
    dropout: float = 0.1
    seed: int = 0
    intermediate: int | None = None
    heads: int | None = None


def make_student(
    teacher_model: PreTrainedModel,
    *,
    layer_map: Sequence[int],
    options: StudentOptions,
    rows: Sequence[Sequence[int]] = (),
) -> PreTrainedModel:
    """Builds a student with states as wide as its teacher's.

    Of the teacher's own class, except that a BERT's student is a DistilBERT.

    Args:
        teacher_model: Model with an MLM head.
        layer_map: Teacher layer that each student layer starts from; its length is the student's
            depth, which is all that `random` uses.
        options: Weights and dropout.
        rows: Token ids of texts that decide which heads are important; without any their weights
            do.
    Raises:
        ModelError: `layer_map` is empty, has a layer that the teacher does not have, or one that
            the student's class cannot have in that place; or there are no position embeddings to
            freeze.
    Source: Sanh et al. 2019, §3.
    """
    _check_layer_map(layer_map, teacher_model.config.num_hidden_layers)
    # The student's weights depend on the seed only, and drawing them does not shift the caller's
    # random state.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        if isinstance(teacher_model, BertForMaskedLM):
            student = _make_distilbert(teacher_model, layer_map, options)
        else:
            student = _make_shallower(teacher_model, layer_map, options)
        if options.intermediate is not None:
            student = narrow_feed_forward(student, options.intermediate)
        if options.heads is not None:
            student = prune_heads(student, options.heads, rows=rows)
    if options.freeze_positions:
        freeze_position_embeddings(student)
    return student.train()


def freeze_position_embeddings(student: PreTrainedModel) -> None:
    """Excludes the position embeddings from training; a saved model does not record this.

    The original froze them by setting `sinusoidal_pos_embds`. Today that flag overwrites them with
    sinusoids and leaves them trainable, so it stays false here.

    Raises:
        ModelError: The model has no position embeddings.
    """
    family, config = FAMILIES[student.config.model_type], student.config
    name = family.names.position_embedding
    if name is None or not family.has_position_matrix(config.to_dict()):
        raise ModelError(
            f"a {family.model_type} has no position embeddings to freeze",
            hint="set student.freeze_positions = false",
        )
    student.base_model.get_submodule(name).requires_grad_(False)


def _check_layer_map(layer_map: Sequence[int], teacher_layers: int) -> None:
    """Raises ModelError unless the teacher has every layer of a non-empty map."""
    outside = [layer for layer in layer_map if not 0 <= layer < teacher_layers]
    if layer_map and not outside:
        return
    problem = "the layer map is empty"
    if outside:
        problem = f"layer map {list(layer_map)}: the teacher has no layer {outside[0]}"
    raise ModelError(problem, hint=f"this teacher's layers are 0 to {teacher_layers - 1}")


# --- a DistilBERT --------------------------------------------------------------------------------


def _make_distilbert(
    teacher: BertForMaskedLM, layer_map: Sequence[int], options: StudentOptions
) -> DistilBertForMaskedLM:
    config = distilbert_config(teacher.config, layer_map, options.dropout)
    student: DistilBertForMaskedLM = class_for(DistilBertForMaskedLM, config)(config)
    if options.init == "teacher":
        with torch.no_grad():
            _copy_embeddings(teacher, student, options.fold_segment)
            for index, layer in zip(layer_map, student.distilbert.transformer.layer, strict=True):
                _copy_layer(teacher.bert.encoder.layer[index], layer)
            _copy_head(teacher, student, options.copy_head_transform)
    return student


def distilbert_config(
    config: PreTrainedConfig, layer_map: Sequence[int], dropout: float
) -> DistilBertConfig:
    """Returns the config of a BERT's student.

    Args:
        config: The BERT's config.
        layer_map: Teacher layers that the student's start from.
        dropout: Probability, for hidden states and attention.
    """
    # DistilBERT has other names for BERT's settings, and no settings for token types.
    student = DistilBertConfig(
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        sinusoidal_pos_embds=False,
        n_layers=len(layer_map),
        n_heads=config.num_attention_heads,
        dim=config.hidden_size,
        hidden_dim=config.intermediate_size,
        dropout=dropout,
        attention_dropout=dropout,
        activation=config.hidden_act,
        initializer_range=config.initializer_range,
        pad_token_id=config.pad_token_id,
        tie_word_embeddings=True,
    )
    set_pruned_heads(student, layers_of_map(config, layer_map))
    return student


def _copy_embeddings(
    teacher: BertForMaskedLM, student: DistilBertForMaskedLM, fold_segment: bool
) -> None:
    source, target = teacher.bert.embeddings, student.distilbert.embeddings
    target.word_embeddings.weight.copy_(source.word_embeddings.weight)
    positions_LD = source.position_embeddings.weight
    if fold_segment:
        # One vector for all positions: the segment is A everywhere.
        positions_LD = positions_LD + source.token_type_embeddings.weight[0]
    target.position_embeddings.weight.copy_(positions_LD)
    _copy_module(source.LayerNorm, target.LayerNorm)


def _copy_layer(source: Any, target: Any) -> None:
    """Copies a BERT layer to a DistilBERT layer, whose modules have other names."""
    # Modules of one shape: `load_state_dict` raises if a future version changes one of them.
    pairs = (
        (source.attention.self.query, target.attention.q_lin),
        (source.attention.self.key, target.attention.k_lin),
        (source.attention.self.value, target.attention.v_lin),
        (source.attention.output.dense, target.attention.out_lin),
        (source.attention.output.LayerNorm, target.sa_layer_norm),
        (source.intermediate.dense, target.ffn.lin1),
        (source.output.dense, target.ffn.lin2),
        (source.output.LayerNorm, target.output_layer_norm),
    )
    for source_module, target_module in pairs:
        _copy_module(source_module, target_module)


def _copy_head(
    teacher: BertForMaskedLM, student: DistilBertForMaskedLM, with_transform: bool
) -> None:
    head = teacher.cls.predictions
    # The projection's weight is tied to the word embeddings, which are copied already.
    student.vocab_projector.bias.copy_(head.decoder.bias)
    if with_transform:
        _copy_module(head.transform.dense, student.vocab_transform)
        _copy_module(head.transform.LayerNorm, student.vocab_layer_norm)


def _copy_module(source: nn.Module, target: nn.Module) -> None:
    target.load_state_dict(source.state_dict())


# --- the teacher's own class with fewer layers ---------------------------------------------------


def _make_shallower(
    teacher: PreTrainedModel, layer_map: Sequence[int], options: StudentOptions
) -> PreTrainedModel:
    config = _shallower_config(teacher, layer_map)
    _set_dropout(config, options.dropout)
    student: PreTrainedModel = type(teacher)(config)
    if options.init == "teacher":
        _copy_by_name(teacher, student, layer_map, options.copy_head_transform)
    return student


def _shallower_config(teacher: PreTrainedModel, layer_map: Sequence[int]) -> PreTrainedConfig:
    config = copy.deepcopy(teacher.config)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        # A layer keeps its kind of attention, local or global.
        config.layer_types = [kinds[index] for index in layer_map]
    config.num_hidden_layers = len(layer_map)
    set_pruned_heads(config, layers_of_map(teacher.config, layer_map))
    _check_first_layer(teacher, layer_map)
    return config


def _check_first_layer(teacher: PreTrainedModel, layer_map: Sequence[int]) -> None:
    """Raises ModelError if a layer's modules are others in its place in the student."""
    # ModernBERT's first layer has no norm in front of its attention, which all others have.
    if teacher.config.model_type != "modernbert":
        return
    if layer_map[0] == 0 and 0 not in layer_map[1:]:
        return
    raise ModelError(
        f"layer map {list(layer_map)}: a modernbert's first layer has no norm in front of its "
        "attention, so it can only be the first",
        hint="let the map start with 0, and have no other 0",
    )


def _set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    for key in _DROPOUT_KEYS:
        if hasattr(config, key):
            setattr(config, key, dropout)


def _copy_by_name(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    layer_map: Sequence[int],
    with_transform: bool,
) -> None:
    """Copies every weight that the student has, layers by the map."""
    names, weights = head_names(student), teacher.state_dict()
    family = FAMILIES[student.config.model_type]
    layers = f"{student.base_model_prefix}.{family.names.layers}."
    copied = {}
    for name in student.state_dict():
        if not with_transform and name.startswith((f"{names.dense}.", f"{names.norm}.")):
            continue
        source = name
        # Layers that share their weights are all the same.
        if name.startswith(layers) and not family.shares_layers:
            number, rest = name.removeprefix(layers).split(".", 1)
            source = f"{layers}{layer_map[int(number)]}.{rest}"
        copied[name] = weights[source]
    # Strict in the other direction: a weight of the student without a source is a KeyError above.
    student.load_state_dict(copied, strict=with_transform)


# --- a student that was distilled before ---------------------------------------------------------


def load_student(
    folder: Path,
    teacher_model: PreTrainedModel,
    *,
    layers: int,
    dropout: float,
    has_head: bool = True,
) -> PreTrainedModel:
    """Loads a distilled student, to distil it further.

    On other text, for example, or from another teacher.

    Args:
        folder: Model in safetensors with its MLM head, such as a run's folder `student`.
        teacher_model: Teacher whose family, width, vocabulary and positions it must have.
        layers: Depth that it must have.
        dropout: Probability, for hidden states and attention; replaces the saved one.
        has_head: Whether the MLM head must be among the weights.
    Raises:
        ModelError: The folder holds no such student, or one that does not match the teacher.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f'student.init "{folder}" has no config.json', hint=_INIT_HINT)
    expected = student_family(teacher_model.config.model_type)
    try:
        with quiet():
            student, missing = _read_student(folder, expected, dropout)
    except (OSError, ValueError, RuntimeError) as error:
        # The first line states the problem; the rest is advice about the hub.
        reason = str(error).splitlines()[0]
        raise ModelError(
            f'student.init "{folder}" cannot be loaded: {reason}', hint=_INIT_HINT
        ) from error
    if not has_head:
        encoder = f"{student.base_model_prefix}."
        missing = [name for name in missing if name.startswith(encoder)]
    # transformers draws missing weights with a warning only.
    if missing:
        raise ModelError(f'student.init "{folder}" lacks the weight {missing[0]}', hint=_INIT_HINT)
    _check_sizes(student.config, teacher_model.config, layers, folder)
    return student.train()


def student_family(teacher_family: str) -> str:
    """Family of the students of a teacher: its own, and distilbert of bert."""
    return "distilbert" if teacher_family == "bert" else teacher_family


def _read_student(folder: Path, family: str, dropout: float) -> tuple[PreTrainedModel, list[str]]:
    """Returns a student, and the names of the weights that its folder lacks."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.model_type != family:
        raise ModelError(
            f'student.init "{folder}" is a {config.model_type}, not a {family}', hint=_INIT_HINT
        )
    _set_dropout(config, dropout)
    # A local folder with safetensors only: nothing is downloaded and no pickle is read.
    student, report = class_for(AutoModelForMaskedLM, config).from_pretrained(
        folder,
        config=config,
        use_safetensors=True,
        local_files_only=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    return student, sorted(report["missing_keys"])


def _check_sizes(config: Any, teacher: Any, layers: int, folder: Path) -> None:
    """Raises ModelError unless a student has this depth and its teacher's sizes."""
    # The losses compare hidden states and logits of the same width and vocabulary.
    sizes = {
        "layers": (config.num_hidden_layers, layers),
        "hidden width": (config.hidden_size, teacher.hidden_size),
        "vocabulary": (config.vocab_size, teacher.vocab_size),
        "positions": (config.max_position_embeddings, teacher.max_position_embeddings),
    }
    for name, (got, expected) in sizes.items():
        if got != expected:
            raise ModelError(
                f'student.init "{folder}" has {name} {got}, expected {expected}', hint=_INIT_HINT
            )
