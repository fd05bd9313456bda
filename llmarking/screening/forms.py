"""Evidence that lies in the form of an answer: floods, contradictions, gibberish."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from llmarking.screening.manipulation import Evidence
from llmarking.screening.normalising import Cleaned
from llmarking.screening.topics import Topic

_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
_NEGATION = re.compile(
    r"(?<!\w)(?:not|no|never|cannot|isnt|arent|doesnt|dont|cant|wont|didnt|nor)(?!\w)"
)
_NEGATION_HAN = re.compile("不是|不会|不能|没有|不|非|没|未|无")
_CLAUSES = re.compile(r"[,，]|(?<!\w)(?:and|but|or)(?!\w)|但是?|也|而且|或者?|又")
_HAN = re.compile("[\u4e00-\u9fff]")
_CONDITION = re.compile(
    r"(?<!\w)(?:if|when|unless|whether|otherwise)(?!\w)|如果|若|假设|是否|假如|时"
)
_AUXILIARY = frozenset(
    "a an the do does did is are was were be it they has have will can that but and".split()
)
# With a capital, inside a sentence: as the grader writes it. Code has it behind a sign.
_TRUE = re.compile(
    r"(?<=[\w\u4e00-\u9fff\"'“:：，,] )(?:True|False)\b|(?<=[\u4e00-\u9fff“\"'*])(?:True|False)\b"
)
_SIGNS = re.compile(r"[\\\]\[}{$+~*\"!;^@#|_=<>(:?&%`]")
_CODE = re.compile(
    r"[;{}]\s*$|\w\s*=\s*\w|\\(?:frac|begin|sum|int|alpha|beta|cdot|sqrt)|</\w+>"
    r"|^\s*(?:def|if|for|while|class|import|#include)\b",
    re.MULTILINE,
)


def forms(text: str, folded: str, cleaned: Cleaned, topic: Topic) -> Iterator[Evidence]:
    """Evidence that lies in the form of a text and not in its words."""
    sentences = [
        s
        for s in (re.sub(r"[\W_]+", "", s) for s in re.split(r"[.!?;。！？；\n]+", folded))
        if len(s) > 5
    ]
    again = sum(count for count in Counter(sentences).values() if count >= 4)
    if cleaned.collapsed > max(100, len(text)) or (again >= 5 and again > 0.6 * len(sentences)):
        yield Evidence("flood", "repeats the same text over and over", 3, text)
    if not topic.logic and (contradiction := _contradiction(folded)):
        yield Evidence("contradiction", "says a thing and its opposite", 3, contradiction)
    if (word := _TRUE.search(text)) and not topic.logic:
        yield Evidence("true", "uses the word of the verdicts", 1, word.group())
    if gibberish := _gibberish(text):
        yield Evidence("gibberish", "ends like a machine-made suffix", 3, gibberish)


def _contradiction(folded: str) -> str | None:
    """A clause that occurs with and without a negation, all else being equal and no "if"."""
    seen: dict[tuple[str, ...], bool] = {}
    for sentence in re.split(r"[.!?;。！？；\n]+", folded):
        if _CONDITION.search(sentence):
            continue
        for clause in _CLAUSES.split(sentence):
            plain = clause.replace("n't", " not").replace("cannot", "can not")
            bare = _NEGATION_HAN.sub("", _NEGATION.sub(" ", plain))
            words = tuple(w.rstrip("s") for w in _WORDS.findall(bare) if w not in _AUXILIARY)
            # Chinese leaves out subjects, so only what is long enough to have one counts.
            enough = 6 if _HAN.search(clause) else 3
            negated = bare != plain
            if len(words) >= enough and seen.setdefault(words, negated) != negated:
                return clause.strip()
    return None


def _gibberish(text: str) -> str | None:
    """The end of a text whose words are glued with stray brackets as in no language or code."""
    tail = text[-160:]
    kinds = len(set(_SIGNS.findall(tail)))
    if kinds < 6 or len(re.findall(r"[^\W\d_]{4,}", tail)) < 3 or _CODE.search(text):
        return None
    stray = depth = 0
    for sign in re.findall(r"[\[\]{}]", tail):
        depth += 1 if sign in "[{" else -1
        if depth < 0:
            stray, depth = stray + 1, 0
    joined = len(re.findall(r"\w[\\\]}{$+~*\"^@#|=(]{1,3}[^\W\d_]{2}", tail))
    return (
        tail[-60:]
        if stray + depth + (tail.count("(") != tail.count(")")) >= 2 or (stray and joined >= 2)
        else None
    )
