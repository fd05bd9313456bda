"""Is a new adapter better than the one in use, on questions that it never saw?

Both grade the same answers on the running server, each with its own calibration, as students would
be graded. The difference of their kappas is resampled over questions; only when all of its 95 %
interval is above zero does the new one become the course's default.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmarking.client import AsyncClient
from llmarking.errors import InputError
from llmarking.metrics.agreement import point_metrics
from llmarking.metrics.resampling import Difference, point_differences
from llmarking.sentences import counted
from llmarking.training.data import Group, question_key

# Fewer questions than this can't tell chance from progress, whatever the interval says.
FEWEST_QUESTIONS = 5


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two adapters on the same verdicts; `before` and `after` are kappas."""

    questions: int
    verdicts: int
    before: float
    after: float
    difference: Difference

    @property
    def better(self) -> bool:
        """Whether the whole interval of the difference is above zero."""
        return self.questions >= FEWEST_QUESTIONS and self.difference.low > 0

    def __str__(self) -> str:
        return (
            f"{counted(self.verdicts, 'verdict', 'verdicts')} to "
            f"{counted(self.questions, 'question', 'questions')} that were not trained on: "
            f"kappa {self.before:.3f} before, {self.after:.3f} with the new adapter, difference "
            f"{self.difference.estimate:+.3f} ({self.difference.low:+.3f} to "
            f"{self.difference.high:+.3f})"
        )


def unseen(groups: Sequence[Group], adapter: Path) -> list[Group]:
    """The groups whose questions the adapter was not trained on, by its `metrics.json`.

    Raises:
        InputError: the file does not say what was trained on, or no question is left.
    """
    path = adapter / "metrics.json"
    try:
        trained = set(json.loads(path.read_text(encoding="utf-8"))["trained_questions"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not say which questions the adapter was trained on; only an adapter of "
            "finetune.py can be promoted"
        ) from error
    left = [group for group in groups if question_key(group.question) not in trained]
    if not left:
        raise InputError(
            f"{adapter.name} was trained on every question with a teacher's verdicts; train it "
            "with a larger --held-out, or let the teacher decide further questions"
        )
    return left


async def compare(
    marker: AsyncClient,
    groups: Sequence[Group],
    present: str | None,
    new: str,
    *,
    in_flight: int = 8,
) -> Comparison:
    """Grade every answer with both adapters; `present` is None for the server's default.

    Points that either could not decide count as wrong for it.
    """
    gate = asyncio.Semaphore(in_flight)

    async def held(group: Group, text: str, adapter: str | None) -> dict[int, bool | None]:
        async with gate:
            reply = await marker.grade(group.question, text, adapter=adapter)
        return {point.id: point.held for point in reply.points}

    async def both(group: Group, number: int) -> list[tuple[str, bool, Any, Any]]:
        answer = group.answers[number]
        before, after = await asyncio.gather(
            held(group, answer.text, present), held(group, answer.text, new)
        )
        return [
            (group.key, truth, before.get(point), after.get(point))
            for point, truth in (answer.verdicts or {}).items()
        ]

    tasks = [both(group, number) for group in groups for number in range(len(group.answers))]
    rows = [row for part in await asyncio.gather(*tasks) for row in part]
    codes, truth, first, second = (list(column) for column in zip(*rows, strict=True))
    return Comparison(
        questions=len(set(codes)),
        verdicts=len(truth),
        before=point_metrics(truth, first)["kappa"],
        after=point_metrics(truth, second)["kappa"],
        difference=point_differences(codes, truth, (first, second))["kappa"],
    )
