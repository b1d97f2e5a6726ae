"""Plain paragraphs from a MediaWiki XML dump.

Templates, tables, references, links and headings are removed by regular expressions, innermost
first. That is enough for paragraphs of prose, and mwparserfromhell takes 20 times as long
(docs/decisions.md#regular-expressions-instead-of-mwparserfromhell). The text of the
`wikipedia-sample` asset, and with it every cached corpus that reads it, depends on each expression.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterator
from xml.etree import ElementTree

# Shorter lines are captions, list items and remains of tables.
_MIN_WORDS = 8
# Elements whose content is not prose.
_DROPPED_ELEMENTS = (
    "ref|math|gallery|table|timeline|code|source|syntaxhighlight|pre|nowiki|score|imagemap|hiero"
    "|div"
)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_EMPTY_ELEMENT = re.compile(rf"<(?:{_DROPPED_ELEMENTS})\b[^<>]*/>", re.IGNORECASE)
_ELEMENT = re.compile(rf"<({_DROPPED_ELEMENTS})\b[^<>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
# Templates, tables and links nest: each expression matches an innermost one only.
_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")
_TABLE = re.compile(r"\{\|(?:(?!\{\|).)*?\|\}", re.DOTALL)
_LINK = re.compile(r"\[\[([^\[\]]*)\]\]")
_WEB_LINK = re.compile(r"\[(?:https?:|ftp:)?//[^\s\]]+\s*([^\]]*)\]")
_QUOTES = re.compile(r"'{2,}")
_SPACES = re.compile(r"\s+")
# What remains of "(Greek: {{lang|…}}; )" and its like when the templates are gone.
_EMPTY_BRACKETS = re.compile(r"\(\s*[;,]*\s*\)")
# First characters of headings, list items, table rows, indented lines and unclosed templates.
_MARKUP_STARTS = frozenset("=|!*#;:{}")


def dump_paragraphs(xml: bytes) -> Iterator[str]:
    """Yields the paragraphs of a dump's articles: namespace 0, no redirects."""
    # The XML is the pinned package file, checked by sha256: no foreign XML is parsed.
    for _event, element in ElementTree.iterparse(io.BytesIO(xml)):  # noqa: S314
        if _local_name(element.tag) != "page":
            continue
        fields = {_local_name(child.tag): child.text or "" for child in element.iter()}
        if fields.get("ns") == "0" and "redirect" not in fields:
            yield from wikitext_paragraphs(fields.get("text", ""))
        element.clear()  # frees the page, or the complete dump would stay in memory


def wikitext_paragraphs(source: str) -> Iterator[str]:
    """Yields the prose of an article: lines of eight words without markup."""
    for line in _remove_markup(source).split("\n"):
        paragraph = _SPACES.sub(" ", _EMPTY_BRACKETS.sub("", line)).strip()
        if not _is_markup(paragraph) and len(paragraph.split()) >= _MIN_WORDS:
            yield paragraph


def _is_markup(line: str) -> bool:
    """Returns whether a line is a heading, list item or table row, or has an unclosed link.

    False for an empty line, which has too few words anyway.
    """
    return line[:1] in _MARKUP_STARTS or "[[" in line or "]]" in line


def _remove_markup(source: str) -> str:
    text = _COMMENT.sub("", source)
    # Elements without content first: `<ref name=a />` would open an element that ends much later.
    text = _ELEMENT.sub("", _EMPTY_ELEMENT.sub("", text))
    text = _substitute_nested(_TEMPLATE, text, "")
    text = _substitute_nested(_TABLE, text, "")
    text = _substitute_nested(_LINK, text, _link_text)
    text = _WEB_LINK.sub(r"\1", text)
    text = _QUOTES.sub("", _TAG.sub("", text))
    # Entities last: "&lt;" is text, not a tag.
    return html.unescape(text).replace("\xa0", " ")


def _substitute_nested(
    pattern: re.Pattern[str], text: str, replacement: str | Callable[[re.Match[str]], str]
) -> str:
    """Replaces innermost matches again and again, until there are no more."""
    count = 1
    while count:
        text, count = pattern.subn(replacement, text)
    return text


def _link_text(match: re.Match[str]) -> str:
    """Visible text of [[target|text]]; empty for a file, category or other language."""
    target, *labels = match.group(1).split("|")
    prefix, colon, rest = target.partition(":")
    # "File:a.png" and "fr:Page" are not shown; ":Category:Towns" is a visible link, and a space
    # next to the colon makes it part of a title ("Star Trek: First Contact").
    is_namespace = colon and prefix and not prefix.startswith(" ") and not rest.startswith(" ")
    if is_namespace:
        return ""
    return labels[-1] if labels else target.lstrip(":")


def _local_name(tag: str) -> str:
    """Name of an XML tag without its namespace."""
    return tag.rpartition("}")[2]
