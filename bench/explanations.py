#!/usr/bin/env python
"""What explanations are worth, as far as it can be counted: evidence, reasons, tokens, seconds.

The same verdicts of one engine are explained in two ways, one after the other: as LLMarking does,
and as it did first, when the model wrote quotation and sentence of every point in one JSON object
(prompts/explain/zeroshot.v1.jinja) and the quotation counted if it stood in the answer. Sentences
are counted for points that are stated only; those for the others LLMarking does not leave to the
model. Whether a sentence is true, no count says: --show prints them to be read.

    python bench/explanations.py --answers 60 --out results/explanations/NAME.json
    python bench/explanations.py --answers 10 --show
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.serving import machine, merged_engine
from llmarking.datasets import finding as datasets
from llmarking.domain import Question, Sampling, StudentAnswer, Verdict
from llmarking.engines.engine import Engine, last
from llmarking.grading.grader import GradeOptions, Grader
from llmarking.grading.prompting import Slots, Template, chat_ids
from llmarking.marks.calibration import Calibrations
from llmarking.models import adapters, catalogue
from llmarking.screening.screen import screen

OLD_TOKENS = 160
OLD_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "quote": {"type": "string", "maxLength": 300},
        "reason": {"type": "string", "maxLength": 400},
    },
    "required": ["quote", "reason"],
    "additionalProperties": False,
}
_HAN = re.compile("[\u3400-\u9fff]")
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class Explained:
    """One answer with its explained verdicts, and the tokens that they took."""

    question: Question
    answer: str
    verdicts: tuple[Verdict, ...]
    prompt_tokens: int
    completion_tokens: int


async def new_way(grader: Grader, question: Question, answer: str) -> Explained:
    """As LLMarking explains; the verdicts are remembered and cost nothing again."""
    plain = await grader.grade(question, answer, GradeOptions())
    graded = await grader.grade(question, answer, GradeOptions(explain=True))
    return Explained(
        question,
        answer,
        graded.grade.verdicts,
        graded.prompt_tokens - plain.prompt_tokens,
        graded.completion_tokens,
    )


async def old_way(engine: Engine, grader: Grader, question: Question, answer: str) -> Explained:
    """As it was first: the model writes both, and what it quotes must stand in the answer."""
    graded = await grader.grade(question, answer, GradeOptions())
    text = screen(answer, question).text
    template = Template("explain", 0, "v1")
    tokens = [0, 0]

    async def one(verdict: Verdict) -> Verdict:
        if verdict.raw is None:
            return verdict
        slots = Slots()
        variables = {
            "question": slots.hold(question.text),
            "point": slots.hold(verdict.point.text),
            "held": bool(verdict.held),
            "answer": slots.hold(text),
        }
        ids = chat_ids(template, variables, slots, engine.tokenizer)
        done = await last(
            engine.generate(
                ids,
                Sampling(max_tokens=OLD_TOKENS),
                request_id=f"old-{id(slots)}",
                schema=OLD_SCHEMA,
            )
        )
        tokens[0] += done.prompt_tokens
        tokens[1] += done.completion_tokens
        try:
            said = json.loads(done.completions[0].text)
        except ValueError:
            return verdict
        quote = " ".join(said["quote"].split()).strip("\"'“”. ")
        stands = quote.casefold() in " ".join(text.split()).casefold()
        shown = quote if verdict.held and stands and len(quote) > 1 else None
        return replace(verdict, evidence=shown, reason=" ".join(said["reason"].split()) or None)

    verdicts = await asyncio.gather(*map(one, graded.grade.verdicts))
    return Explained(question, answer, tuple(verdicts), *tokens)


async def compare(
    engine: Engine, grader: Grader, pairs: Sequence[tuple[Question, str]]
) -> tuple[dict[str, list[Explained]], dict[str, dict[str, float]]]:
    """All answers at once, first in the old way and then in the new one; what came, and figures."""
    # The verdicts first: they are not what is timed.
    await asyncio.gather(*(grader.grade(*pair, GradeOptions()) for pair in pairs))
    began = time.perf_counter()
    old = await asyncio.gather(*(old_way(engine, grader, *pair) for pair in pairs))
    between = time.perf_counter()
    new = await asyncio.gather(*(new_way(grader, *pair) for pair in pairs))
    ended = time.perf_counter()
    return {"old": old, "new": new}, {
        "old": figures(old, between - began),
        "new": figures(new, ended - between),
    }


def figures(explained: Sequence[Explained], seconds: float) -> dict[str, float]:
    """Shares of held points and of their reasons; tokens and seconds per point that is explained.

    *repeated* is a reason that another point of the same answer has too; *short* has fewer than
    four words or eight ideographs; *other script* is Chinese where the answer is not, or the other
    way round.
    """
    verdicts = [(e, v) for e in explained for v in e.verdicts if v.raw is not None]
    held = [v for _, v in verdicts if v.held]
    reasons = [(e, v, v.reason) for e, v in verdicts if v.held and v.reason]
    repeated = [
        v for e, v, reason in reasons if sum(reason == other.reason for other in e.verdicts) > 1
    ]
    short = [v for _, v, reason in reasons if _length(reason) < 4]
    other = [v for e, v, reason in reasons if _is_han(reason) != _is_han(e.answer)]
    bad = {id(v) for v in (*repeated, *short, *other)}
    count = max(len(verdicts), 1)
    return {
        "points": len(verdicts),
        "held": len(held),
        "held with evidence": _share(sum(v.evidence is not None for v in held), len(held)),
        "evidence is the whole answer": _share(
            sum(v.evidence is not None and _same(v.evidence, e.answer) for e, v in verdicts),
            len(held),
        ),
        "held with reason": _share(len(reasons), len(held)),
        "reasons repeated": _share(len(repeated), len(reasons)),
        "reasons short": _share(len(short), len(reasons)),
        "reasons in another script": _share(len(other), len(reasons)),
        "held with a reason that is none of these": _share(len(reasons) - len(bad), len(held)),
        "prompt tokens a point": round(sum(e.prompt_tokens for e in explained) / count, 1),
        "written tokens a point": round(sum(e.completion_tokens for e in explained) / count, 1),
        "seconds a point": round(seconds / count, 3),
    }


def _share(part: int, of: int) -> float:
    return round(part / of, 3) if of else 0.0


def _length(text: str) -> float:
    """Words, where two ideographs count as one."""
    return len(_HAN.findall(text)) / 2 + len(re.findall(r"[^\W\d_]+", _HAN.sub(" ", text)))


def _is_han(text: str) -> bool:
    return 3 * len(_HAN.findall(text)) > len(_LETTER.findall(_HAN.sub("", text)))


def _same(quote: str, answer: str) -> bool:
    def letters(text: str) -> str:
        return re.sub(r"\W", "", text)

    return letters(quote) == letters(answer)


def show(question: Question, answer: str, ways: dict[str, Sequence[Verdict]]) -> None:
    """Print what each way says of every point of an answer, to be read."""
    print(f"\n{question.code}: {answer}")
    for index, point in enumerate(question.points):
        for name, verdicts in ways.items():
            verdict = verdicts[index]
            print(f"  {point.id} {verdict.held} {name}: “{verdict.evidence}” {verdict.reason}")


def chosen(course: datasets.Course, count: int) -> list[StudentAnswer]:
    """Answers that say something, spread evenly over the course."""
    answers = [a for a in course.answers if any(c.isalnum() for c in a.text)]
    return [answers[i * len(answers) // count] for i in range(min(count, len(answers)))]


async def main() -> int:
    """Explain in both ways, print both columns, write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", default=catalogue.default_model().name)
    parser.add_argument("--no-adapter", action="store_true", help="the bare model")
    parser.add_argument("--course", default="EXAMPLE")
    parser.add_argument("--answers", type=int, default=60)
    parser.add_argument("--show", action="store_true", help="print every explanation")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--gpu", action="store_true", help="a CUDA GPU runs the engine")
    parser.add_argument("flags", nargs="*", help="after --: further flags for vLLM")
    args = parser.parse_args()
    spec = catalogue.resolve(args.model)
    used = None if args.no_adapter else adapters.shipped(spec)
    engine = await merged_engine(spec, used, gpu=args.gpu, flags=args.flags)
    course = datasets.load(args.course)
    grader = Grader(engine, Calibrations(), default_adapter=used.name if used else None)
    pairs = [(course.question(a.question_code), a.text) for a in chosen(course, args.answers)]
    ways, columns = await compare(engine, grader, pairs)
    found: dict[str, Any] = {
        "machine": machine(),
        "model": spec.name,
        "adapter": used.name if used else None,
        "versions": engine.info.versions,
        "course": course.name,
        "answers": len(pairs),
        "ways": columns,
    }
    await engine.stop()
    if args.show:
        for index, (question, answer) in enumerate(pairs):
            show(question, answer, {name: ways[name][index].verdicts for name in ways})
    for row in columns["old"]:
        print(f"{row:<42}{columns['old'][row]:>10}{columns['new'][row]:>10}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
