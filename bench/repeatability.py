"""Does an answer get the same mark alone, in batches and shuffled? `python -m bench.repeatability`.

The answers of a course are read by the real engine one at a time, eight at a time, all at once, in
another order, and once more after a restart (`--again FILE` compares with an earlier run). The
grader's memory is switched off, so what is measured is the engine. Printed: the share of verdicts
that differ from those of the answers read alone, and the largest difference in probability.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmarking.datasets import finding as datasets
from llmarking.engines.vllm_engine import VLLMEngine
from llmarking.grading.grader import GradeOptions, Grader
from llmarking.models import adapters, catalogue, hub
from llmarking.models.merging import merged_folder


async def probabilities(
    grader: Grader, pairs: Sequence[Any], at_once: int, adapter: str | None
) -> dict[str, list[float]]:
    """The points' probabilities by answer, read `at_once` at a time in the order given."""
    found: dict[str, list[float]] = {}
    for first in range(0, len(pairs), at_once):
        part = pairs[first : first + at_once]
        grades = await asyncio.gather(
            *(grader.grade(question, answer.text, GradeOptions(adapter=adapter))
              for question, answer in part)
        )  # fmt: skip
        for (_, answer), graded in zip(part, grades, strict=True):
            found[answer.id] = [v.probability or 0.0 for v in graded.grade.verdicts]
    return found


def difference(one: dict[str, list[float]], other: dict[str, list[float]]) -> dict[str, float]:
    """Share of verdicts that differ, and the largest difference of a probability."""
    pairs = [(a, b) for key in one for a, b in zip(one[key], other[key], strict=True)]
    return {
        "verdicts": len(pairs),
        "differing": sum((a >= 0.5) != (b >= 0.5) for a, b in pairs),
        "largest": round(max(abs(a - b) for a, b in pairs), 6),
    }


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Read the course in every way."""
    spec = catalogue.resolve(args.model)
    folder = hub.fetch(spec)
    used = adapters.shipped(spec)
    weights = merged_folder(folder.path, folder.digest, used) if used and not args.gpu else None
    engine = VLLMEngine(
        weights or folder.path,
        spec.name,
        context=spec.context or 4096,
        extra=args.flags,
        gpu=args.gpu,
        bases=[spec.hub_id] if spec.hub_id else [str(folder.path)],
        adapters=[used] if used and args.gpu else [],
        merged=None if args.gpu else used,
    )
    course = datasets.load(args.course)
    by_code = {question.code: question for question in course.questions}
    # The same text twice would be read once, even without a memory.
    distinct = {(a.question_code, a.text): a for a in course.answers}
    pairs = [(by_code[a.question_code], a) for a in distinct.values()][: args.answers]
    shuffled = random.Random(0).sample(pairs, len(pairs))
    adapter = used.name if used else None
    await engine.start()
    try:
        read: dict[str, dict[str, list[float]]] = {}
        for name, rows, at_once in (
            ("alone", pairs, 1),
            ("by 8", pairs, 8),
            ("by 256", pairs, 256),
            ("shuffled by 8", shuffled, 8),
            ("alone again", pairs, 1),
        ):
            grader = Grader(engine, default_adapter=adapter, remember=0)
            read[name] = await probabilities(grader, rows, at_once, adapter)
        versions = dict(engine.info.versions)
    finally:
        await engine.stop()
    found: dict[str, Any] = {
        "model": spec.name,
        "adapter": adapter,
        "versions": versions,
        "course": course.name,
        "answers": len(pairs),
        "compared_with_alone": {
            name: difference(read["alone"], values)
            for name, values in read.items()
            if name != "alone"
        },
        "alone": read["alone"],
    }
    if args.again:
        before = json.loads(args.again.read_text())["alone"]
        found["compared_with_alone"]["after a restart"] = difference(before, read["alone"])
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-m", "--model", default=catalogue.default_model().name)
    parser.add_argument("--course", default="EXAMPLE")
    parser.add_argument("--answers", type=int, default=256)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--again", type=Path, help="what --out wrote before the restart")
    parser.add_argument("--out", type=Path)
    parser.add_argument("flags", nargs="*", help="after --: further flags for vLLM")
    args = parser.parse_args(argv)
    found = asyncio.run(measure(args))
    print(json.dumps({k: v for k, v in found.items() if k != "alone"}, indent=1))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
