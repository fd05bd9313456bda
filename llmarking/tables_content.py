"""What stands in a cell, as the text that is graded: HTML of editors, JSON of Open edX."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

_BLOCKS = frozenset("p div br li tr h1 h2 h3 h4 h5 h6 pre blockquote table ul ol".split())
_UNREAD = frozenset({"script", "style", "head", "title"})


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
    reader = _Reader()
    reader.feed(markup)
    reader.close()
    lines = (re.sub(r"[ \t\xa0]+", " ", line).strip() for line in "".join(reader.parts).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unread = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._unread += tag in _UNREAD
        if tag == "li":
            self.parts.append("\n- ")
        elif tag in _BLOCKS:
            self.parts.append("\n")
        elif tag in ("td", "th"):
            self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNREAD:
            self._unread = max(0, self._unread - 1)
        elif tag in _BLOCKS and tag not in ("br", "li"):
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._unread:
            self.parts.append(re.sub(r"\s+", " ", data))
