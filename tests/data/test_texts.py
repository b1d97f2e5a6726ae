"""Texts of documents: sentences, passages and pairs, and the file that lists them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgedistil.core.errors import CorpusError
from edgedistil.core.recipe import SourceSpec
from edgedistil.data.corpus import prepare_corpus
from edgedistil.data.sources import read_documents
from edgedistil.data.texts import Prompts, Text, cut_texts, read_texts
from tests.data.conftest import corpus_settings

TEXT = "One two three four five. Six seven eight nine? Ten eleven. " * 3


def cut(document: str, *, share: float, length: int = 20) -> list[Text]:
    return list(cut_texts(document, block_length=length, sentence_share=share))


def test_sentences_are_queries_without_fragments() -> None:
    texts = cut(TEXT, share=1.0)
    assert {text.text for text in texts} == {"One two three four five.", "Six seven eight nine?"}
    assert {text.side for text in texts} == {"query"}


def test_passages_are_documents_that_end_with_a_sentence() -> None:
    texts = cut(TEXT, share=0.0)
    assert [len(text.text.split()) for text in texts] == [11, 11, 11]
    assert all(text.text.endswith("Ten eleven.") for text in texts)
    assert {text.side for text in texts} == {"document"}


def test_a_sentence_longer_than_a_passage_is_cut() -> None:
    words = [f"word{number}" for number in range(31)]
    texts = cut(" ".join(words), share=1.0, length=20)
    assert " ".join(text.text for text in texts).split() == words[:28]  # the last 3 are a fragment
    assert max(len(text.text.split()) for text in texts) == 14


def test_a_pair_is_a_query_and_a_document() -> None:
    texts = cut("how many\x1eOne two three. Four.", share=1.0)
    assert texts == [Text("how many", "query"), Text("One two three. Four.", "document")]


def test_the_share_decides_by_document() -> None:
    documents = [f"number {n} is of four words. And so is {n}." for n in range(400)]
    cut_documents = [len(cut(document, share=0.3)) == 2 for document in documents]
    assert 0.22 < np.mean(cut_documents) < 0.38
    assert cut_documents == [len(cut(document, share=0.3)) == 2 for document in documents]


def write_pairs(path: Path, pairs: list[tuple[str, str]]) -> None:
    lines = [json.dumps({"question": query, "body": body}) for query, body in pairs]
    path.write_text("\n".join(lines) + "\n")


def test_pairs_are_read_from_two_columns(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", [("w001 w002", "w003 w004 w005"), ("", "alone")])
    spec = SourceSpec(files=str(tmp_path / "pairs.jsonl"), field="body", query_field="question")
    documents = list(read_documents(spec, on_bad_utf8="refuse"))
    assert documents == ["w001 w002\x1ew003 w004 w005"]


def test_pairs_need_columns(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("a line\n")
    spec = SourceSpec(files=str(tmp_path / "plain.txt"), query_field="question")
    with pytest.raises(CorpusError, match="has no columns"):
        list(read_documents(spec, on_bad_utf8="refuse"))
    with pytest.raises(ValueError, match="query_field belongs to files"):
        SourceSpec(asset="reviews", query_field="question")


def test_a_row_for_each_text_with_its_prompt(tmp_path: Path, tokenizer_folder: Path) -> None:
    pairs = [(f"w{n:03d} w001", f"w{n:03d} w002 w003 w004 w005") for n in range(60)]
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    spec = SourceSpec(files=str(tmp_path / "pairs.jsonl"), field="body", query_field="question")
    settings = corpus_settings([spec], layout="texts", block_length=8, heldout_share=0.2)
    prompts = Prompts(query="w090 ", document="w091 w092 ")
    corpus = prepare_corpus(settings, tokenizer_folder, cache=tmp_path / "cache", prompts=prompts)
    for part in ("train", "heldout"):
        store, texts = corpus.store(part), list(read_texts(corpus.texts(part)))
        assert len(store) == len(texts) > 5
        for row, text in enumerate(texts):
            prompt_words = 1 if text.side == "query" else 2
            words = prompt_words + len(text.text.split())
            assert len(store[row]) == min(8, words + 2)
    assert len(corpus.train) + len(corpus.heldout) == 120
    other = prepare_corpus(settings, tokenizer_folder, cache=tmp_path / "cache")
    assert other.record.cache_key != corpus.record.cache_key
