"""Whether an answer is copied from the question or the reference, or is in another script."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from llmarking.domain import Flag, Question
from llmarking.normalising import fold

_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
_SCRIPTS = (
    ("Latin", re.compile("[A-Za-zÀ-ɏ]")),
    ("Han", re.compile("[\u3400-\u9fff\uf900-\ufaff]")),
    ("Kana", re.compile("[\u3040-\u30ff]")),
    ("Hangul", re.compile("[\uac00-\ud7af\u1100-\u11ff]")),
    ("Cyrillic", re.compile("[\u0400-\u052f]")),
    ("Arabic", re.compile("[\u0600-\u06ff\u0750-\u077f]")),
    ("Hebrew", re.compile("[\u0590-\u05ff]")),
    ("Greek", re.compile("[\u0370-\u03ff]")),
    ("Indic", re.compile("[\u0900-\u0dff]")),
    ("Thai", re.compile("[\u0e00-\u0eff]")),
)
_LATIN_PROSE = frozenset(
    "the a of and is are to in that it which for as with this on be by an or "
    "el la de que y los en una le les des et est un une der die das und ist ein den mit von".split()
)


def _words(text: str) -> list[str]:
    return _WORDS.findall(fold(text))


def _grams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]


def _share(part: Sequence[tuple[str, ...]], whole: Sequence[tuple[str, ...]]) -> float:
    known = set(whole)
    return sum(gram in known for gram in part) / len(part) if part else 0.0


def copies(text: str, question: Question) -> Iterator[tuple[Flag, str]]:
    answer, asked, reference = _words(text), _words(question.text), _words(question.reference)
    known = set(asked)
    inside = sum(word in known for word in answer) / max(1, len(answer))
    covered = len(known & set(answer)) / max(1, len(known))
    if len(answer) >= 4 and inside >= 0.9:
        if covered >= 0.6 and _share(_grams(answer, 3), _grams(asked, 3)) >= 0.7:
            yield Flag.COPIED_QUESTION, "repeats the question"
        elif _is_salad(text, question):
            yield Flag.COPIED_QUESTION, "strings words of the question together"
    # A short reference is often met word for word by those who know.
    if len(reference) >= 14:
        long = _grams(reference, 5)
        if _share(long, _grams(answer, 5)) >= 0.75:
            yield Flag.COPIED_REFERENCE, "is nearly the reference answer"
        elif len(answer) >= 20 and _share(_grams(answer, 5), long) >= 0.85:
            yield Flag.COPIED_REFERENCE, "is cut from the reference answer"


def _is_salad(text: str, question: Question) -> bool:
    """Whether the text is a row of words of the question, with hardly a word that joins them."""
    folded, asked = fold(text), re.sub(r"\s", "", fold(question.text))
    runs = re.findall(r"[\u3400-\u9fff]+|[^\W\d_\u3400-\u9fff]+", folded)
    if any("\u3400" <= run[0] <= "\u9fff" for run in runs):
        return len(runs) >= 4 and sum(run in asked for run in runs) >= 0.9 * len(runs)
    joining = sum(run in _LATIN_PROSE for run in runs)
    return len(runs) >= 5 and joining <= 0.15 * len(runs)


def _shares(text: str) -> dict[str, float]:
    counts = {name: len(pattern.findall(text)) for name, pattern in _SCRIPTS}
    # An ideograph says about as much as three letters.
    counts["Han"] *= 3
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items() if count} if total else {}


def foreign_script(text: str, question: Question) -> str | None:
    shares = _shares(text)
    if not shares or len(re.findall(r"[^\W_]", text)) < 4:
        return None
    script, share = max(shares.items(), key=lambda item: item[1])
    known = _shares(f"{question.text} {question.reference}")
    if share < 0.6 or not known or known.get(script, 0.0) >= 0.1:
        return None
    if script == "Latin":
        # Code, formulas and names are Latin in every language; sentences are not.
        words = _words(text)
        prose = sum(word in _LATIN_PROSE for word in words)
        if len(words) < 6 or prose < 2 or prose < 0.12 * len(words):
            return None
    if script == "Greek" and len(_words(text)) < 4:
        return None
    return script
