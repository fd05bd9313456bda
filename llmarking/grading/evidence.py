"""Finds the words of an answer that show a point: the passage that would earn it by itself.

Each passage is marked as if it were the whole answer. So the words are the student's own letter by
letter, and they are chosen by what the model can do best; where no passage is enough alone, there
is nothing to point at, and the verdict is the less sure for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

from llmarking.domain import Verdict
from llmarking.grading.passages import passages
from llmarking.sharing import in_order

Mark = Callable[[str], Awaitable[Sequence[Verdict]]]
# Of one answer's passages; more would keep other answers waiting.
AT_ONCE = 8


async def find(answer: str, verdicts: Sequence[Verdict], mark: Mark) -> list[str | None]:
    """For each verdict the passage that shows its point; None where the point is not held.

    Args:
        answer: as it was graded, see `screening`.
        mark: verdicts on the same points for a text in place of the answer.
    """
    found: list[str | None] = [None] * len(verdicts)
    turn = asyncio.Semaphore(AT_ONCE)

    async def in_turn(passage: str) -> Sequence[Verdict]:
        async with turn:
            return await mark(passage)

    kinds = passages(answer)
    for kind in kinds:
        missing = [i for i, v in enumerate(verdicts) if v.held and found[i] is None]
        if not missing or not kind:
            continue
        if kinds[0] == kind and len(kind) == 1:
            # The whole answer, which is marked already.
            marked: list[Sequence[Verdict]] = [verdicts]
        else:
            async with aclosing(in_order(map(in_turn, kind))) as marks:
                marked = [each async for each in marks]
        for i in missing:
            best = max(range(len(kind)), key=lambda j: _probability(marked[j][i]))
            if marked[best][i].held:
                found[i] = kind[best]
    return found


def _probability(verdict: Verdict) -> float:
    return 0.0 if verdict.probability is None else verdict.probability
