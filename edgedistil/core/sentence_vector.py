"""How a model's token states become a sentence vector: pooling, layers after it, prompts.

One description serves distillation, the exported graph, the package's contract file, evaluation and
the runtime class, so none of them can pool in another way than the model does. It is read from a
sentence-transformers folder; the names and defaults are those of sentence-transformers 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from edgedistil.core.echo import echo
from edgedistil.core.errors import ModelError, StorageError
from edgedistil.core.rundir import read_json_object
from edgedistil.core.sentence_modules import SentenceModule, read_modules

# In this order the results of several modes are concatenated.
Pooling = Literal["cls", "max", "mean", "mean_sqrt_len", "weightedmean", "lasttoken"]
Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
StepKind = Literal["dense", "layer_norm", "normalize"]

# Pooling mode → words.
POOLING_WORDS: dict[Pooling, str] = {
    "mean": "mean of the attended positions",
    "cls": "first token",
    "max": "maximum over the attended positions",
    "lasttoken": "last attended token",
    "mean_sqrt_len": "sum of the attended positions over the root of their number",
    "weightedmean": "mean weighted by position",
}
# Pooling mode → its switch in files that every version of sentence-transformers reads.
POOLING_SWITCHES: dict[Pooling, str] = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
SETTINGS_FILE = "config_sentence_transformers.json"
# Prompts that sentence-transformers uses for the two sides of a search, in order of preference.
_QUERY_PROMPTS = ("query", "s2p_query")
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
# Module classes without effect when a model is used.
_NO_EFFECT = frozenset({"Transformer", "Dropout"})
_SUPPORTED = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")
_FUNCTIONS = {"Tanh": "tanh", "Identity": "identity", "ReLU": "relu", "GELU": "gelu"}
_RESAVE = "save the model with a current sentence-transformers, or download it again"


@dataclass(frozen=True)
class Step:
    """One layer after the pooling.

    Attributes:
        kind: A dense layer, a layer normalization, or division by the L2 norm.
        folder: Its folder below the model's, with the weights; empty for a normalization.
        inputs: Width of its input; 0 if it takes any.
        outputs: Width of its output; 0 if it is that of the input.
        has_bias: Whether a dense layer adds a bias.
        activation: Function after a dense layer: identity, tanh, relu or gelu.
    """

    kind: StepKind
    folder: str = ""
    inputs: int = 0
    outputs: int = 0
    has_bias: bool = False
    activation: str = "identity"


@dataclass(frozen=True, kw_only=True)
class SentenceVector:
    """How a model makes a sentence vector from the states of its last layer.

    Attributes:
        pooling: Modes whose results are concatenated, in this order.
        steps: Layers after the pooling, in order.
        dimension: Width of the vector.
        cut_from: Width before the vector is cut to its first `dimension` values and normalized
            again; None if it is not cut.
        prompts: Name of a prompt → text that is put before the user's.
        default_prompt: Name of the prompt that is used by default; None without one.
        similarity: How two vectors are compared.
        max_length: Tokens that a text is truncated to; None if the folder does not say.
        is_guess: Whether the folder does not say how the model pools.
    """

    pooling: tuple[Pooling, ...]
    steps: tuple[Step, ...]
    dimension: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: Similarity = "cosine"
    max_length: int | None = None
    is_guess: bool = False
    cut_from: int | None = None

    @property
    def is_normalized(self) -> bool:
        """Whether every vector has the length 1."""
        if self.cut_from is not None:
            return True
        return bool(self.steps) and self.steps[-1].kind == "normalize"

    def prompt(self, side: Literal["query", "document"]) -> str:
        """Returns the text that is put before a query or document; may be empty."""
        names = _QUERY_PROMPTS if side == "query" else _DOCUMENT_PROMPTS
        for name in names:
            if name in self.prompts:
                return self.prompts[name]
        return self.prompts.get(self.default_prompt or "", "")

    def with_pooling(self, mode: Pooling) -> SentenceVector:
        """Returns the description with another pooling mode, which is not a guess then."""
        return replace(self, pooling=(mode,), is_guess=False)

    def truncated(self, dimension: int) -> SentenceVector:
        """Returns the description of a vector that is cut to its first values and normalized.

        Raises:
            ModelError: The vector is shorter.
        """
        if not 1 <= dimension <= self.dimension:
            raise ModelError(
                f"a sentence vector of {self.dimension} values cannot be cut to {dimension}"
            )
        if dimension == self.dimension:
            return self
        return replace(self, dimension=dimension, cut_from=self.cut_from or self.dimension)

    def in_words(self) -> str:
        """Returns the steps in words, for cards and messages."""
        steps = [" and ".join(POOLING_WORDS[mode] for mode in self.pooling)]
        steps += [_step_in_words(step) for step in self.steps]
        if self.cut_from is not None:
            steps += [f"first {self.dimension} of {self.cut_from} values", "L2 normalization"]
        guess = " (a guess: the source does not say how it pools)" if self.is_guess else ""
        return " → ".join(steps) + guess


def _step_in_words(step: Step) -> str:
    if step.kind == "dense":
        return f"dense layer {step.inputs} to {step.outputs}, {step.activation}"
    return {"layer_norm": "layer normalization", "normalize": "L2 normalization"}[step.kind]


# --- reading -------------------------------------------------------------------------------------


def read_sentence_vector(folder: Path, *, hidden: int) -> SentenceVector:
    """Reads how the model in a folder makes sentence vectors.

    A folder without modules.json gets the mean of its states without normalization, and the result
    says that this is a guess.

    Args:
        folder: A sentence-transformers folder, or any model folder.
        hidden: Width of the states.
    Raises:
        ModelError: A module is not supported or does not fit its neighbours, or a file is corrupt.
    """
    modules = read_modules(folder)
    if not modules:
        return SentenceVector(pooling=("mean",), steps=(), dimension=hidden, is_guess=True)
    pooling: tuple[Pooling, ...] = ()
    width = hidden
    steps: list[Step] = []
    # Each module gets the width that the one before it leaves.
    for module in modules:
        _check_supported(module, folder)
        path = folder / module.path / "config.json"
        if module.class_name == "Pooling":
            pooling = _read_pooling(path, width)
            width *= len(pooling)
        elif module.class_name not in _NO_EFFECT:
            step = _STEP_READERS[module.class_name](module, path, width)
            width = step.outputs or width
            steps.append(step)
    if not pooling:
        raise ModelError(
            f"{folder / 'modules.json'} has no Pooling module: the model gives a vector for each "
            "token and none for a sentence"
        )
    # Prompts and similarity are next to the modules.
    settings = _read_settings(folder)
    return SentenceVector(
        pooling=pooling,
        steps=tuple(steps),
        dimension=width,
        prompts=settings.prompts,
        default_prompt=settings.default_prompt,
        similarity=settings.similarity,
        max_length=read_max_length(folder),
    )


def unsupported_part(folder: Path) -> str | None:
    """Returns the part of a sentence-transformers folder that only its own library can compute.

    Returns:
        None if every part is supported, or the folder has no modules.json.
    Raises:
        ModelError: modules.json or a module's settings are corrupt.
    """
    modules = read_modules(folder)
    for module in modules:
        if module.class_name not in _SUPPORTED:
            return f"the module {module.class_name}"
        if module.class_name == "Pooling":
            settings = read_module_settings(folder / module.path / "config.json")
            if settings.get("include_prompt", True) is not True:
                return "pooling without the prompt's tokens (include_prompt = false)"
    if modules and not any(module.class_name == "Pooling" for module in modules):
        return "a folder without a Pooling module"
    return None


def _check_supported(module: SentenceModule, folder: Path) -> None:
    if module.class_name not in _SUPPORTED:
        raise ModelError(
            f"{folder / 'modules.json'} has the module {echo(module.type)}, which is not "
            f"supported; supported: {', '.join(_SUPPORTED)}",
            hint="without the module the vectors would be others",
        )


def _read_pooling(path: Path, width: int) -> tuple[Pooling, ...]:
    config = read_module_settings(path)
    if config.get("include_prompt", True) is not True:
        raise ModelError(
            f"{path} has include_prompt = false: pooling without the prompt's tokens is not "
            "supported",
            hint="models with this setting (INSTRUCTOR) need their own package",
        )
    declared = config.get("word_embedding_dimension", config.get("embedding_dimension", width))
    if declared != width:
        raise ModelError(
            f"{path} pools vectors of {echo(declared)} values, and the model's have {width}",
            hint=_RESAVE,
        )
    # Older files have a switch for each mode, newer ones name the mode or modes.
    modes = {
        key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for key, value in config.items()
        if key.startswith("pooling_mode_") and value is True
    }
    named = config.get("pooling_mode")
    if named is not None:
        modes = {named} if isinstance(named, str) else set(map(str, named))
    known = get_args(Pooling)
    unknown = sorted(modes.difference(known))
    if unknown:
        raise ModelError(
            f"{path} has the pooling mode '{echo(unknown[0])}'; supported: {', '.join(known)}"
        )
    # sentence-transformers pools by the mean where a file names no mode.
    return tuple(mode for mode in known if mode in modes) or ("mean",)


def _read_dense(module: SentenceModule, path: Path, width: int) -> Step:
    config = read_module_settings(path)
    inputs, outputs = config.get("in_features"), config.get("out_features")
    if not isinstance(inputs, int) or not isinstance(outputs, int) or outputs < 1:
        raise ModelError(f"{path} lacks in_features or out_features", hint=_RESAVE)
    if inputs != width:
        raise ModelError(
            f"{path} takes vectors of {inputs} values, and the module before it gives {width}",
            hint=_RESAVE,
        )
    # A dotted name of a class of torch; sentence-transformers' default is Tanh.
    function = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if function not in _FUNCTIONS:
        raise ModelError(
            f"{path} has the activation '{echo(function)}'; supported: {', '.join(_FUNCTIONS)}"
        )
    return Step(
        "dense",
        module.path,
        inputs=inputs,
        outputs=outputs,
        has_bias=bool(config.get("bias", True)),
        activation=_FUNCTIONS[function],
    )


def _read_layer_norm(module: SentenceModule, path: Path, width: int) -> Step:
    declared = read_module_settings(path).get("dimension", width)
    if declared != width:
        raise ModelError(
            f"{path} normalizes vectors of {echo(declared)} values, and the module before it "
            f"gives {width}",
            hint=_RESAVE,
        )
    return Step("layer_norm", module.path, inputs=width, outputs=width)


def _read_normalize(module: SentenceModule, path: Path, width: int) -> Step:
    del module, path, width  # a normalization has neither weights nor settings
    return Step("normalize")


_STEP_READERS: dict[str, Callable[[SentenceModule, Path, int], Step]] = {
    "Dense": _read_dense,
    "LayerNorm": _read_layer_norm,
    "Normalize": _read_normalize,
}


# --- settings ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Settings:
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: Similarity = "cosine"


def _read_settings(folder: Path) -> _Settings:
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return _Settings()
    config = read_module_settings(path)
    prompts = config.get("prompts") or {}
    default = config.get("default_prompt_name")
    similarity: Any = config.get("similarity_fn_name") or "cosine"
    is_text = isinstance(prompts, dict) and all(isinstance(text, str) for text in prompts.values())
    if not is_text:
        raise ModelError(f"{path}: prompts is {echo(prompts)}; expected names with texts")
    if default is not None and default not in prompts:
        raise ModelError(
            f"{path}: default_prompt_name is {echo(default)}; "
            f"expected one of {echo(', '.join(prompts))}"
        )
    if similarity not in get_args(Similarity):
        raise ModelError(
            f"{path}: similarity_fn_name is {echo(similarity)}; "
            f"expected one of {', '.join(get_args(Similarity))}"
        )
    return _Settings(prompts, default, similarity)


def transformer_settings(folder: Path) -> list[Path]:
    """Returns the Transformer module's own files of a sentence-transformers folder."""
    modules = [module for module in read_modules(folder) if module.is_transformer]
    places = dict.fromkeys(folder / module.path for module in modules)
    return [path for place in places for path in sorted(place.glob("sentence_*_config.json"))]


def read_max_length(folder: Path) -> int | None:
    """Returns the tokens that a text is truncated to; None if the folder does not say.

    Raises:
        ModelError: A file is corrupt, or the length is not a number of tokens.
    """
    for path in transformer_settings(folder):
        length = read_module_settings(path).get("max_seq_length")
        if length is not None:
            return _checked_length(path, length)
    return None


def _checked_length(path: Path, length: object) -> int:
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise ModelError(f"{path}: max_seq_length is {echo(length)}; expected a number of tokens")
    return length


def read_module_settings(path: Path) -> dict[str, Any]:
    """Reads a JSON file of a module; raises ModelError if it is missing or corrupt."""
    try:
        return read_json_object(path, hint=_RESAVE)
    except StorageError as error:
        raise ModelError(error.message, hint=error.hint) from error
