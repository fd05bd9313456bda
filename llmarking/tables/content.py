"""What stands in a cell, as the text that is graded: HTML of editors, JSON of Open edX.

HTML is read here and not by Python's parser, which in versions we support takes minutes over a
megabyte of `<a <a <a` or `<!--<!--`; a student can write that.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator

_BLOCKS = frozenset("p div br li tr h1 h2 h3 h4 h5 h6 pre blockquote table ul ol".split())
_UNREAD = frozenset({"script", "style", "head", "title"})
# Nothing in a tag is gone through twice: each part ends where the next one can begin.
_TAG = re.compile(
    r"""<(?P<end>/?)(?P<name>[a-zA-Z][a-zA-Z0-9]{0,20})(?:[\s/](?:[^<>"']|"[^"<]*+"|'[^'<]*+')*+)?>"""
    r"""|<[!?][^<>]*+>"""
)
_LONG_NUMBER = re.compile(r"&#\d{8,}")  # html.unescape can't take thousands of digits


def ora2_text(raw: str) -> str:
    """The texts of an Open edX response, which is JSON with a part for every prompt."""
    try:
        data = json.loads(raw)
        if isinstance(data, dict) and "parts" in data:
            return "\n\n".join(str(part["text"]) for part in data["parts"])
        return str(data["text"]) if isinstance(data, dict) else raw
    except (ValueError, KeyError, TypeError, RecursionError):
        return raw


def html_text(markup: str) -> str:
    """HTML as an editor writes it, as text with line breaks; text without tags stays as it is."""
    if "<" not in markup and "&" not in markup:
        return markup
    text = "".join(_pieces(_without_comments(markup)))
    lines = (re.sub(r"[ \t\xa0]+", " ", line).strip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _pieces(markup: str) -> Iterator[str]:
    """The text between tags, and line breaks for those that break lines."""
    position, unread = 0, ""
    for tag in _TAG.finditer(markup):
        if not unread:
            yield _plain(markup[position : tag.start()])
        position = tag.end()
        name, closing = (tag["name"] or "").lower(), bool(tag["end"])
        if unread:
            unread = "" if closing and name == unread else unread
        elif name in _UNREAD:
            unread = "" if closing else name
        elif name in ("td", "th"):
            yield " "
        elif name == "li" and not closing:
            yield "\n- "
        elif name in _BLOCKS and not (closing and name in ("br", "li")):
            yield "\n"
    if not unread:
        yield _plain(markup[position:])


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(_LONG_NUMBER.sub("�", text)))


def _without_comments(markup: str) -> str:
    parts, position = [], 0
    while (start := markup.find("<!--", position)) >= 0:
        end = markup.find("-->", start + 4)
        if end < 0:
            break
        parts.append(markup[position:start])
        position = end + 3
    return "".join([*parts, markup[position:]])
