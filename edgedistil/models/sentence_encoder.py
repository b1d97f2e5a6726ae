"""A transformer and the layers that turn its states into a sentence vector, as one module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from edgedistil.core.errors import ModelError
from edgedistil.core.library_errors import library_errors
from edgedistil.core.model_folder import read_model_folder
from edgedistil.core.sentence_modules import find_transformer
from edgedistil.core.sentence_vector import Pooling, SentenceVector, Step, read_sentence_vector
from edgedistil.models.loading import drop_missing_pooler, listed, load_config, load_weights

# Smallest number of tokens that a mean divides by, and smallest norm, as sentence-transformers has.
_MIN_COUNT = 1e-9
_MIN_NORM = 1e-12
# State of a padding position for the maximum; below every real state.
_PADDING_STATE = -1e9
WEIGHTS_FILE = "model.safetensors"
# Prefix of the weights in a module's file.
WEIGHT_PREFIXES = {"dense": "linear.", "layer_norm": "norm."}
_FUNCTIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}


class SentenceEncoder(nn.Module):
    """Token states and sentence vectors of texts."""

    def __init__(self, backbone: PreTrainedModel, vector: SentenceVector, head: nn.Module) -> None:
        """Joins a model and the layers after its pooling.

        Args:
            backbone: Returns `last_hidden_state`.
            vector: How its states become a vector.
            head: The layers of `vector.steps`.
        """
        super().__init__()
        self.backbone, self.vector, self.head = backbone, vector, head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns the states, (B, L, D), and the sentence vectors, (B, V).

        Args:
            input_ids: (B, L).
            attention_mask: 1 at tokens, 0 at padding; (B, L).
            token_type_ids: (B, L); None for a model without them.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        states_BLD = self.backbone(**inputs).last_hidden_state
        return states_BLD, self.vectors(states_BLD, attention_mask)

    def vectors(self, states_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Returns the sentence vectors of states, (B, V)."""
        vectors_BV: Tensor = self.head(pool(states_BLD, mask_BL, self.vector.pooling))
        if vectors_BV.shape[-1] > self.vector.dimension:
            # A model that was trained for shorter vectors is cut, and normalized again.
            vectors_BV = _normalized(vectors_BV[..., : self.vector.dimension])
        return vectors_BV


# --- pooling -------------------------------------------------------------------------------------


def pool(states_BLD: Tensor, mask_BL: Tensor, modes: tuple[Pooling, ...]) -> Tensor:
    """Returns the pooled states; the results of several modes are concatenated, (B, modes · D).

    Args:
        states_BLD: States of the last layer.
        mask_BL: 1 at tokens, 0 at padding.
        modes: How to pool. The first token is that of texts that are padded on the right.
    """
    mask_BL1 = mask_BL.unsqueeze(-1).to(states_BLD.dtype)
    parts = [_POOLERS[mode](states_BLD, mask_BL1) for mode in modes]
    return torch.cat(parts, dim=-1)


def _mean(states_BLD: Tensor, weight_BL1: Tensor) -> Tensor:
    return (states_BLD * weight_BL1).sum(1) / weight_BL1.sum(1).clamp(min=_MIN_COUNT)


def _mean_sqrt_length(states_BLD: Tensor, mask_BL1: Tensor) -> Tensor:
    return (states_BLD * mask_BL1).sum(1) / mask_BL1.sum(1).clamp(min=_MIN_COUNT).sqrt()


def _weighted_mean(states_BLD: Tensor, mask_BL1: Tensor) -> Tensor:
    # The weight of a position is its number, from 1; padding on the left counts, too.
    positions_L = torch.arange(1, mask_BL1.shape[1] + 1, device=mask_BL1.device)
    return _mean(states_BLD, mask_BL1 * positions_L.to(mask_BL1.dtype)[:, None])


def _first(states_BLD: Tensor, mask_BL1: Tensor) -> Tensor:
    del mask_BL1  # the first token is never padding
    return states_BLD[:, 0]


def _last(states_BLD: Tensor, mask_BL1: Tensor) -> Tensor:
    # Distance of the last attended position from the end, on whichever side the padding is.
    distance_B = mask_BL1.squeeze(-1).flip(1).argmax(1)
    index_B11 = (mask_BL1.shape[1] - 1 - distance_B)[:, None, None]
    return states_BLD.gather(1, index_B11.expand(-1, 1, states_BLD.shape[-1])).squeeze(1)


def _maximum(states_BLD: Tensor, mask_BL1: Tensor) -> Tensor:
    return states_BLD.masked_fill(mask_BL1 == 0, _PADDING_STATE).amax(1)


_POOLERS: dict[Pooling, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _first,
    "max": _maximum,
    "mean": _mean,
    "mean_sqrt_len": _mean_sqrt_length,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


# --- layers after the pooling --------------------------------------------------------------------


class Normalize(nn.Module):
    """The step `normalize`."""

    def forward(self, vectors_BV: Tensor) -> Tensor:
        """Divides each vector by its L2 norm."""
        return _normalized(vectors_BV)


def _normalized(vectors_BV: Tensor) -> Tensor:
    return F.normalize(vectors_BV, dim=-1, eps=_MIN_NORM)


def build_head(vector: SentenceVector, folder: Path) -> nn.Sequential:
    """Builds the layers after the pooling and loads their weights.

    Args:
        vector: Description of the layers.
        folder: Folder of modules.json, which their paths are relative to.
    Raises:
        ModelError: Weights are missing, have another shape, or cannot be read.
    """
    head = new_head(vector.steps)
    for step, layer in zip(vector.steps, step_layers(head), strict=True):
        if layer is not None:
            path = folder / step.folder / WEIGHTS_FILE
            _load_layer(layer, path, prefix=WEIGHT_PREFIXES[step.kind])
    return head


def new_head(steps: Sequence[Step]) -> nn.Sequential:
    """Builds the layers of steps with random weights."""
    layers: list[nn.Module] = []
    for step in steps:
        layers.append(Normalize() if step.kind == "normalize" else _layer(step))
        if step.kind == "dense":
            layers.append(_FUNCTIONS[step.activation]())
    return nn.Sequential(*layers)


def step_layers(head: nn.Module) -> list[nn.Module | None]:
    """Returns the layer with the weights of each step; None for a normalization."""
    layers: list[nn.Module | None] = []
    for layer in head.children():
        if isinstance(layer, Normalize):
            layers.append(None)
        # Activations belong to the dense layer before them.
        elif isinstance(layer, nn.Linear | nn.LayerNorm):
            layers.append(layer)
    return layers


def _layer(step: Step) -> nn.Module:
    if step.kind == "dense":
        return nn.Linear(step.inputs, step.outputs, bias=step.has_bias)
    return nn.LayerNorm(step.inputs)


def _load_layer(layer: nn.Module, path: Path, *, prefix: str) -> None:
    if not path.is_file():
        raise ModelError(
            f"{path} is missing: the weights of a module that modules.json lists",
            hint="copy or download the complete folder; weights in other formats are not read",
        )
    with library_errors(f"cannot read {path}"):
        stored = load_file(path)
    weights = {name.removeprefix(prefix): tensor.float() for name, tensor in stored.items()}
    expected = layer.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    expected_shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    if shapes != expected_shapes:
        raise ModelError(f"{path} has weights of the shapes {shapes}; expected {expected_shapes}")
    layer.load_state_dict(weights)


# --- loading -------------------------------------------------------------------------------------


def load_sentence_encoder(folder: Path, *, pooling: Pooling | None = None) -> SentenceEncoder:
    """Loads a model with the pooling and the layers that its folder describes, in eval mode.

    Args:
        folder: A sentence-transformers folder, or the folder of an encoder.
        pooling: How to pool if the folder does not say; None: by the mean.
    Raises:
        ModelError: The model, a module or its weights are missing, damaged or not supported.
    """
    source = read_model_folder(find_transformer(folder))
    hidden = int(source.config[source.family.keys.hidden])
    vector = read_sentence_vector(folder, hidden=hidden)
    if pooling is not None and vector.is_guess:
        vector = vector.with_pooling(pooling)
    loaded = load_weights(AutoModel, source, load_config(source))
    drop_missing_pooler(loaded)
    missing = [name for name in loaded.missing if "pooler." not in name]
    if missing:
        raise ModelError(f"the weights in {source.folder} lack {listed(missing)}")
    return SentenceEncoder(loaded.model, vector, build_head(vector, folder)).eval()
