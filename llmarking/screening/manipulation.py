"""Evidence that a text speaks to the grader: words and rules of `manipulation.toml`, weighed.

A rule is a row of concepts that must stand near each other, found in lists of phrases. All phrases
of a concept are found in one pass, and rows are then looked up among the places found, so that no
text makes this slow.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from llmarking.screening.literals import Guarded
from llmarking.screening.normalising import fold
from llmarking.screening.phrases import Phrases, keys_of
from llmarking.screening.topics import NO_TOPIC, Topic

_RULES = Path(__file__).with_name("manipulation.toml")
FLAG_AT = 3.0

# Where a clause can begin: a command stands right behind one of these.
_OPENS = re.compile(
    r"""(?:\A|[.!?:;,\n"'()\[\]{}<>*#%/\\=_|~`。，、：；！？…（【《「—-]\s{0,6}
    |[\u3040-\u9fff]\s{0,2}|(?<!\w)(?:please|kindly|now|just|simply|so|therefore|hence|thus
    |hereby|immediately|always|but|only|instead|rather|also|sudo|you\ can|you\ might\ as\ well
    |could\ you|can\ you|would\ you|let's|let\ us)\s{1,3})\Z""",
    re.VERBOSE,
)
# Behind these it depends on who is meant: "you must ignore", but not "the CPU must ignore", nor
# "attackers tell it to ignore".
_JOINS = re.compile(r"(?<!\w)(?:must|should|shall|may|will|do|and|or|then)\s{1,3}\Z")
_JOINED = re.compile(
    r"""(?<!\w)(?:you|please|grader|marker|examiner|ai|assistant|teacher|reader|one|kindly|i|we|me|now)
    \W{1,3}(?:\w{1,10}\W{1,3}){1,3}\Z|[.!?:;,\n]\s{0,3}\w{1,12}\W{1,3}(?:and|then|or)\s{1,3}\Z""",
    re.VERBOSE,
)
_TOLD = re.compile(
    r"""(?<!\w)(?:you|required|instructed|obliged|allowed|permitted|free|sure|remember|task\ is
    |job\ is|duty\ is|supposed|asked|authori[sz]ed|have|need|ought|are|grader|marker|examiner)
    \ (?:not\ )?to\s{1,3}\Z""",
    re.VERBOSE,
)
_BEFORE = 40

# Talk about marking: how far a stretch of text reaches, how many words of it are looked at, and
# what the sum of the kinds found in it weighs.
_STRETCH, _STRETCH_HAN, _NEAR = 200, 80, 24
_ANCHORS = frozenset({"grades", "own answer", "own words", "grader", "material", "marks"})
_TALK_WEIGHTS = ((2.5, 3.0), (2.0, 2.0), (1.5, 1.0))

_SENTENCE_END = re.compile(r"[.!?](?=\s|\Z)|[。！？]|\n\s*\n")
_COMMA = re.compile("[,;:，；：、]")
_QUOTED = re.compile(
    r'"[^"\n]{2,300}"|(?<!\w)\'[^\'\n]{3,300}\'(?!\w)|「[^」\n]{2,300}」|`[^`\n]{2,300}`'
)
_QUOTING = 0.35
_SHARED = 0.34  # of the words that fired a rule, in the question: then it counts less
# Rules that honest answers of such a topic fire too; they count half.
_EXPECTED = 0.5
_TOKEN_RULES = frozenset({"control_token", "sequence_token", "role_after_token"})
_LOGIC_RULES = frozenset({"verdicts_soft", "conclusion", "self_check", "verdict_flood"})
_MARKING_RULES = frozenset(
    (
        "full_marks",
        "marks_named",
        "top_score",
        "third_person",
        "new_rubric",
        "threat",
        "plea_for_marks",
    )
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One rule that fired: what it says, how much it weighs, and the words that fired it."""

    rule: str
    note: str
    weight: float
    quote: str


@dataclass(frozen=True, slots=True)
class _Step:
    concept: str
    command: bool
    gap: int
    reach: str  # "" stays in the sentence, "~" crosses sentences, "^" crosses no comma


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str
    note: str
    weight: float
    rows: tuple[tuple[_Step, ...], ...]
    opens: frozenset[str]  # the concepts that a row begins with
    patterns: tuple[Guarded, ...]


@dataclass(frozen=True, slots=True, order=True)
class _Kind:
    name: str
    weight: float
    concepts: tuple[str, ...]


def weigh(evidence: Iterable[Evidence]) -> float:
    """The weight of all rules that fired; `FLAG_AT` and above is a flag."""
    return round(sum(item.weight for item in evidence), 3)


def find(folded: str, topic: Topic = NO_TOPIC) -> list[Evidence]:
    """The rules that a folded text fires, heaviest first."""
    words, rules, kinds, concepts = _load()
    text = _Text(folded, words, concepts)
    quoted = _quoted(folded, topic)
    expected = _expected(topic)
    found: list[Evidence] = []
    loudest_quote: Evidence | None = None
    for rule in rules:
        best: Evidence | None = None
        for start, end in text.spans(rule):
            shared = topic.share(folded[start:end])
            weight = rule.weight * (1 - 0.6 * shared if shared >= _SHARED else 1)
            if rule.name in expected:
                weight *= _EXPECTED
            item = Evidence(rule.name, rule.note, weight, folded[start:end])
            if any(first <= start and end <= last for first, last in quoted):
                # What is quoted to be explained counts once, and little.
                item = Evidence(rule.name, rule.note, weight * _QUOTING, item.quote)
                if loudest_quote is None or item.weight > loudest_quote.weight:
                    loudest_quote = item
            elif best is None or weight > best.weight:
                best = item
        if best is not None:
            found.append(best)
    if loudest_quote is not None:
        found.append(loudest_quote)
    if talk := text.talk(kinds, topic):
        found.append(talk)
    return sorted(found, key=lambda item: -item.weight)


def respace(letters: str) -> str:
    """Put blanks back between the words of a text that was written without any."""
    known = _vocabulary()
    longest = max(map(len, known))
    words: list[str] = []
    unknown = ""
    position = 0
    while position < len(letters):
        for size in range(min(longest, len(letters) - position), 1, -1):
            if letters[position : position + size] in known:
                if unknown:
                    words.append(unknown)
                words.append(letters[position : position + size])
                unknown = ""
                position += size
                break
        else:
            unknown += letters[position]
            position += 1
    return " ".join([*words, unknown]).strip()


class _Text:
    """A folded text with the places of the concepts in it, found when asked for."""

    def __init__(
        self, folded: str, words: Mapping[str, Phrases], concepts: Mapping[str, Sequence[str]]
    ) -> None:
        self._folded = folded
        self._words = words
        # The concepts of which a text has a key; in an honest answer these are few.
        self._likely = {
            concept for key in concepts.keys() & keys_of(folded) for concept in concepts[key]
        }
        self._places: dict[str, list[tuple[int, int]]] = {}
        self._ends = [match.start() for match in _SENTENCE_END.finditer(folded)]

    def spans(self, rule: _Rule) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for pattern in rule.patterns:
            found += pattern.spans(self._folded)
        if not rule.opens.isdisjoint(self._likely):
            found += self._said(rule)
        return found

    def _said(self, rule: _Rule) -> Iterator[tuple[int, int]]:
        for row in rule.rows:
            if all(self._of(step.concept) for step in row):
                for start, end in self._of(row[0].concept):
                    if row[0].command and not self._commands(start):
                        continue
                    stop = self._follow(row, 1, end)
                    if stop is not None:
                        yield start, stop

    def talk(self, kinds: tuple[_Kind, ...], topic: Topic) -> Evidence | None:
        """The stretch that speaks most about marking."""
        places = sorted(
            (start, end, kind)
            for kind in kinds
            for concept in kind.concepts
            for start, end in self._of(concept)
            if not topic.names(self._folded[start:end])
        )
        reach = _STRETCH_HAN if _mostly_han(self._folded) else _STRETCH
        best, span = 0.0, (0, 0)
        for index, (start, _, _) in enumerate(places):
            near: dict[str, float] = {}
            last = start
            for first, end, kind in places[index : index + _NEAR]:
                if end - start > reach:
                    break
                if kind.name not in near and (first >= last or not near):
                    near[kind.name] = kind.weight * (0.4 if topic.marking else 1)
                    last = end
            if sum(near.values()) > best and not _ANCHORS.isdisjoint(near):
                best, span = sum(near.values()), (start, last)
        weight = next((w for floor, w in _TALK_WEIGHTS if best >= floor), 0.0)
        if not weight:
            return None
        return Evidence("talk", "talks about its own marking", weight, self._folded[slice(*span)])

    def _of(self, concept: str) -> list[tuple[int, int]]:
        if concept not in self._likely:
            return []
        if concept not in self._places:
            self._places[concept] = self._words[concept].places(self._folded)
        return self._places[concept]

    def _follow(self, row: tuple[_Step, ...], index: int, position: int) -> int | None:
        if index == len(row):
            return position
        step = row[index]
        places = self._of(step.concept)
        first = bisect_left(places, (position, 0))
        # The nearest three are enough: a farther one has less room for what must follow it.
        for start, end in places[first : first + 3]:
            if start - position > step.gap:
                break
            if self._parted(position, start, step.reach):
                break
            if step.command and not self._commands(start):
                continue
            stop = self._follow(row, index + 1, end)
            if stop is not None:
                return stop
        return None

    def _parted(self, start: int, end: int, reach: str) -> bool:
        if reach == "~":
            return False
        if reach == "^" and _COMMA.search(self._folded, start, end):
            return True
        index = bisect_left(self._ends, start)
        return index < len(self._ends) and self._ends[index] < end

    def _commands(self, start: int) -> bool:
        before = self._folded[max(0, start - _BEFORE) : start]
        if start <= _BEFORE:
            before = "\n" + before
        if _JOINS.search(before):
            return bool(_JOINED.search(before))
        return bool(_OPENS.search(before) or _TOLD.search(before))


def _mostly_han(text: str) -> bool:
    return not text.isascii() and 2 * len(re.findall(r"[\u4e00-\u9fff]", text)) > len(
        re.findall(r"[^\W\d_]", text)
    )


def _expected(topic: Topic) -> frozenset[str]:
    return (
        (_TOKEN_RULES if topic.tokens else frozenset())
        | (_LOGIC_RULES if topic.logic else frozenset())
        | (_MARKING_RULES if topic.marking else frozenset())
    )


def _quoted(folded: str, topic: Topic) -> list[tuple[int, int]]:
    """Quotations that explain an attack, in an answer to a question about attacks."""
    if not topic.attacks:
        return []
    spans = [match.span() for match in _QUOTED.finditer(folded)]
    outside = len(folded) - sum(end - start for start, end in spans)
    return spans if outside > 0.5 * len(folded) else []


@lru_cache(maxsize=1)
def _load() -> tuple[
    dict[str, Phrases], tuple[_Rule, ...], tuple[_Kind, ...], dict[str, list[str]]
]:
    """Concepts, rules, kinds of talk, and the concepts by their keys."""
    source = tomllib.loads(_RULES.read_text(encoding="utf-8"))
    words = {name: Phrases.parse(phrases) for name, phrases in source["words"].items()}
    rules = tuple(map(_rule, source["rule"]))
    kinds = tuple(
        _Kind(talk["kind"], float(talk["weight"]), tuple(talk["words"])) for talk in source["talk"]
    )
    concepts: dict[str, list[str]] = defaultdict(list)
    for name, phrases in words.items():
        for key in phrases.keys:
            concepts[key].append(name)
    return words, rules, kinds, dict(concepts)


def _rule(source: Mapping[str, Any]) -> _Rule:
    rows = tuple(tuple(_steps(row)) for row in source.get("say", ()))
    return _Rule(
        name=source["name"],
        note=source["note"],
        weight=float(source["weight"]),
        rows=rows,
        opens=frozenset(row[0].concept for row in rows),
        patterns=tuple(Guarded.compile(pattern) for pattern in source.get("regex", ())),
    )


@lru_cache(maxsize=1)
def _vocabulary() -> frozenset[str]:
    source = tomllib.loads(_RULES.read_text(encoding="utf-8"))
    phrases = " ".join(source["words"].values()).replace("*", "")
    words = {word for word in re.findall(r"[a-z]{2,}", fold(phrases)) if word not in {"an", "ai"}}
    return frozenset(words | {"the", "of", "as", "to", "with", "in", "for", "on", "and", "this"})


def _steps(row: str) -> Iterator[_Step]:
    gap, reach = 0, ""
    for part in row.split():
        if part.lstrip("~^").isdigit():
            gap, reach = int(part.lstrip("~^")), part[0] if part[0] in "~^" else ""
        else:
            yield _Step(part.lstrip("!"), part.startswith("!"), gap, reach)
