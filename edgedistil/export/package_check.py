"""Comparison of a package's files with the model they were made from.

A graph can be right and its package wrong: a tokenizer that splits other words, labels in another
order, a head that is read as another problem type. Clients read only these files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edgedistil.core.contract import CONTRACT_FILE, read_contract
from edgedistil.core.echo import echo
from edgedistil.core.errors import ParityError
from edgedistil.core.family import FAMILIES
from edgedistil.core.sentence_vector import read_sentence_vector
from edgedistil.core.session import SESSION_FILE, read_session_file
from edgedistil.core.task import label_names, problem_type_of
from edgedistil.core.tokenizer import TextTokenizer, read_tokenizer
from edgedistil.core.tokenizer_files import SETTINGS_FILE
from edgedistil.export.contract import read_tensors, tokenizer_contract

# Besides the user's text: what normalizers, splitters and special tokens treat in their own ways.
HARD_TEXTS = (
    "",
    " ",
    "Naïve CAFÉ — déjà-vu, ﬁne print; İstanbul ẞ",
    "don't  stop\tnow\nplease… 'quoted' \"twice\"",
    "3.14159 1,000,000 x² 50% $5 #tag @name a_b-c/d",
    "東京 北京市 ひらがな カタカナ 한국어 ไทย العربية עברית हिन्दी",
    "🙂 👩‍💻 e\u0301 \u200b\u00a0\ufeff\x07",
    "[MASK] [CLS] <mask> </s> [UNK]",
    "antidisestablishmentarianism" * 3,
)
# More of the user's lines find nothing new and cost time.
TEXTS = 500
# In capitals, which a lower-case tokenizer must not read as other words.
UPPER_TEXTS = 50
# Keys that a package has its own value of.
_OWN_KEYS = frozenset({"_name_or_path", "architectures", "transformers.js_config"})


def check_package(folder: Path, source_folder: Path, text: Sequence[str]) -> None:
    """Compares a package's tokenizer, config and session options with its source.

    Args:
        folder: The package.
        source_folder: config.json and tokenizer of the model.
        text: Lines that the tokenizers encode, besides `HARD_TEXTS`.
    Raises:
        ParityError: A file of the package says something else than the source.
    """
    problems = [
        *_compare_configs(_read_json(folder), _read_json(source_folder)),
        *_compare_tokenizers(folder, read_tokenizer(source_folder), text),
        *_check_session(folder),
        *_check_contract(folder, source_folder),
    ]
    if problems:
        raise ParityError(f"the package does not match its model: {'; '.join(problems)}")


def _read_json(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return content


def _compare_configs(config: Mapping[str, Any], source: Mapping[str, Any]) -> list[str]:
    """Compares every key, among them id2label, label2id and problem_type."""
    problems = []
    for key in sorted((config.keys() | source.keys()) - _OWN_KEYS):
        got, expected = config.get(key), source.get(key)
        if got != expected:
            problems.append(
                f"config.json has {echo(key)} = {echo(str(got))}, expected {echo(str(expected))}"
            )
    return problems


def _compare_tokenizers(folder: Path, source: TextTokenizer, text: Sequence[str]) -> list[str]:
    """Compares ids and token types of single texts and of pairs, then the vocabularies."""
    packaged = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # What clients set by tokenizer_config.json; the source's ids are compared uncut.
    packaged.no_truncation()
    packaged.no_padding()
    texts = [*HARD_TEXTS, *text[:TEXTS], *(line.upper() for line in text[:UPPER_TEXTS])]
    encodings = packaged.encode_batch(texts)
    expected_ids = source.encode_texts(texts)
    for line, encoding, ids in zip(texts, encodings, expected_ids, strict=True):
        if (list(encoding.ids), list(encoding.type_ids)) != _framed(source, ids):
            return [f"tokenizer.json gives other ids than the model's tokenizer for {echo(line)!r}"]
    pairs: list[Any] = list(zip(texts[::2], texts[1::2], strict=False))
    pair_ids = zip(expected_ids[::2], expected_ids[1::2], strict=False)
    for pair, two_ids, encoding in zip(pairs, pair_ids, packaged.encode_batch(pairs), strict=True):
        if (list(encoding.ids), list(encoding.type_ids)) != _framed(source, *two_ids):
            return [f"tokenizer.json gives other ids for a pair that starts with {echo(pair[0])!r}"]
    return _compare_vocabularies(packaged, source.backend)


def _compare_vocabularies(packaged: Tokenizer, source: Tokenizer) -> list[str]:
    """Compares the ids of all tokens, most of which no text of the check has."""
    own, other = packaged.get_vocab(), source.get_vocab()
    differing = sorted(token for token in {*own, *other} if own.get(token) != other.get(token))
    if not differing:
        return []
    return [
        f"tokenizer.json has other ids than the model's tokenizer for {len(differing):,} tokens, "
        f"such as {echo(differing[0])!r}"
    ]


def _framed(source: TextTokenizer, *texts: list[int]) -> tuple[list[int], list[int]]:
    ids, types = source.frame(*texts)
    return list(ids), list(types)


def _check_session(folder: Path) -> list[str]:
    """Checks that session.json has options for every graph, and for no other."""
    graphs = {str(path.relative_to(folder)) for path in (folder / "onnx").glob("*.onnx")}
    advised = set(read_session_file(folder / SESSION_FILE))
    if advised == graphs:
        return []
    return [f"{SESSION_FILE} is about {sorted(advised)}, expected {sorted(graphs)}"]


def _check_contract(folder: Path, source_folder: Path) -> list[str]:
    """Compares the contract with graphs and modules of the package, and with the source's files."""
    contract, config = read_contract(folder), _read_json(source_folder)
    settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    tokenizer = tokenizer_contract(read_tokenizer(source_folder), settings["model_max_length"])
    # Roles that only the source's reader finds are not in the package's files.
    tokenizer = replace(tokenizer, special_tokens=contract.tokenizer.special_tokens)
    inputs, outputs = read_tensors(folder, contract.task)
    labels = label_names(config) if contract.labels else []
    vector = contract.sentence_vector
    if vector is not None:
        hidden = FAMILIES[config["model_type"]].hidden(config)
        packaged = read_sentence_vector(folder, hidden=hidden)
        if vector.cut_from is not None:
            # The package's modules cut with a dense layer and a normalization.
            steps = packaged.steps[:-2]
            packaged = replace(packaged, steps=steps, cut_from=packaged.steps[-2].inputs)
        vector = replace(packaged, max_length=None, is_guess=vector.is_guess)
    expected = {
        "inputs": inputs,
        "outputs": outputs,
        "tokenizer": tokenizer,
        "labels": labels,
        "problem_type": problem_type_of(contract.task, config.get("problem_type"), len(labels)),
        "sentence_vector": vector,
    }
    return [
        f"{CONTRACT_FILE} has another value of {key} than the files that it describes"
        for key, value in expected.items()
        if getattr(contract, key) != value
    ]
