"""Asks for verdicts in free text and reads them: ``<Point1:2> *True* (the student says so)``.

Reading is tolerant of spacing, case and decoration, and strict in counting. What is missing,
doubled or surplus is an outcome of its own and never guessed, and the teacher's marks are not known
here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llmarking.domain import GradedExample, Outcome, Question
from llmarking.engines.engine import Tokenizer
from llmarking.grading.prompting import Slots, Template, chat_ids

# Possessive and bounded quantifiers: a reply of nothing but blanks must not take quadratic time.
_LINE = re.compile(
    r"(?<![^\W_])Point\s*+(?P<id>\d{1,4})(?!\d)\s*+(?:[:：]\s*+[\w.,]{0,12}\s*+)?>?"
    r"[\s:：*_`\-–—]{0,12}(?P<verdict>True|False)\b"
    # A reply that repeats the form "*True|False*" has decided nothing.
    r"(?![\s*_`]{0,6}(?:\||/|or\b)[\s*_`]{0,6}(?:True|False)\b)"
    # A reason stands on the same line, or in brackets on the next.
    r"[ \t*_`:：.\-–—]{0,12}(?:\n[ \t]{0,4}(?=[(（]))?(?P<reason>[^\n]*)",
    re.IGNORECASE,
)
_MENTION = re.compile(r"<\s*+Point\s*+(?P<id>\d{1,4})(?!\d)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ProseVerdict:
    """What a reply says about one point. `held` is None unless exactly one verdict was read."""

    outcome: Outcome
    held: bool | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ProseReading:
    """Verdicts by point id, and the ids the reply made up."""

    verdicts: dict[int, ProseVerdict]
    surplus: tuple[int, ...]

    @property
    def failures(self) -> int:
        """Points without a readable verdict, plus invented ones."""
        failed = sum(v.outcome is not Outcome.DECIDED for v in self.verdicts.values())
        return failed + len(self.surplus)


def prompt(
    question: Question,
    examples: Sequence[GradedExample],
    answer: str,
    template: Template,
    tokenizer: Tokenizer,
) -> list[int]:
    """Token ids that ask for a line about every point, after examples of such lines."""
    slots = Slots()
    variables = {
        "question": slots.hold(question.text),
        "full_mark": f"{question.full_mark:g}",
        "points": [
            {"id": p.id, "mark": f"{p.mark:g}", "text": slots.hold(p.text)} for p in question.points
        ],
        "examples": [
            {
                "answer": slots.hold(e.answer),
                "points": [
                    {
                        "id": p.id,
                        "mark": f"{p.mark:g}",
                        "verdict": e.verdicts[p.id],
                        "reason": slots.hold(e.reasons.get(p.id) or "as marked by the teacher"),
                    }
                    for p in question.points
                ],
            }
            for e in examples
        ],
        "answer": slots.hold(answer),
    }
    return chat_ids(template, variables, slots, tokenizer)


def parse(reply: str, point_ids: Sequence[int]) -> ProseReading:
    """Read a reply against the ids that were asked for; never raises."""
    found: dict[int, list[tuple[bool, str]]] = {}
    for match in _LINE.finditer(reply):
        reason = match["reason"].strip().removeprefix("(").removesuffix(")").strip()
        found.setdefault(int(match["id"]), []).append((match["verdict"].lower() == "true", reason))
    mentioned = {int(match["id"]) for match in _MENTION.finditer(reply)}
    verdicts = {}
    for point_id in point_ids:
        lines = found.get(point_id, [])
        if len(lines) == 1:
            verdicts[point_id] = ProseVerdict(Outcome.DECIDED, lines[0][0], lines[0][1] or None)
        elif lines:
            verdicts[point_id] = ProseVerdict(Outcome.DUPLICATED)
        elif point_id in mentioned:
            verdicts[point_id] = ProseVerdict(Outcome.UNREADABLE)
        else:
            verdicts[point_id] = ProseVerdict(Outcome.MISSING)
    return ProseReading(verdicts, tuple(sorted(set(found) - set(point_ids))))
