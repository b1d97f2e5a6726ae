"""Text in Markdown shows as it is, as a parser of Markdown reads it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from edgedistil.core.markdown import (
    Markup,
    bold,
    code,
    code_block,
    escaped,
    italic,
    paragraph,
    quoted,
    table,
)

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[a](javascript:alert(1))",
    "![a](http://x/y.png)",
    "<http://x>",
    "[a]: http://x",
    "# heading",
    "- item",
    "+ item",
    "* item",
    "1. item",
    "12) item",
    "> quotation",
    "---",
    "===",
    "    code",
    "`code`",
    "``a` b",
    "```",
    "~~~",
    "**bold** *it* __bold__ _it_ ~~gone~~",
    "a | b",
    "|---|",
    r"a\| b",
    "\\",
    "&lt;b&gt; &#60;",
    "line\n\n# heading\n<b>",
    "$x$",
    "",
)


def parsed(text: str) -> list[Token]:
    """All tokens, those inside of paragraphs included."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens: list[Token] = []
    for token in parser.parse(text):
        tokens += [token, *(token.children or [])]
    return tokens


def shown(tokens: list[Token]) -> str:
    """The text that a reader sees."""
    return "".join(token.content for token in tokens if token.type in ("text", "code_inline"))


def kinds(tokens: list[Token]) -> set[str]:
    return {token.type for token in tokens}


PLAIN = {"paragraph_open", "paragraph_close", "inline", "text"}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_paragraph_is_text(text: str) -> None:
    tokens = parsed(paragraph(text))
    assert kinds(tokens) <= PLAIN
    assert shown(tokens) == text.strip().replace("\n", " ")


@pytest.mark.parametrize("text", HOSTILE)
def test_text_in_a_heading_is_text(text: str) -> None:
    tokens = parsed(f"# a {escaped(text)} b")
    assert kinds(tokens) == {"heading_open", "heading_close", "inline", "text"}
    assert shown(tokens) == " ".join(f"a {text} b".split("\n"))


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(("form", "kind"), [(bold, "strong_open"), (italic, "em_open")])
def test_emphasised_text_is_text(text: str, form: Callable[[str], str], kind: str) -> None:
    tokens = parsed(f"a {form(text)}")
    if text:
        assert kinds(tokens) == PLAIN | {kind, kind.replace("open", "close")}
        assert shown(tokens) == "a " + text.strip().replace("\n", " ")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_is_one_cell(text: str) -> None:
    tokens = parsed(table(["x", text], [[text, "y"], [Markup("**z**"), code(text)]]))
    cells = [token for token in tokens if token.type in ("td_open", "th_open")]
    assert len(cells) == 6
    assert kinds(tokens) & {"html_block", "html_inline", "link_open", "image", "em_open"} == set()
    assert [token.type for token in tokens].count("strong_open") == 1


@pytest.mark.parametrize("text", HOSTILE)
def test_code_is_text(text: str) -> None:
    tokens = parsed(f"a {code(text)}")
    line = text.replace("\n", " ").replace("|", "\\|")
    assert kinds(tokens) <= PLAIN | {"code_inline"}
    assert shown(tokens).strip() in (f"a {line}".strip(), f"a {line.strip()}")
    block = parsed(code_block(text, "js") + "\n\nlast")
    assert [token.type for token in block][:2] == ["fence", "paragraph_open"]
    assert block[0].content == text + "\n"


def test_the_usual_text_is_not_changed() -> None:
    texts = ("student-step0", "max_abs", "3.2 million tokens", "97% (95–99)", "-0.5", "#5", "≥ 3")
    for text in texts:
        assert paragraph(text) == text


def test_markup_is_used_as_it_is() -> None:
    assert escaped(Markup("**a**")) == "**a**"
    assert table(["a"], [[bold("*b*")]]) == "| a |\n|---|\n| **\\*b\\*** |"


def test_no_tag_and_no_link_is_left_in_the_source() -> None:
    text = escaped("<script>x</script> [a](javascript:b)")
    assert "<" not in text
    assert "](" not in text


def test_control_characters_are_replaced() -> None:
    assert escaped("a\x1b[0m\x00") == "a?\\[0m?"
    assert code_block("a\x1b") == "```\na?\n```"


@pytest.mark.parametrize("text", ["plain", "it's", "a\\b", "\\'", "x\ny"])
def test_a_quoted_text_is_a_literal(text: str) -> None:
    assert eval(quoted(text), {}) == text.replace("\n", " ")
