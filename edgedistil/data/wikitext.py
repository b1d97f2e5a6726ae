"""Plain paragraphs out of a MediaWiki XML dump: templates, tables, references, links and headings are taken off."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from xml.etree import ElementTree

_LEAST_WORDS = 8  # shorter lines are captions, list items and leftovers of tables
_DROPPED_ELEMENTS = "ref|math|gallery|table|timeline|code|source|syntaxhighlight|pre|nowiki|score|imagemap|hiero|div"
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_EMPTY_ELEMENT = re.compile(rf"<(?:{_DROPPED_ELEMENTS})\b[^<>]*/>", re.IGNORECASE)
_ELEMENT = re.compile(rf"<({_DROPPED_ELEMENTS})\b[^<>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")
_TABLE = re.compile(r"\{\|(?:(?!\{\|).)*?\|\}", re.DOTALL)
_LINK = re.compile(r"\[\[([^\[\]]*)\]\]")
_WEB_LINK = re.compile(r"\[(?:https?:|ftp:)?//[^\s\]]+\s*([^\]]*)\]")
_QUOTES = re.compile(r"'{2,}")
_SPACES = re.compile(r"\s+")
_EMPTY_BRACKETS = re.compile(r"\(\s*[;,]*\s*\)")


def dump_paragraphs(xml: bytes) -> Iterator[str]:
    """The paragraphs of the articles of a dump (namespace 0, no redirects), in its order."""
    for _event, element in ElementTree.iterparse(io.BytesIO(xml)):  # noqa: S314 - the pinned file, checked by sha256
        if _local(element.tag) != "page":
            continue
        fields = {_local(child.tag): child.text or "" for child in element.iter()}
        if fields.get("ns") == "0" and "redirect" not in fields:
            yield from wikitext_paragraphs(fields.get("text", ""))
        element.clear()


def wikitext_paragraphs(source: str) -> Iterator[str]:
    """The prose of one article: lines of at least eight words that are neither heading nor list item."""
    for line in _without_markup(source).split("\n"):
        paragraph = _SPACES.sub(" ", _EMPTY_BRACKETS.sub("", line)).strip()
        if not _is_markup(paragraph) and len(paragraph.split()) >= _LEAST_WORDS:
            yield paragraph


def _is_markup(line: str) -> bool:
    """Headings, list items, rows of tables, and links that were never closed."""
    return line[:1] in set("=|!*#;:{}") or "[[" in line or "]]" in line


def _without_markup(source: str) -> str:
    text = _COMMENT.sub("", source)
    text = _ELEMENT.sub("", _EMPTY_ELEMENT.sub("", text))
    text = _until_stable(_TEMPLATE, text, "")
    text = _until_stable(_TABLE, text, "")
    text = _until_stable(_LINK, text, _link_text)
    text = _WEB_LINK.sub(r"\1", text)
    text = _QUOTES.sub("", _TAG.sub("", text))
    return html.unescape(text).replace("\xa0", " ")


def _until_stable(pattern: re.Pattern[str], text: str, replacement: object) -> str:
    """Innermost first, until nothing is left: templates, tables and links nest."""
    count = 1
    while count:
        text, count = pattern.subn(replacement, text)  # type: ignore[call-overload]
    return text


def _link_text(match: re.Match[str]) -> str:
    """What a reader sees of [[target|shown]]; nothing of a file, a category or another language."""
    target, *shown = match.group(1).split("|")
    prefix, colon, _rest = target.partition(":")
    if (
        colon
        and prefix
        and not target.startswith(":")
        and not prefix.startswith(" ")
        and not _rest.startswith(" ")
    ):
        return ""
    return shown[-1] if shown else target.lstrip(":")


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
