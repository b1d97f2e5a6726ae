"""What a reader of an article sees stays; what its writers put around it goes."""

from __future__ import annotations

import pytest

from edgedistil.data.wikitext import dump_paragraphs, wikitext_paragraphs

TAIL = " and some more words follow so that it counts."


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("'''Anarchism''' is a ''political'' idea", "Anarchism is a political idea"),
        ("a [[stateless society|stateless societies]] here", "a stateless societies here"),
        ("[[Paris]] is a city", "Paris is a city"),
        ("[[:Category:Towns|towns]] exist", "towns exist"),
        ("before [[File:a.png|thumb|A [[red]] cat]]after", "before after"),
        ("see [http://example.org/x the page] there", "see the page there"),
        ('stated<ref name="a">Book, p. 3</ref> twice<ref name=a /> over', "stated twice over"),
        ("one {{lang|fr|{{small|deux}}}}three", "one three"),
        ("a <!-- hidden\nlines -->b", "a b"),
        ("x<sup>2</sup> is <b>bold</b>", "x2 is bold"),
        ("fish &amp; chips&nbsp;are", "fish & chips are"),
        ("Plato ({{lang-grc|x}}; ) wrote", "Plato wrote"),
        ("over {| class=x\n| cell {| inner |} |}done", "over done"),
    ],
)
def test_markup_is_taken_off(source: str, shown: str) -> None:
    assert list(wikitext_paragraphs(source + TAIL)) == [shown + TAIL]


@pytest.mark.parametrize(
    "start", ["== ", "* ", "# ", "| ", "! ", ": ", "; ", "[[File:never closed|"]
)
def test_lines_that_are_no_prose_are_left_out(start: str) -> None:
    assert list(wikitext_paragraphs(f"{start}one two three four five six seven eight nine")) == []


def test_short_lines_are_left_out() -> None:
    assert list(wikitext_paragraphs("one two three four five six seven")) == []


def test_only_articles_are_read() -> None:
    def page(ns: int, text: str, extra: str = "") -> str:
        return f"<page><ns>{ns}</ns>{extra}<revision><text>{text}{TAIL}</text></revision></page>"

    pages = (
        page(0, "first")
        + page(1, "talk")
        + page(0, "moved", "<redirect title='x'/>")
        + page(0, "second")
    )
    dump = f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{pages}</mediawiki>'
    assert list(dump_paragraphs(dump.encode())) == [f"first{TAIL}", f"second{TAIL}"]
