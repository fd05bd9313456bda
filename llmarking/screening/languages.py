"""Which language an answer is in, and whether that is another than its question's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from llmarking.domain import Question
from llmarking.screening.normalising import fold

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
# Function words of European languages, few of them shared.
_LANGUAGES = {
    name: frozenset(fold(words).split())
    for name, words in {
        "English": "the of and is are to it that which with by from this they because was when",
        "Spanish": "el los las que del por una con para como más se es son porque cuando su al lo",
        "French": "le les des et est une dans qui que pour sur avec par sont parce il elle du au",
        "German": "der die das und ist nicht ein eine den dem mit von auf wird weil zu sich wenn",
        "Italian": "il che della per una con sono perché gli nel alla di è non si quando più dei",
        "Portuguese": "os que do da em um uma para com não por mais são porque quando ao dos na se",
        "Dutch": "de het een van en is niet dat met voor op zijn omdat wordt als te door bij aan",
    }.items()
}
# What is most often written in the other scripts.
_WRITES = {
    "Han": "Chinese",
    "Kana": "Japanese",
    "Hangul": "Korean",
    "Cyrillic": "Russian",
    "Arabic": "Arabic",
    "Hebrew": "Hebrew",
    "Greek": "Greek",
    "Indic": "Hindi",
    "Thai": "Thai",
}
_LATIN_PROSE = frozenset(
    "the a of and is are to in that it which for as with this on be by an or "
    "el la de que y los en una le les des et est un une der die das und ist ein den mit von".split()
)


_SPOKEN = {
    word: tuple(name for name, of in _LANGUAGES.items() if word in of)
    for word in frozenset().union(*_LANGUAGES.values())
}


def foreign_language(text: str, folded: str, question: Question) -> str | None:
    """The script or language of an answer that is in none of those of its question.

    Args:
        folded: `fold(text)`.
    """
    if script := _foreign_script(text, folded, question):
        return f"{script} script"
    answer = _language(folded)
    known = _language_of_question(question.text, question.reference) if answer else None
    return answer if answer and known and answer != known else None


def language(text: str, question: Question) -> str:
    """The language to reply to an answer in, by its English name.

    A sign or a few words do not show which one they are in: then it is the question's.
    """
    shares = _shares(text)
    if shares and len(re.findall(r"[^\W\d_]", text)) >= 4:
        script = max(shares, key=lambda name: shares[name])
        if script != "Latin":
            return _written(script, shares)
        if spoken := _language(fold(text)):
            return spoken
    shares = _shares_of_question(question.text, question.reference)
    script = max(shares, key=lambda name: shares[name]) if shares else "Latin"
    if script != "Latin":
        return _written(script, shares)
    return _language_of_question(question.text, question.reference) or "English"


def function_words(spoken: str) -> frozenset[str]:
    """Words of a language, by its English name, that say nothing by themselves; none for some."""
    return _LATIN_PROSE | frozenset(_LANGUAGES.get(spoken, ()))


def _written(script: str, shares: Mapping[str, float]) -> str:
    # A の in a Chinese sentence makes it no Japanese one.
    return "Japanese" if shares.get("Kana", 0.0) >= 0.1 else _WRITES[script]


@lru_cache(maxsize=256)
def _language_of_question(text: str, reference: str) -> str | None:
    return _language(fold(f"{text} {reference}"))


def _language(folded: str) -> str | None:
    """The European language whose function words stand out in a text, if one does."""
    words = re.findall(r"[^\W\d_]+", folded)
    scores = dict.fromkeys(_LANGUAGES, 0)
    for word in words:
        for name in _SPOKEN.get(word, ()):
            scores[name] += 1
    (best, most), (_, second) = Counter(scores).most_common(2)
    return best if most >= 4 and most >= 2 * second and most >= 0.12 * len(words) else None


def _foreign_script(text: str, folded: str, question: Question) -> str | None:
    shares = _shares(text)
    if not shares or len(re.findall(r"[^\W_]", text)) < 4:
        return None
    script, share = max(shares.items(), key=lambda item: item[1])
    known = _shares_of_question(question.text, question.reference)
    if share < 0.6 or not known or known.get(script, 0.0) >= 0.1:
        return None
    if script == "Latin":
        # Code, formulas and names are Latin in every language; sentences are not.
        words = re.findall(r"[^\W_]+", folded)
        prose = sum(word in _LATIN_PROSE for word in words)
        if len(words) < 6 or prose < 2 or prose < 0.12 * len(words):
            return None
    if script == "Greek" and len(re.findall(r"[^\W_]+", text)) < 4:
        return None
    return script


@lru_cache(maxsize=256)
def _shares_of_question(text: str, reference: str) -> dict[str, float]:
    return _shares(f"{text} {reference}")


def _shares(text: str) -> dict[str, float]:
    if text.isascii():
        return {"Latin": 1.0} if re.search("[A-Za-z]", text) else {}
    counts = {name: len(pattern.findall(text)) for name, pattern in _SCRIPTS}
    # An ideograph says about as much as three letters.
    counts["Han"] *= 3
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items() if count} if total else {}
