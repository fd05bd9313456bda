"""What can be asked about answers, decisions, refits and release, and the methods that ask it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from llmarking.calls.call import AnyQuestion, Call, Whole, question_body
from llmarking.calls.courses import get, send
from llmarking.calls.jobs import Asks, AsksAsync, segment
from llmarking.protocol.courses import (
    AnswerDetail,
    AnswerPage,
    Decided,
    Order,
    Refit,
    RefitApplied,
    Regrade,
    Which,
    WireContest,
)
from llmarking.protocol.releases import Release


def answers(course: str, **query: object) -> Call[AnswerPage]:
    return get(f"/courses/{segment(course)}/answers", AnswerPage, **query)


def answer(answer: str) -> Call[AnswerDetail]:
    return get(f"/answers/{segment(answer)}", AnswerDetail)


def decide(
    answer: str,
    verdicts: Mapping[str, bool],
    expected: int | None,
    comment: str | None,
    identical: bool,
) -> Call[Decided]:
    path = f"/answers/{segment(answer)}/decision"
    return send(
        path,
        Decided,
        verdicts=dict(verdicts),
        expected_mark_id=expected,
        comment=comment,
        apply_to_identical=identical,
    )


def undo(answer: str, expected: int, identical: bool) -> Call[Decided]:
    path = f"/answers/{segment(answer)}/undo"
    return send(path, Decided, expected_mark_id=expected, apply_to_identical=identical)


def refit(course: str) -> Call[Refit]:
    return send(f"/courses/{segment(course)}/calibration", Refit)


def end_refit(
    course: str, calibration: str, how: Literal["apply", "discard"]
) -> Call[RefitApplied]:
    path = f"/courses/{segment(course)}/calibration/{segment(calibration)}/{how}"
    return send(path, RefitApplied)


def regrade(course: str, questions: Sequence[AnyQuestion]) -> Call[Regrade]:
    path = f"/courses/{segment(course)}/regrade"
    return send(path, Regrade, questions=[question_body(question) for question in questions])


def read_regrade(regrade: str) -> Call[Regrade]:
    return get(f"/regrades/{segment(regrade)}", Regrade)


def end_regrade(regrade: str, how: Literal["apply", "discard"]) -> Call[Regrade]:
    return send(f"/regrades/{segment(regrade)}/{how}", Regrade)


def release(course: str, renew: bool) -> Call[Release]:
    return send(f"/courses/{segment(course)}/release", Release, renew=renew)


def revoke(course: str) -> Call[None]:
    path = f"/courses/{segment(course)}/release"
    return Call(path, lambda: Whole(lambda data: None), method="DELETE")


def decide_contest(contest: str, state: str, comment: str | None) -> Call[WireContest]:
    return send(f"/contests/{segment(contest)}", WireContest, state=state, comment=comment)


class ReviewMethods:
    """Answers, decisions, refits and release, for the blocking client."""

    def answers(
        self: Asks,
        course_id: str,
        *,
        order: Order = "upload",
        flag: str | None = None,
        question: str | None = None,
        state: Which = "all",
        offset: int = 0,
        limit: int = 100,
    ) -> AnswerPage:
        """A page of answers with the marks that stand."""
        return self._one(
            answers(
                course_id,
                order=order,
                flag=flag,
                question=question,
                state=state,
                offset=offset,
                limit=limit,
            )
        )

    def answer(self: Asks, answer_id: str) -> AnswerDetail:
        """One answer with its question, verdicts, history and objections."""
        return self._one(answer(answer_id))

    def decide(
        self: Asks,
        answer_id: str,
        verdicts: Mapping[str, bool],
        *,
        expected_mark_id: int | None,
        comment: str | None = None,
        apply_to_identical: bool = False,
    ) -> Decided:
        """Confirm or override a mark; status 409 where another one stands by now."""
        return self._one(decide(answer_id, verdicts, expected_mark_id, comment, apply_to_identical))

    def undo(
        self: Asks, answer_id: str, *, expected_mark_id: int, apply_to_identical: bool = False
    ) -> Decided:
        """Take a teacher's mark back; the one before it stands again."""
        return self._one(undo(answer_id, expected_mark_id, apply_to_identical))

    def refit(self: Asks, course_id: str) -> Refit:
        """Propose a calibration from what has been confirmed; it changes nothing."""
        return self._one(refit(course_id))

    def apply_calibration(self: Asks, course_id: str, calibration: str) -> RefitApplied:
        """Let a proposed calibration count for all answers that nobody has decided."""
        return self._one(end_refit(course_id, calibration, "apply"))

    def discard_calibration(self: Asks, course_id: str, calibration: str) -> RefitApplied:
        """Let a proposed calibration go."""
        return self._one(end_refit(course_id, calibration, "discard"))

    def regrade(self: Asks, course_id: str, asked: Sequence[AnyQuestion]) -> Regrade:
        """Try edited questions on the answers that have marks; it changes nothing."""
        return self._one(regrade(course_id, asked))

    def read_regrade(self: Asks, regrade_id: str) -> Regrade:
        """How far a trial is, who would change and by how much."""
        return self._one(read_regrade(regrade_id))

    def apply_regrade(self: Asks, regrade_id: str) -> Regrade:
        """Let the edited questions count; a teacher's mark goes on standing."""
        return self._one(end_regrade(regrade_id, "apply"))

    def discard_regrade(self: Asks, regrade_id: str) -> Regrade:
        """Let a trial go."""
        return self._one(end_regrade(regrade_id, "discard"))

    def release(self: Asks, course_id: str, *, renew: bool = False) -> Release:
        """Make each student a link to their own results; only this reply shows them."""
        return self._one(release(course_id, renew))

    def revoke(self: Asks, course_id: str) -> None:
        """Let no link work any more."""
        self._one(revoke(course_id))

    def decide_contest(
        self: Asks, contest_id: str, state: Literal["upheld", "changed"], comment: str | None = None
    ) -> WireContest:
        """Say what came of a student's objection."""
        return self._one(decide_contest(contest_id, state, comment))


class AsyncReviewMethods:
    """`ReviewMethods` for asyncio."""

    async def answers(
        self: AsksAsync,
        course_id: str,
        *,
        order: Order = "upload",
        flag: str | None = None,
        question: str | None = None,
        state: Which = "all",
        offset: int = 0,
        limit: int = 100,
    ) -> AnswerPage:
        """See `ReviewMethods.answers`."""
        return await self._one(
            answers(
                course_id,
                order=order,
                flag=flag,
                question=question,
                state=state,
                offset=offset,
                limit=limit,
            )
        )

    async def answer(self: AsksAsync, answer_id: str) -> AnswerDetail:
        """See `ReviewMethods.answer`."""
        return await self._one(answer(answer_id))

    async def decide(
        self: AsksAsync,
        answer_id: str,
        verdicts: Mapping[str, bool],
        *,
        expected_mark_id: int | None,
        comment: str | None = None,
        apply_to_identical: bool = False,
    ) -> Decided:
        """See `ReviewMethods.decide`."""
        return await self._one(
            decide(answer_id, verdicts, expected_mark_id, comment, apply_to_identical)
        )

    async def undo(
        self: AsksAsync, answer_id: str, *, expected_mark_id: int, apply_to_identical: bool = False
    ) -> Decided:
        """See `ReviewMethods.undo`."""
        return await self._one(undo(answer_id, expected_mark_id, apply_to_identical))

    async def refit(self: AsksAsync, course_id: str) -> Refit:
        """See `ReviewMethods.refit`."""
        return await self._one(refit(course_id))

    async def apply_calibration(self: AsksAsync, course_id: str, calibration: str) -> RefitApplied:
        """See `ReviewMethods.apply_calibration`."""
        return await self._one(end_refit(course_id, calibration, "apply"))

    async def discard_calibration(
        self: AsksAsync, course_id: str, calibration: str
    ) -> RefitApplied:
        """See `ReviewMethods.discard_calibration`."""
        return await self._one(end_refit(course_id, calibration, "discard"))

    async def regrade(self: AsksAsync, course_id: str, asked: Sequence[AnyQuestion]) -> Regrade:
        """See `ReviewMethods.regrade`."""
        return await self._one(regrade(course_id, asked))

    async def read_regrade(self: AsksAsync, regrade_id: str) -> Regrade:
        """See `ReviewMethods.read_regrade`."""
        return await self._one(read_regrade(regrade_id))

    async def apply_regrade(self: AsksAsync, regrade_id: str) -> Regrade:
        """See `ReviewMethods.apply_regrade`."""
        return await self._one(end_regrade(regrade_id, "apply"))

    async def discard_regrade(self: AsksAsync, regrade_id: str) -> Regrade:
        """See `ReviewMethods.discard_regrade`."""
        return await self._one(end_regrade(regrade_id, "discard"))

    async def release(self: AsksAsync, course_id: str, *, renew: bool = False) -> Release:
        """See `ReviewMethods.release`."""
        return await self._one(release(course_id, renew))

    async def revoke(self: AsksAsync, course_id: str) -> None:
        """See `ReviewMethods.revoke`."""
        await self._one(revoke(course_id))

    async def decide_contest(
        self: AsksAsync,
        contest_id: str,
        state: Literal["upheld", "changed"],
        comment: str | None = None,
    ) -> WireContest:
        """See `ReviewMethods.decide_contest`."""
        return await self._one(decide_contest(contest_id, state, comment))
