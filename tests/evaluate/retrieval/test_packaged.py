"""The collections that are made from packages: real ones, with sound relevance."""

from __future__ import annotations

import pytest

from edgedistil.core.errors import TaskError
from edgedistil.evaluate.retrieval.packaged import load_packaged, packaged_names


@pytest.mark.parametrize(
    ("name", "documents", "queries"),
    [("verses", 7957, 1990), ("code", 1756, 1680), ("manual", 792, 747)],
)
def test_sizes_are_those_of_the_pinned_packages(name: str, documents: int, queries: int) -> None:
    collection = load_packaged(name)
    assert len(collection.documents) == documents
    assert len(collection.queries) == queries
    assert set(collection.relevance) == set(collection.queries)
    for grades in collection.relevance.values():
        assert grades and set(grades) <= set(collection.documents)


def test_a_verse_is_the_same_one_in_another_translation() -> None:
    collection = load_packaged("verses")
    verse = "43003016"  # John 3:16
    documents = collection.documents[verse]
    assert "for God did so love the world" in documents


def test_documents_do_not_contain_their_query() -> None:
    for name in ("code", "manual"):
        collection = load_packaged(name)
        for query, grades in collection.relevance.items():
            for document in grades:
                assert collection.queries[query] not in collection.documents[document]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(TaskError, match="did you mean 'verses'"):
        load_packaged("verse")
    assert packaged_names() == ["verses", "code", "manual"]
