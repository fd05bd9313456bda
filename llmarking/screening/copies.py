"""Whether an answer is copied from its question or from the reference."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache

from llmarking.domain import Flag, Question
from llmarking.screening.normalising import fold

_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
_NEW, _COVERED = 0.25, 0.5
_FUNCTION = frozenset(
    (
        "the and for are was were has have had that this these those with from into onto than "
        "then there what why how does which who when where can could will would should must may "
        "might not but also too very just only other another one two three them they their its "
        "his her your you explain describe state name give list compare say tell what's it's "
        "that's because since way ways thing things some any all each both between whereas "
        "while namely many more most respect respects reason reasons answer question happen "
        "happened happens about again itself"
    ).split()
)
_FUNCTION_HAN = re.compile(
    "请|为什么|什么|如何|怎样|怎么|简述|说明|解释|举例|列出|指出|分别|以及|可以|就是|它们|它|的|了|和|与|是|在|有|也|就"
    "|来|从|把|被|及|并|这|那|个|原因|方面|因为|所以"
)
_LATIN_PROSE = frozenset(
    "the a of and is are to in that it which for as with this on be by an or "
    "el la de que y los en una le les des et est un une der die das und ist ein den mit von".split()
)


@dataclass(frozen=True, slots=True)
class _Source:
    """What an answer may be copied from, taken apart once for all answers to a question."""

    asked: frozenset[str]
    asked_grams: frozenset[tuple[str, ...]]
    asked_content: frozenset[str]
    reference_grams: tuple[tuple[str, ...], ...]
    known_grams: frozenset[tuple[str, ...]]
    reference_content: frozenset[str]
    long: bool

    @classmethod
    @lru_cache(maxsize=256)
    def of(cls, text: str, reference: str) -> _Source:
        """Take a question and its reference answer apart."""
        asked, expected = fold(text), fold(reference)
        words, known = _WORDS.findall(asked), _WORDS.findall(expected)
        grams = tuple(_grams(known, 5))
        return cls(
            asked=frozenset(words),
            asked_grams=frozenset(_grams(words, 3)),
            asked_content=frozenset(_content(asked)),
            reference_grams=grams,
            known_grams=frozenset(grams),
            reference_content=frozenset(_content(expected)),
            long=len(known) >= 14,
        )


def _grams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]


def _share(part: Sequence[tuple[str, ...]], known: Set[tuple[str, ...]]) -> float:
    return sum(gram in known for gram in part) / len(part) if part else 0.0


def copies(folded: str, question: Question) -> Iterator[tuple[Flag, str]]:
    """Flags for what is copied, each with a note.

    Args:
        folded: the answer as `normalising.fold` makes it.
    """
    source = _Source.of(question.text, question.reference)
    answer = _WORDS.findall(folded)
    inside = sum(word in source.asked for word in answer) / max(1, len(answer))
    covered = len(source.asked.intersection(answer)) / max(1, len(source.asked))
    if (
        len(answer) >= 4
        and inside >= 0.9
        and covered >= 0.6
        and _share(_grams(answer, 3), source.asked_grams) >= 0.7
    ):
        yield Flag.COPIED_QUESTION, "repeats the question"
    elif len(answer) >= 4 and inside >= 0.9 and _is_salad(folded, question):
        yield Flag.COPIED_QUESTION, "strings words of the question together"
    elif _adds_nothing(folded, source):
        yield Flag.COPIED_QUESTION, "says little but the words of the question"
    # A short reference is often met word for word by those who know.
    if source.long:
        grams = _grams(answer, 5)
        if _share(source.reference_grams, frozenset(grams)) >= 0.75:
            yield Flag.COPIED_REFERENCE, "is nearly the reference answer"
        elif len(answer) >= 20 and _share(grams, source.known_grams) >= 0.85:
            yield Flag.COPIED_REFERENCE, "is cut from the reference answer"


def _adds_nothing(folded: str, source: _Source) -> bool:
    """Whether an answer has hardly a word of content that the question has not.

    Where the reference has none either, the question gives its answers to choose from.
    """
    asked = source.asked_content
    answer = _content(folded)
    if len(answer) < 4 or not asked:
        return False
    new, expected = answer - asked, source.reference_content - asked
    return (
        len(new) <= _NEW * len(answer)
        and len(answer & asked) >= _COVERED * len(asked)
        and len(expected) > 2 * len(new)
        and len(expected & new) <= 0.1 * len(expected)
    )


def _content(folded: str) -> set[str]:
    """Stems of the words that carry content; of Chinese, pairs of signs."""
    stems = {
        _stem(word)
        for word in re.findall(r"[^\W\d_\u3040-\u9fff]{3,}", folded)
        if word not in _FUNCTION
    }
    if folded.isascii():
        return stems
    return stems | {
        run[i : i + 2]
        for run in re.findall(r"[\u3400-\u9fff]{2,}", _FUNCTION_HAN.sub(" ", folded))
        for i in range(len(run) - 1)
    }


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending):
            return word[: -len(ending)]
    return word


def _is_salad(folded: str, question: Question) -> bool:
    """Whether the text is a row of words of the question, with hardly a word that joins them."""
    asked = re.sub(r"\s", "", fold(question.text))
    runs = re.findall(r"[\u3400-\u9fff]+|[^\W\d_\u3400-\u9fff]+", folded)
    if any("\u3400" <= run[0] <= "\u9fff" for run in runs):
        return len(runs) >= 4 and sum(run in asked for run in runs) >= 0.9 * len(runs)
    joining = sum(run in _LATIN_PROSE for run in runs)
    return len(runs) >= 5 and joining <= 0.15 * len(runs)
