"""Files of a tokenizer as transformers reads them, and the tokens that they name and add."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgedistil.core.echo import echo
from edgedistil.core.errors import ModelError, StorageError
from edgedistil.core.family import FAMILIES
from edgedistil.core.family_info import FamilyInfo
from edgedistil.core.rundir import read_json_object

# Side on which long texts are cut, or short ones padded.
Side = Literal["left", "right"]

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
# Everything that decides the ids; copied wherever a tokenizer goes along with a model.
TOKENIZER_FILES = (
    TOKENIZER_FILE,
    SETTINGS_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
)
_SETTINGS_ONLY = (SETTINGS_FILE, "special_tokens_map.json", "added_tokens.json", "merges.txt")
RESAVE_HINT = (
    "save it with transformers: AutoTokenizer.from_pretrained(SOURCE).save_pretrained(FOLDER)"
)
DAMAGED_HINT = "the file may be truncated: copy or download it again"
# In the order in which transformers adds them to a vocabulary that lacks them.
_SPECIAL_TOKENS = tuple(
    f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
# A class that every client reads tokenizer.json with, as it is.
GENERIC_CLASS = "PreTrainedTokenizerFast"
# A longer declared length means that there is no limit: transformers writes 10^30.
_LONGEST_DECLARED = 10**9
_EXTRA_KEYS = ("extra_special_tokens", "additional_special_tokens")


@dataclass(frozen=True)
class TokenizerFiles:
    """Parsed files of a tokenizer; empty where the folder has none.

    Attributes:
        folder: The folder.
        config: config.json of the model.
        settings: tokenizer_config.json.
        special_map: special_tokens_map.json.
        added: added_tokens.json.
        fast: tokenizer.json.
    """

    folder: Path
    config: dict[str, Any]
    settings: dict[str, Any]
    special_map: dict[str, Any]
    added: dict[str, Any]
    fast: dict[str, Any]

    @property
    def family(self) -> FamilyInfo | None:
        """Family of the folder's model; None if it is unknown."""
        return FAMILIES.get(str(self.config.get("model_type")))

    def size_of_model(self, name: str) -> int | None:
        """Returns a size, a field of `ConfigKeys`, of the model; None without a known model."""
        family = self.family
        if family is None:
            return None
        size = family.with_defaults(self.config).get(getattr(family.keys, name))
        # A value of another type is reported where the model is read.
        return size if isinstance(size, int) and size > 0 else None

    @property
    def positions(self) -> int | None:
        """Tokens of the longest text that the model has positions for; None if unknown."""
        family = self.family
        if family is None or self.size_of_model("positions") is None:
            return None
        # RoBERTa's first rows belong to the padding.
        if family.pad_counts_positions and type(self.config.get("pad_token_id", 0)) is not int:
            return None
        limit = family.positions_limit(self.config)
        return limit if limit > 0 else None


def read_files(folder: Path) -> TokenizerFiles:
    """Reads the files of a folder's tokenizer.

    Raises:
        ModelError: There is no tokenizer, or a file is not valid JSON of its kind.
    """
    vocabularies = [name for name in TOKENIZER_FILES if name not in _SETTINGS_ONLY]
    if not any((folder / name).is_file() for name in vocabularies):
        raise ModelError(
            f"{folder} has no tokenizer: expected {' or '.join(vocabularies)}", hint=RESAVE_HINT
        )
    fast = _read_object(folder / TOKENIZER_FILE)
    if (folder / TOKENIZER_FILE).is_file() and not isinstance(fast.get("model"), dict):
        raise ModelError(
            f"{folder / TOKENIZER_FILE} is not a tokenizer: it has no model", hint=RESAVE_HINT
        )
    return TokenizerFiles(
        folder=folder,
        config=_read_object(folder / "config.json"),
        settings=_read_object(folder / SETTINGS_FILE),
        special_map=_read_object(folder / "special_tokens_map.json"),
        added=_read_object(folder / "added_tokens.json"),
        fast=fast,
    )


def _read_object(path: Path) -> dict[str, Any]:
    """Reads a file with a JSON object; an empty object if there is no such file."""
    if not path.is_file():
        return {}
    try:
        return read_json_object(path, hint=DAMAGED_HINT)
    except StorageError as error:
        raise ModelError(error.message, hint=error.hint) from error


def max_length(files: TokenizerFiles) -> int | None:
    """Returns the declared length of the longest text; None if there is no limit."""
    length = files.settings.get("model_max_length", files.settings.get("max_len"))
    if length is None:
        return None
    if isinstance(length, bool) or not isinstance(length, int | float):
        raise ModelError(
            f"{files.folder / SETTINGS_FILE} has model_max_length = {length!r}; expected a number"
        )
    # NaN is not between the two either.
    return int(length) if 1 <= length < _LONGEST_DECLARED else None


def text_side(files: TokenizerFiles, key: str) -> Side:
    """Returns the side, right or left, on which texts are cut or padded."""
    # Truncation and padding in tokenizer.json have a side, too.
    part = files.fast.get(key.removesuffix("_side")) or {}
    baked_in = part.get("direction", "Right") if isinstance(part, dict) else "Right"
    side = files.settings.get(key, str(baked_in).lower())
    if side not in ("right", "left"):
        raise ModelError(
            f"{files.folder / SETTINGS_FILE} has {key} = {side!r}; expected right or left"
        )
    return "left" if side == "left" else "right"


def declared_inputs(files: TokenizerFiles) -> list[str] | None:
    """Returns the names of the arrays that the tokenizer declares to return; None without any."""
    names = files.settings.get("model_input_names")
    if names is not None and not isinstance(names, list):
        raise ModelError(
            f"{files.folder / SETTINGS_FILE} has model_input_names = {echo(names)}; "
            "expected a list of names"
        )
    return names


def class_name(files: TokenizerFiles) -> str | None:
    """Returns the name of transformers' class, without `Fast`; None if nothing declares one."""
    name = files.settings.get("tokenizer_class") or files.config.get("tokenizer_class")
    family = files.family
    # A family whose class takes tokenizer.json as it is has no other, whatever the files declare:
    # many models of ModernBERT's name a class that would give other ids.
    if family is not None and (name is None or family.default_tokenizer == GENERIC_CLASS):
        name = family.default_tokenizer
    if name is not None and not isinstance(name, str):
        raise ModelError(
            f"{files.folder / SETTINGS_FILE} has tokenizer_class = {name!r}; expected a name"
        )
    return name.removesuffix("Fast") if name else None


# --- special and added tokens --------------------------------------------------------------------


def named_tokens(files: TokenizerFiles, defaults: Mapping[str, str]) -> dict[str, Any]:
    """Returns the special tokens by name: strings, or tokens with flags."""
    declared = _declared_names(files)
    flags = {token.content: token for token in added_tokens(files)}
    named = {}
    for name in dict.fromkeys((*_SPECIAL_TOKENS, *declared)):
        value = declared.get(name, defaults.get(name))
        if value is None:
            continue
        token = _parse_token(value, files, name)
        # Defaults of a class are plain strings, whatever the files say about their flags.
        named[name] = flags.get(token_text(token), token) if name in declared else token
    return named


def declared_tokens(files: TokenizerFiles) -> list[str]:
    """Returns the special tokens that the files name, without those of a class's defaults."""
    values = {name: v for name, v in _declared_names(files).items() if v is not None}
    texts = [token_text(_parse_token(value, files, name)) for name, value in values.items()]
    return list(dict.fromkeys(texts))


def undeclared_names(files: TokenizerFiles, names: Iterable[str]) -> list[str]:
    """Returns the names that no file has, not even without a token."""
    declared = _declarations(files)
    return [name for name in names if name not in declared]


def extra_tokens(files: TokenizerFiles) -> list[Any]:
    """Returns the special tokens without a name of their own."""
    declared = _declarations(files)
    for key in _EXTRA_KEYS:
        values = declared.get(key)
        if isinstance(values, dict):
            values = list(values.values())
        if values:
            return [_parse_token(value, files, key) for value in values]
    return []


def declares_extra_tokens(files: TokenizerFiles) -> bool:
    """Whether the files say which special tokens without a name there are, or that none are."""
    return any(key in _declarations(files) for key in _EXTRA_KEYS)


def added_tokens(files: TokenizerFiles) -> list[Any]:
    """Returns the tokens that the files add to the vocabulary, by ascending id."""
    from tokenizers import AddedToken

    by_id: dict[int, Any] = {}
    if "added_tokens_decoder" in files.settings:
        for token_id, flags in files.settings["added_tokens_decoder"].items():
            by_id[int(token_id)] = AddedToken(**_without_type(flags))
        return [by_id[token_id] for token_id in sorted(by_id)]

    # Files of transformers 4: the added tokens have a file of their own, without flags.
    special = _special_texts(files)
    for content, token_id in files.added.items():
        is_special = content in special
        by_id[int(token_id)] = AddedToken(content, normalized=not is_special, special=is_special)
    for token in files.fast.get("added_tokens") or []:
        flags = {key: value for key, value in token.items() if key != "id"}
        by_id[int(token["id"])] = AddedToken(**flags)
    return [by_id[token_id] for token_id in sorted(by_id)]


def token_text(token: Any) -> str:
    """Returns the text of a token, which is a string or has flags."""
    return token if isinstance(token, str) else str(token.content)


def _declared_names(files: TokenizerFiles) -> dict[str, Any]:
    """Special tokens that the files name; a file may say that there is no such token (None)."""
    values = _declarations(files)
    # A model may have special tokens with names of its own.
    return {
        name: value
        for name, value in values.items()
        if name in _SPECIAL_TOKENS or (name.endswith("_token") and isinstance(value, str))
    }


def _declarations(files: TokenizerFiles) -> dict[str, Any]:
    """Settings, with the special tokens that transformers 4 has in a file of their own."""
    if "added_tokens_decoder" in files.settings:
        return files.settings
    return {**files.settings, **files.special_map}


def _special_texts(files: TokenizerFiles) -> set[str]:
    """Texts of the special tokens that the files declare."""
    texts = {token_text(token) for token in extra_tokens(files)}
    for name, value in _declared_names(files).items():
        if value is not None:
            texts.add(token_text(_parse_token(value, files, name)))
    return texts


def _parse_token(value: Any, files: TokenizerFiles, name: str) -> Any:
    """A token as transformers writes it: a string, or an object with its content and flags."""
    from tokenizers import AddedToken

    if isinstance(value, str):
        return value
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        return AddedToken(**{**_without_type(value), "special": True})
    raise ModelError(f"{files.folder} has {name} = {value!r} in its tokenizer; expected a token")


def _without_type(flags: Mapping[str, Any]) -> dict[str, Any]:
    # transformers marks its objects with the name of their class.
    return {key: value for key, value in flags.items() if key != "__type"}
