"""Lists of phrases as patterns that find them fast, with blanks between the words or without.

A text is searched for a list only when it has a pair of words of one of the phrases.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from llmarking.screening.normalising import fold

# The units whose pairs decide whether a concept is looked for: words, and single Chinese signs.
_UNITS = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)
_NO_UNIT = re.compile(r"[\W_](?<!\s)")
# Arabic joins particles to the front of words, so its words are no units.
_ARABIC = re.compile("[\u0600-\u06ff]")
_ANY_ARABIC = "any Arabic"
_EDGED = re.compile(r"[a-z0-9\u0400-\u04ff]")


@dataclass(frozen=True, slots=True)
class Phrases:
    """Phrases as one pattern, and the keys of which a text must have one to be searched."""

    pattern: re.Pattern[str]
    keys: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Phrases:
        """Phrases separated by commas or line ends; `*` stands for any ending of a word."""
        parts = (part.strip() for part in re.split(r"[,\n]", text))
        return cls.of(filter(None, parts))

    @classmethod
    def of(cls, phrases: Iterable[str]) -> Phrases:
        """Compile phrases; the longest that fits is found."""
        folded = sorted(dict.fromkeys(map(fold, phrases)), key=len, reverse=True)
        # Grouped by their first letter, with one look behind for all words: many times faster.
        edged: dict[str, list[str]] = defaultdict(list)
        free: dict[str, list[str]] = defaultdict(list)
        for phrase in folded:
            (edged if _EDGED.match(phrase) else free)[phrase[0]].append(_phrase(phrase))
        pattern = "|".join(
            f"{edge}(?:{_either(groups)})"
            for edge, groups in ((r"(?<!\w)", edged), ("", free))
            if groups
        )
        return cls(re.compile(pattern), frozenset(map(_key, folded)))

    def places(self, folded: str) -> list[tuple[int, int]]:
        """Where the phrases stand in a folded text; worth looking for where it has a key."""
        return [match.span() for match in self.pattern.finditer(folded)]


def _key(phrase: str) -> str:
    """What a text with the phrase has among its keys: two words, one, its beginning or a sign."""
    if _ARABIC.search(phrase):
        return _ANY_ARABIC
    units: list[str] = _UNITS.findall(phrase)
    if not units:
        return phrase[0]
    if "*" not in phrase:
        return " ".join(units[:2])
    return "~" + units[0][:4] if "*" in phrase.split()[0] else units[0]


def keys_of(folded: str) -> set[str]:
    """The words of a text, their pairs and beginnings, and its signs."""
    units = _UNITS.findall(folded)
    keys = {f"{first} {second}" for first, second in pairwise(units)}
    distinct = set(units)
    keys |= distinct
    keys.update(["~" + unit[:size] for size in (2, 3, 4) for unit in distinct])
    keys.update(_NO_UNIT.findall(folded))
    if _ARABIC.search(folded):
        keys.add(_ANY_ARABIC)
    return keys


def _either(groups: Mapping[str, Iterable[str]]) -> str:
    return "|".join(f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in groups.items())


def _phrase(phrase: str) -> str:
    """The pattern of a phrase behind its first letter."""
    words = (re.escape(word).replace(r"\*", r"\w{0,12}") for word in phrase.split())
    body = r"[\s_-]{1,3}".join(words)
    body = body.removeprefix(re.escape(phrase[0]))
    # Chinese has no blanks and Arabic joins particles to words, so only alphabets have edges.
    return body + (r"(?!\w)" if re.search(r"[a-z0-9\u0400-\u04ff%+.*]\Z", phrase) else "")
