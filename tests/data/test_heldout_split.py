"""Which documents are held out depends on the documents alone."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistil.data.heldout_split import HeldoutSplit, document_hash

documents_of_any_kind = st.lists(st.text("abcdef ", min_size=1, max_size=4), max_size=60)


def split(documents: list[str], share: float = 0.3, most: int = 7) -> tuple[list[str], list[str]]:
    held = HeldoutSplit(share, most)
    training = [out for document in documents for out in held.add(document)]
    return training, held.documents()


def normal(documents: list[str]) -> set[int]:
    return {document_hash(document) for document in documents}


@settings(deadline=None)
@given(documents_of_any_kind)
def test_no_document_is_on_both_sides_and_none_is_lost(documents: list[str]) -> None:
    training, held = split(documents)
    assert not normal(training) & normal(held)
    assert normal(training) | normal(held) == normal(documents)
    assert len(held) == len(normal(held)) <= 7


@settings(deadline=None)
@given(documents_of_any_kind, st.randoms())
def test_the_order_does_not_matter(documents: list[str], chance: random.Random) -> None:
    shuffled = chance.sample(documents, len(documents))
    assert [document_hash(d) for d in split(documents)[1]] == [
        document_hash(d) for d in split(shuffled)[1]
    ]


def test_the_share_is_kept_and_then_the_cap() -> None:
    documents = [f"document {number}" for number in range(10_000)]
    training, held = split(documents, share=0.1, most=10_000)
    assert 900 < len(held) < 1100
    assert len(training) + len(held) == 10_000
    assert len(split(documents, share=0.1, most=37)[1]) == 37


def test_a_copy_in_other_case_and_spacing_does_not_stay_behind() -> None:
    training, held = split(
        ["The  Same text", "the same text ", "THE SAME\tTEXT"], share=0.999, most=3
    )
    assert (training, held) == ([], ["The  Same text"])


def test_held_out_documents_are_split_again_with_a_salt() -> None:
    documents = [f"document {number}" for number in range(2000)]
    _training, held = split(documents, share=0.1, most=2000)
    # Every one of them has a small hash, so the same split would hold all of them out again.
    assert split(held, share=0.1, most=2000)[0] == []
    again = HeldoutSplit(0.1, 2000, salt="again ")
    training = [out for document in held for out in again.add(document)]
    assert 0 < len(again.documents()) < 0.2 * len(held)
    assert len(training) + len(again.documents()) == len(held)
