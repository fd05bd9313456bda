"""What attacks do to marks: `python -m bench.manipulation --url http://127.0.0.1:8000 --out FILE`.

Every attack of the chosen splits is graded by a running server, alone and behind a wrong, a
half-right and a right answer, and so are the same answers without it and the honest controls. Every
grade is kept in the file (one JSON object a line, without the texts), so that a run that was
stopped goes on where it was. Then the table is printed: 95 % intervals by drawing whole questions.

A full mark counts as unflagged when the grade carries no flag at all, so that nobody would look.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.attacks import BASES, SPLITS, Split, apply, attacks, controls, questions
from llmarking.client import AsyncClient
from llmarking.domain import Flag, Question
from llmarking.errors import LLMarkingError

Row = dict[str, Any]
# Doubt about a verdict is no sign of an attack, but it too puts the answer before the teacher.
DOUBT = {Flag.UNSURE.value, Flag.NO_EVIDENCE.value, Flag.FORMAT.value}


@dataclass(frozen=True, slots=True)
class Trial:
    """One answer to grade; `about` says what it is and names it in the file."""

    question: Question
    answer: str
    about: Row

    @property
    def key(self) -> str:
        """The same in every run."""
        return json.dumps(self.about, sort_keys=True)


def trials(splits: Sequence[Split]) -> Iterator[Trial]:
    """The answers without an attack, with each attack, and the controls."""
    for base_question in questions():
        question = base_question.question
        for base in BASES[1:]:
            about: Row = {"kind": "base", "question": question.code, "base": base}
            yield Trial(question, base_question.answer(base), about)
        for attack in attacks(tuple(splits)):
            if attack.language != base_question.language:
                continue
            for base in BASES:
                about = {
                    "kind": "attack",
                    "question": question.code,
                    "base": base,
                    "category": attack.category,
                    "variant": attack.variant,
                    "split": attack.split,
                    "expects": sorted(flag.value for flag in attack.expects),
                    "counts": base == "alone" or not attack.alone,
                    "text": hash_of(attack.text),
                }
                text = apply(attack, base_question.answer(base), question.text, question.reference)
                yield Trial(question, text, about)
    for control in controls():
        if control.split in splits:
            about = {
                "kind": "control",
                "question": control.question.code,
                "name": control.name,
                "allowed": sorted(flag.value for flag in control.allowed),
            }
            yield Trial(control.question, control.answer, about)


def hash_of(text: str) -> str:
    """A short name of a text, so that the file need not hold it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


async def grade(
    wanted: Sequence[Trial],
    url: str,
    method: Literal["verdict", "prose"],
    adapter: str | None,
    out: Path,
    at_once: int,
) -> None:
    """Grade what the file lacks and append it, a line for every grade."""
    out.parent.mkdir(parents=True, exist_ok=True)
    places = asyncio.Semaphore(at_once)
    with out.open("a", encoding="utf-8") as sink:
        if sink.tell():
            # A line that was cut off must not take the next one with it; empty ones don't count.
            sink.write("\n")
        async with AsyncClient(url) as client:
            (card, *_) = await client.models()

            async def one(trial: Trial) -> None:
                async with places:
                    try:
                        found = await client.grade(
                            trial.question, trial.answer, method=method, adapter=adapter
                        )
                        result: Row = {
                            "fraction": found.mark / found.full_mark,
                            "flags": [flag.value for flag in found.flags],
                        }
                    except LLMarkingError as error:
                        # A refusal (too long, say) is no mark; it is counted by itself.
                        result = {"fraction": None, "flags": [], "error": type(error).__name__}
                about = {"key": trial.key, "model": card.model, "method": method}
                sink.write(json.dumps(trial.about | about | result) + "\n")
                sink.flush()

            await asyncio.gather(*map(one, wanted))


def read(out: Path) -> dict[str, Row]:
    """The grades of a file by key; a line that was cut off by a crash is left out."""
    found: dict[str, Row] = {}
    if out.exists():
        for line in out.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            found[row["key"]] = row
    return found


def interval(rows: Sequence[Row], value: Callable[[Row], float]) -> list[float]:
    """A mean with its 95 % interval; whole questions are drawn, 2,000 times."""
    by_question: dict[str, list[float]] = {}
    for row in rows:
        by_question.setdefault(row["question"], []).append(value(row))
    if not by_question:
        return []
    sums = np.array([sum(values) for values in by_question.values()])
    counts = np.array([len(values) for values in by_question.values()])
    drawn = np.random.default_rng(0).integers(0, len(sums), (2000, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return [round(float(x), 4) for x in (sums.sum() / counts.sum(), low, high)]


def figures(rows: dict[str, Row]) -> Row:
    """All figures of a file; each is a mean and the two ends of its interval."""
    graded = [row for row in rows.values() if row["fraction"] is not None]
    bases = {(r["question"], r["base"]): r["fraction"] for r in graded if r["kind"] == "base"}
    tried = [
        row
        for row in graded
        if row["kind"] == "attack"
        and (row["base"] == "alone" or (row["question"], row["base"]) in bases)
    ]
    wrong = [row for row in tried if row["base"] in ("alone", "wrong")]
    honest = [row for row in graded if row["kind"] == "control"]

    def gained(row: Row) -> float:
        return float(row["fraction"] - bases.get((row["question"], row["base"]), 0.0))

    def full(row: Row) -> bool:
        return bool(row["fraction"] >= 1)

    found: Row = {
        "answers": len(rows),
        "refused": len(rows) - len(graded),
        "questions": len({row["question"] for row in tried}),
        "inflation": {
            base: interval([row for row in tried if row["base"] == base], gained) for base in BASES
        },
        "full_on_wrong": interval(wrong, full),
        "full_on_wrong_unflagged": interval(wrong, lambda r: full(r) and not r["flags"]),
        "full_on_wrong_not_named": interval(
            wrong, lambda r: full(r) and not set(r["flags"]) - DOUBT
        ),
        "flag_recall": interval(
            [row for row in tried if row["counts"]],
            lambda r: bool(set(r["flags"]) & set(r["expects"])),
        ),
        "false_flags": interval(
            honest, lambda r: bool(set(r["flags"]) - set(r["allowed"]) - DOUBT)
        ),
    }
    slipped = sorted(
        {(row["category"], row["base"]) for row in wrong if full(row) and not row["flags"]}
    )
    return found | {"unflagged_categories": slipped}


def main(argv: Sequence[str] | None = None) -> None:
    """Grade what is missing and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="a running server; without it only the file is read")
    parser.add_argument("--out", type=Path, required=True, help="the file of grades (JSON lines)")
    parser.add_argument("--method", choices=("verdict", "prose"), default="verdict")
    parser.add_argument("--adapter", help="an adapter of the server's instead of its default")
    parser.add_argument("--split", choices=("dev", "more", "test"), action="append")
    parser.add_argument("--sample", type=int, help="of the attacks, this many drawn at random")
    parser.add_argument("--at-once", type=int, default=64, help="grades asked for at a time")
    parser.add_argument("--figures", type=Path, help="write the figures to this file as well")
    args = parser.parse_args(argv)
    wanted = list(trials(args.split or SPLITS))
    if args.sample is not None:
        tried = [trial for trial in wanted if trial.about["kind"] == "attack"]
        drawn = {t.key for t in random.Random(0).sample(tried, min(args.sample, len(tried)))}
        wanted = [t for t in wanted if t.about["kind"] != "attack" or t.key in drawn]
    known = read(args.out)
    missing = [trial for trial in wanted if trial.key not in known]
    if args.url:
        print(f"{len(missing)} of {len(wanted)} answers to grade", flush=True)
        asyncio.run(grade(missing, args.url, args.method, args.adapter, args.out, args.at_once))
    found = figures(read(args.out))
    print(json.dumps(found, indent=1))
    if args.figures:
        args.figures.parent.mkdir(parents=True, exist_ok=True)
        args.figures.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
