"""Reads what a model folder says about its model, and checks it before a library loads it.

transformers believes every word of a config.json, and fails in a hundred ways where one is wrong.
Here each key that decides a size, a type or a function is checked, and the sizes are compared with
the shapes in the headers of the weights. Nothing is loaded, and torch is not needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistil.core.echo import echo
from edgedistil.core.errors import ModelError, StorageError
from edgedistil.core.family import FAMILIES
from edgedistil.core.family_info import EMBEDDING_RANK, FamilyInfo
from edgedistil.core.other_models import CODE_HINT, own_code, what_it_is
from edgedistil.core.pruned_heads import pruned_heads_problems
from edgedistil.core.rundir import read_json_object
from edgedistil.core.weight_headers import DAMAGED_HINT, MERGE_HINT, Shape, read_shapes

# transformers' functions that are not supported, and why; a test compares with its list.
REFUSED_ACTIVATIONS = {"xielu": "no operator of ONNX is exact for its exp(x) - 1 near 0"}
ACTIVATIONS = frozenset(
    {
        "gelu",
        "gelu_10",
        "gelu_accurate",
        "gelu_fast",
        "gelu_new",
        "gelu_python",
        "gelu_python_tanh",
        "gelu_pytorch_tanh",
        "hardswish",
        "laplace",
        "leaky_relu",
        "linear",
        "mish",
        "prelu",
        "quick_gelu",
        "relu",
        "relu2",
        "relu6",
        "sigmoid",
        "silu",
        "sqrtsoftplus",
        "swish",
        "tanh",
    }
)
# Ways of computing rotary angles that give a place the same angles in every text.
ROTATIONS = ("default", "linear", "llama3", "yarn")
# Bounds of the sizes: ten times the largest encoder's, so that a wrong figure is found at once.
_LARGEST = {
    "layers": 1_000,
    "hidden": 65_536,
    "heads": 65_536,
    "intermediate": 1_000_000,
    "vocabulary": 10_000_000,
    "positions": 10_000_000,
    "segments": 1_000,
}
_PROBLEM_TYPES = (
    "regression",
    "single_label_classification",
    "multi_label_classification",
)
_DTYPES = ("float32", "float16", "bfloat16", "float64", "auto")
# Problems that a message lists.
_LISTED_PROBLEMS = 4


@dataclass(frozen=True)
class ModelFolder:
    """A model folder whose config.json and weights fit each other.

    Attributes:
        folder: The folder.
        config: config.json, with the sizes that it leaves out.
        family: Family of the model.
        shapes: Name of each stored weight → its shape.
    """

    folder: Path
    config: Mapping[str, Any]
    family: FamilyInfo
    shapes: Mapping[str, Shape]

    @property
    def architectures(self) -> list[str]:
        """Classes that config.json names."""
        return list(self.config.get("architectures") or [])


def read_model_folder(
    folder: Path, *, families: Sequence[str] = tuple(FAMILIES), subject: str = "the model"
) -> ModelFolder:
    """Reads and checks config.json and the headers of the weights.

    Args:
        folder: config.json and weights in safetensors.
        families: Families that are supported.
        subject: What the model is, in messages.
    Raises:
        ModelError: The folder has no model, one that is not supported, or one whose files are
            damaged or contradict each other.
    """
    config = _read_config(folder)
    family = _supported_family(config, families, f"{subject} in {folder}")
    config = family.with_defaults(config)
    problems = _config_problems(config, family)
    if problems:
        listed = "; ".join(problems[:_LISTED_PROBLEMS])
        if len(problems) > _LISTED_PROBLEMS:
            listed += f"; and {len(problems) - _LISTED_PROBLEMS} more"
        raise ModelError(f"{folder / 'config.json'}: {listed}")
    shapes = read_shapes(folder)
    _check_shapes(folder, config, family, shapes)
    return ModelFolder(folder, config, family, shapes)


# --- config.json ---------------------------------------------------------------------------------


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        raise ModelError(
            f"{folder} is not a model folder: it has no config.json", hint=_folder_hint(folder)
        )
    try:
        return read_json_object(path)
    except StorageError as error:
        raise ModelError(error.message, hint=DAMAGED_HINT) from error


def _folder_hint(folder: Path) -> str | None:
    """Names the subfolders that have a config.json, or what an adapter needs; None without."""
    if (folder / "adapter_config.json").exists():
        return MERGE_HINT
    names = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if not names:
        return None
    listed = ", ".join(echo(folder / name) for name in names[:_LISTED_PROBLEMS])
    return f"a subfolder has one: {listed}"


def _supported_family(
    config: Mapping[str, Any], families: Sequence[str], subject: str
) -> FamilyInfo:
    """Returns the family of a model; raises ModelError if it, or an option, is not supported."""
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(c, str) for c in architectures):
        raise ModelError(
            f"{subject} names the architectures {echo(architectures)}; expected names of classes"
        )
    model_type = config.get("model_type", "unknown")
    if not isinstance(model_type, str) or model_type not in families:
        named = ", ".join(architectures) or "no architecture"
        what, hint = what_it_is(config, architectures)
        raise ModelError(
            f"{subject} is {what} of type '{echo(model_type)}' ({named}); "
            f"supported: {', '.join(families)}",
            hint=hint,
        )
    family = FAMILIES[model_type]
    code = own_code(config)
    if code:
        raise ModelError(
            f"{subject} is a {model_type} with code of its own (auto_map: "
            f"{echo(', '.join(code))}), which may compute something else than transformers' class",
            hint=f"{CODE_HINT}; if the weights are those of transformers' class, remove auto_map "
            "from config.json",
        )
    problem = _unsupported_option(config, family)
    if problem is not None:
        raise ModelError(
            f"{subject} {problem}", hint="choose a checkpoint of the family without this setting"
        )
    return family


def _unsupported_option(config: Mapping[str, Any], family: FamilyInfo) -> str | None:
    """An option that computes something else than the supported families do; None without one."""
    if config.get("quantization_config") is not None:
        return "has quantized weights (quantization_config), which only their own library reads"
    if config.get("is_decoder") or config.get("is_encoder_decoder"):
        return "is a decoder; supported: an encoder"
    if config.get("add_cross_attention"):
        return "has cross-attention; supported: an encoder"
    positions = config.get("position_embedding_type") or "absolute"
    if positions != "absolute":
        # transformers 5 ignores the key, and would compute absolute positions.
        return (
            f"has position_embedding_type = '{echo(positions)}'; "
            "supported: absolute, as in transformers 5"
        )
    rotation = _unsupported_rotation(config) if family.positions == "rotary" else None
    if rotation is not None:
        return f"rotates positions in the way '{echo(rotation)}'; supported: {', '.join(ROTATIONS)}"
    for key, supported in family.options.items():
        value = config.get(key, supported[0])
        if value not in supported:
            listed = ", ".join(map(str, supported))
            return f"has {key} = {echo(value)}; supported in this family: {listed}"
    return None


def _unsupported_rotation(config: Mapping[str, Any]) -> Any:
    """A way of computing angles that is not supported; None without one."""
    for key in ("rope_parameters", "rope_scaling"):
        settings = config.get(key)
        if not isinstance(settings, dict):
            continue
        # One set of settings, or one for each kind of layer.
        kinds = [value for value in settings.values() if isinstance(value, dict)] or [settings]
        for kind in kinds:
            rotation = kind.get("rope_type", kind.get("type", "default"))
            if rotation not in ROTATIONS:
                return rotation
    return None


def _config_problems(config: Mapping[str, Any], family: FamilyInfo) -> list[str]:
    """What is wrong with the values of config.json, one sentence each."""
    keys = family.keys
    problems = []
    for field, largest in _LARGEST.items():
        key = getattr(keys, field)
        # DistilBERT has no segments.
        if key in config:
            # DeBERTa needs no vectors for segments.
            least = min(1, family.defaults.get(key, 1))
            is_right = _is_count(largest, least=least)
            problems += _value_problem(config, key, is_right, f"{least} to {largest:,}")
    for key, (is_right, expected) in _VALUES.items():
        if config.get(key) is not None:
            problems += _value_problem(config, key, is_right, expected)
    problems += _activation_problem(config, keys.activation)
    # Relations between values make sense only if each of them is right.
    return problems or _relation_problems(config, family)


def _relation_problems(config: Mapping[str, Any], family: FamilyInfo) -> list[str]:
    keys = family.keys
    problems = []
    hidden, heads = config[keys.hidden], config[keys.heads]
    if hidden % heads:
        problems.append(f"{keys.hidden} = {hidden} is not a multiple of {keys.heads} = {heads}")
    elif family.positions == "rotary" and (config.get("head_dim") or hidden // heads) % 2:
        problems.append(f"{hidden // heads} numbers of a head cannot be rotated in pairs")
    kv_heads = config.get("num_key_value_heads") or heads
    if not _is_integer(kv_heads) or kv_heads < 1 or heads % kv_heads:
        problems.append(f"num_key_value_heads = {echo(kv_heads)}; expected a divisor of {heads}")
    problems += pruned_heads_problems(config, family)
    problems += _rank_problem(config, family)
    pad_id, rows = config.get("pad_token_id"), config[keys.vocabulary]
    if pad_id is not None and not 0 <= pad_id < rows:
        problems.append(
            f"pad_token_id = {echo(pad_id)} is beyond the {rows:,} rows of {keys.vocabulary}"
        )
    if family.pad_counts_positions and pad_id is None:
        problems.append("pad_token_id is missing; expected an integer: positions count from it")
    elif family.positions_limit(config) < 1:
        problems.append(
            f"{keys.positions} = {config[keys.positions]} leaves no position behind the "
            f"{family.first_position(config)} of the padding"
        )
    return problems


def _rank_problem(config: Mapping[str, Any], family: FamilyInfo) -> list[str]:
    if config.get(EMBEDDING_RANK) is None:
        return []
    if family.mixes_neighbours or family.embedding(config) != family.hidden(config):
        return [
            f"{EMBEDDING_RANK} is set; a {family.model_type} has its own {family.keys.embedding}"
        ]
    hidden = family.hidden(config)
    return _value_problem(config, EMBEDDING_RANK, _is_count(hidden), f"1 to {hidden:,}")


def _activation_problem(config: Mapping[str, Any], key: str) -> list[str]:
    supported = f"one of {', '.join(sorted(ACTIVATIONS))}"
    value = config.get(key)
    if isinstance(value, str) and value in REFUSED_ACTIVATIONS:
        return [f"{key} = '{value}' is not supported, as {REFUSED_ACTIVATIONS[value]}: {supported}"]
    return _value_problem(config, key, _is_activation, supported)


def _value_problem(
    config: Mapping[str, Any], key: str, is_right: Callable[[Any], bool], expected: str
) -> list[str]:
    value = config.get(key)
    if is_right(value):
        return []
    shown = f"'{echo(value)}'" if isinstance(value, str) else echo(value)
    return [f"{key} = {shown}; expected {expected}"]


def _is_count(largest: int, *, least: int = 1) -> Callable[[Any], bool]:
    return lambda value: _is_integer(value) and least <= value <= largest


def _is_integer(value: Any) -> bool:
    # True is an int for Python.
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_activation(value: Any) -> bool:
    return isinstance(value, str) and value in ACTIVATIONS


def _one_of(values: Sequence[str]) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: isinstance(value, str) and value in values), f"one of {', '.join(values)}"


# Optional keys: how a right value is recognised, and what a message says that it should be.
_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "pad_token_id": (_is_integer, "an integer"),
    "layer_norm_eps": (lambda value: _is_share(value) and value > 0, "a number above 0, up to 1"),
    "initializer_range": (lambda value: _is_number(value) and 0 <= value <= 100, "0 to 100"),
    "hidden_dropout_prob": (_is_share, "0 to 1"),
    "attention_probs_dropout_prob": (_is_share, "0 to 1"),
    "classifier_dropout": (_is_share, "0 to 1"),
    "dropout": (_is_share, "0 to 1"),
    "attention_dropout": (_is_share, "0 to 1"),
    "qa_dropout": (_is_share, "0 to 1"),
    "seq_classif_dropout": (_is_share, "0 to 1"),
    "tie_word_embeddings": (_is_bool, "true or false"),
    "sinusoidal_pos_embds": (_is_bool, "true or false"),
    "chunk_size_feed_forward": (_is_integer, "an integer"),
    "num_labels": (_is_count(1_000_000), "1 to 1,000,000"),
    "num_hidden_groups": (_is_count(1_000), "1 to 1,000"),
    "id2label": (_is_object, "an object"),
    "label2id": (_is_object, "an object"),
    "problem_type": _one_of(_PROBLEM_TYPES),
    "dtype": _one_of(_DTYPES),
    "torch_dtype": _one_of(_DTYPES),
}


# --- config.json against weights -----------------------------------------------------------------


def _check_shapes(
    folder: Path, config: Mapping[str, Any], family: FamilyInfo, shapes: Mapping[str, Shape]
) -> None:
    """Raises ModelError if a weight has another shape than config.json says.

    Only weights whose shape the family's row says; the others are compared when they are loaded.
    """
    expected = _expected_shapes(config, family)
    for name, shape in shapes.items():
        for ending, expected_shape in expected.items():
            if name.endswith(ending) and shape != expected_shape:
                raise shape_mismatch(folder, name, stored=shape, expected=expected_shape)

    # Layers that share their weights are stored once for each group.
    key, layers = family.keys.layers, family.names.layers
    if family.shares_layers:
        key, layers = "num_hidden_groups", layers.split(".0.")[0]
    numbered = re.compile(re.escape(layers) + r"\.(\d+)\.")
    stored = {int(match[1]) + 1 for match in map(numbered.search, shapes) if match is not None}
    # With fewer, transformers would leave the last ones out without a word.
    if stored and config[key] != max(stored):
        raise ModelError(
            f"{folder / 'config.json'}: {key} = {config[key]:,}, and the weights have "
            f"{max(stored)} layers",
            hint="take config.json and weights from the same model",
        )


def _expected_shapes(config: Mapping[str, Any], family: FamilyInfo) -> dict[str, Shape]:
    """Returns the shapes of a family's weights by the end of their names."""
    names, width = family.names, family.position_width(config)
    hidden, intermediate = family.hidden(config), config[family.keys.intermediate]
    expected: dict[str, Shape] = {
        f"{names.word_embedding}.weight": (family.vocabulary(config), family.word_width(config))
    }
    if names.position_embedding is not None:
        expected[f"{names.position_embedding}.weight"] = (config[family.keys.positions], width)
    if family.token_types:
        expected[f"{names.segment_embedding}.weight"] = (family.segments(config), width)
    if names.query is not None:
        expected[f"{names.layers}.0.{names.query}.weight"] = (
            family.heads(config) * family.head_width(config),
            hidden,
        )
    if names.up is not None:
        expected[f"{names.layers}.0.{names.up}.weight"] = (intermediate, hidden)
    return expected


def shape_mismatch(
    folder: Path, name: str, *, stored: Sequence[int], expected: Sequence[int]
) -> ModelError:
    """Returns the error for a weight whose shape is not the one that config.json asks for."""
    return ModelError(
        f"the weight '{name}' in {folder} has the shape {tuple(stored)}; "
        f"config.json asks for {tuple(expected)}",
        hint="take config.json and weights from the same model",
    )
