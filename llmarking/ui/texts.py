"""What the teacher's pages say, in English and Chinese.

Labels go through gradio's translation in the browser; sentences with numbers are made here, in the
language that the browser asks for.
"""

from __future__ import annotations

import re
import string
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from llmarking.sentences import counted

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")

# In the browser gradio translates whatever is called like a key of ours, so keys there begin as no
# column of a class does: a header `answer` has to stay what it is.
PREFIX = "llmarking:"

TEXTS: Mapping[str, Mapping[Language, str]] = tomllib.loads(
    (Path(__file__).parent / "texts.toml").read_text(encoding="utf-8")
)


class _Places(string.Formatter):
    """As `str.format`, and a place like `{count:word|words}` is the number and one of the two."""

    def format_field(self, value: Any, spec: str) -> str:
        one, bar, several = spec.partition("|")
        return counted(value, one, several) if bar else str(super().format_field(value, spec))


def say(language: Language, key: str, **values: object) -> str:
    """The sentence of that name, its places filled in."""
    return _Places().format(TEXTS[key][language], **values)


def language_of(accepted: str | None) -> Language:
    """The language that an Accept-Language header asks for first, of those we have."""
    weights: dict[Language, float] = {}
    for part in (accepted or "").split(","):
        tag, _, rest = part.strip().partition(";")
        weight = re.fullmatch(r"\s*q=([01](?:\.\d{1,3})?)\s*", rest)
        for ours in LANGUAGES:
            if tag.lower().split("-")[0] == ours:
                weights.setdefault(ours, float(weight[1]) if weight else 1.0)
    return max(weights, key=lambda ours: weights[ours], default="en")


def translations() -> dict[str, dict[str, str]]:
    """All texts by language tag, as gradio's translation takes them."""
    chinese = {f"{PREFIX}{key}": texts["zh"] for key, texts in TEXTS.items()}
    english = {f"{PREFIX}{key}": texts["en"] for key, texts in TEXTS.items()}
    return {"en": english, "zh": chinese, "zh-CN": chinese, "zh-TW": chinese}


def duration(seconds: float, language: Language) -> str:
    """A rough time for people."""
    if seconds < 90:
        return say(language, "seconds", n=max(1, round(seconds)))
    if seconds < 5400:
        return say(language, "minutes", n=round(seconds / 60))
    return say(language, "hours", n=f"{seconds / 3600:.1f}")
