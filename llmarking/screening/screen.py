"""What can be told about an answer without a model: a clean copy to grade, and flags.

A flag asks a person to look. It never changes a mark, so a false one costs a minute and no more;
but a class full of them is not read: so evidence is weighed, and honest quoting is spared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llmarking.domain import Flag, Question
from llmarking.screening.copies import copies
from llmarking.screening.decoding import readings
from llmarking.screening.forms import forms
from llmarking.screening.languages import foreign_language
from llmarking.screening.manipulation import FLAG_AT, Evidence, find, respace, weigh
from llmarking.screening.normalising import Cleaned, clean, fold, unmask
from llmarking.screening.topics import Topic

# Longer answers fit no context; of these only the two ends are searched, and the teacher is told.
MOST_SCREENED = 40_000
_QUOTE = 60

# Answers that say nothing and have been seen to earn marks.
_MASTER_KEYS = frozenset(
    fold(key)
    for key in (
        "solution answer response reply result thought thoughts reasoning explanation conclusion "
        "discussion analysis 解 解答 答 答案 回答 解析 分析 思路 结论 如下 略 かいせつ 解説 해설 "
        "풀이 solución respuesta réponse lösung antwort решение ответ الحل الجواب"
    ).split()
) | {
    "thoughtprocess",
    "heresmyanswer",
    "hereismyanswer",
    "hereisthesolution",
    "hereisthesolutionprocess",
    "myanswer",
    "theansweris",
    "theanswerisasfollows",
    "thesolutionis",
    "thesolutionisasfollows",
    "letsthinkstepbystep",
    "letssolvethisproblemstepbystep",
    "letssolvethisstepbystep",
    "letmesolvethisstepbystep",
    "letusthinkstepbystep",
    "stepbystep",
    "stepbystepsolution",
    "finalanswer",
    "answerasfollows",
    "seeabove",
    "asabove",
    "解答过程",
    "解题过程",
    "解题思路",
    "思考过程",
    "答案如下",
    "解答如下",
    "如下所示",
    "如上",
    "让我们一步步思考",
    "让我们一步一步思考",
    "让我们逐步解决这个问题",
    "我的答案",
    "我的回答",
    "我的答案如下",
    "答案是",
    "同上",
}


@dataclass(frozen=True, slots=True)
class Screening:
    """An answer before it is graded.

    Attributes:
        text: the copy that is graded.
        key: answers with the same key get the same marks; in short words case counts (CO, Co).
        notes: short remarks for the teacher, one or more for each flag.
    """

    flags: tuple[Flag, ...]
    text: str
    key: str
    notes: tuple[str, ...]


def prepare() -> None:
    """Read and compile the rules now; else the first answer waits for it, and all behind it."""
    find("")


def screen(answer: str, question: Question) -> Screening:
    """Make the copy of an answer that is graded, and say why a teacher should look at it."""
    cleaned = clean(answer)
    text = cleaned.text
    found: list[tuple[Flag, str]] = []
    if cleaned.hidden:
        found.append((Flag.HIDDEN_TEXT, f"had {', '.join(cleaned.hidden)}"))
    if len(text) > MOST_SCREENED:
        found.append(
            (Flag.TOO_LONG, f"{len(text)} characters; only the first and last part were searched")
        )
    ends = _ends(text)
    folded = fold(ends)
    if _is_empty(ends, folded, question):
        found.append((Flag.EMPTY, "says nothing"))
    else:
        found += copies(folded, question)
        if language := foreign_language(ends, folded, question):
            found.append((Flag.OTHER_LANGUAGE, f"mostly in {language}"))
    found += ((Flag.MANIPULATION, note) for note in _manipulation(ends, folded, cleaned, question))
    return Screening(
        flags=tuple(dict.fromkeys(flag for flag, _ in found)),
        text=text,
        key=canonical(text),
        notes=tuple(dict.fromkeys(note for _, note in found)),
    )


def canonical(text: str) -> str:
    """The form in which answers are compared: blanks, quotes and, where it is safe, case made one.

    Case is kept in words of one or two letters and in those with digits: CO is not Co, nor Aa aa.
    """
    joined = " ".join(text.split()).translate(_SAME)
    return re.sub(r"(?<![\w])[^\W\d_]{3,}(?!\w)", lambda m: m.group().casefold(), joined).rstrip(
        " .。"
    )


_SAME = str.maketrans("“”„‘’‚`´–—−‐‑", "\"\"\"'''''-----")


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text)


def _is_empty(text: str, folded: str, question: Question) -> bool:
    letters = _letters(folded)
    if letters:
        return letters in _MASTER_KEYS
    signs = "".join(text.split())
    # A sign can be the right answer: ∞ or ≤, if the reference has it.
    return signs not in "".join(question.reference.split()) or signs in ".。:：,，;；-–—…?？!！"


def _manipulation(text: str, folded: str, cleaned: Cleaned, question: Question) -> list[str]:
    topic = Topic.of(question.text, question.reference)
    evidence = find(folded, topic)
    evidence += forms(text, folded, cleaned, topic)
    heaviest, label = evidence, ""
    if weigh(evidence) < FLAG_AT:
        for name, reading in _disguises(text, folded, cleaned):
            hidden = find(reading, topic)
            # Nobody hides an honest sentence, so less is needed.
            if weigh(hidden) + 1 >= FLAG_AT and weigh(hidden) > weigh(heaviest):
                heaviest, label = hidden, f" ({name})"
        if not label:
            return []
    return [_note(item, label) for item in heaviest[:3] if item.weight >= 1] or [
        "speaks to the grader"
    ]


def _ends(text: str) -> str:
    if len(text) <= MOST_SCREENED:
        return text
    half = MOST_SCREENED // 2
    return f"{text[:half]}\n\n{text[-half:]}"


def _disguises(text: str, folded: str, cleaned: Cleaned) -> Iterator[tuple[str, str]]:
    plain = unmask(folded)
    if plain != folded:
        yield "look-alike letters", plain
    for message in cleaned.smuggled:
        yield "invisible characters", fold(_ends(message))
    for name, reading in readings(text, folded):
        for version in (
            dict.fromkeys((fold(reading), fold(reading[::-1])))
            if name == "base64"
            else (fold(reading),)
        ):
            yield name, version
            if " " not in version.strip() and 10 <= len(version) <= 2000:
                yield name, respace(version)


def _note(item: Evidence, label: str) -> str:
    quote = " ".join(item.quote.split())
    if len(quote) > _QUOTE:
        quote = quote[: _QUOTE - 1].rstrip() + "…"
    return f"{item.note}{label}: “{quote}”"
