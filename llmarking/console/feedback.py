"""Print a marked answer, as it is decided or when it is whole: points, evidence, reasons, total."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llmarking.calls.call import PointReason
from llmarking.domain import Flag, Question, StudentAnswer
from llmarking.protocol.bodies import GradeResponse, PointResult
from llmarking.sentences import counted
from llmarking.terminal import printable

FLAGS = {
    Flag.UNSURE: "the model is unsure of a point",
    Flag.MANIPULATION: "the answer speaks to the grader",
    Flag.HIDDEN_TEXT: "the answer holds text that can't be seen",
    Flag.EMPTY: "the answer is empty",
    Flag.COPIED_QUESTION: "the answer repeats the question",
    Flag.COPIED_REFERENCE: "the answer repeats the reference answer",
    Flag.OTHER_LANGUAGE: "the answer is in another language",
    Flag.TOO_LONG: "the answer is too long for the model",
    Flag.NO_EVIDENCE: "a point was held true, but no words of the answer show it",
    Flag.FORMAT: "a verdict could not be read from what the model wrote",
}
_SIGNS = {True: ("✓", "green"), False: ("✗", "red"), None: ("?", "yellow")}


def print_question(out: Console, question: Question) -> None:
    """The question as a student sees it: never its reference."""
    points = counted(len(question.points), "point", "points")
    marks = counted(question.full_mark, "mark", "marks")
    about = [question.code, question.subject, f"{marks}, {points}"]
    out.print(_text(" · ".join(part for part in about if part), "bold"))
    out.print(_text(question.text))


def print_answer(out: Console, answer: str) -> None:
    """A student's answer, set off from our own words."""
    shown = _text(answer) if answer.strip() else _text("(empty)", "dim")
    out.print()
    out.print(Padding(shown, (0, 0, 0, 2), expand=False))
    out.print()


class Feedback:
    """Prints one answer's feedback; each part once, whether it comes by itself or in the grade."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._points: dict[int, PointResult] = {}
        self._reasons: set[int] = set()

    def point(self, point: PointResult) -> None:
        """One verdict."""
        if not self._points:
            self._row("", "", "marks", "P(stated)", _text("point"), style="dim")
        self._points[point.id] = point
        sign, style = _SIGNS[point.held]
        earned = "–" if point.held is None else f"{point.mark if point.held else 0:g}"
        text = _text(point.text)
        if point.held is None:
            text.append(f" (no verdict: {point.outcome})", "yellow")
        elif point.needs_review:
            text.append(" (unsure)", "yellow")
        probability = "–" if point.probability is None else f"{point.probability:.0%}"
        self._row(sign, f"Point {point.id}", f"{earned} / {point.mark:g}", probability, text, style)

    def reason(self, reason: PointReason) -> None:
        """Why one point was decided so."""
        if reason.id in self._reasons or not (reason.evidence or reason.reason):
            return
        if not self._reasons:
            self._out.print()
        self._reasons.add(reason.id)
        point = self._points.get(reason.id)
        sign, style = _SIGNS[point.held if point else None]
        lines = []
        if reason.evidence:
            lines.append(_text(f"“{reason.evidence}”", "italic"))
        if reason.reason:
            lines.append(_text(reason.reason))
        table = Table.grid(padding=(0, 1))
        table.add_column(width=1, style=style)
        table.add_column(width=8)
        table.add_column()
        table.add_row(sign, f"Point {reason.id}", Text("\n").join(lines))
        self._out.print(table)

    def grade(self, grade: GradeResponse, teacher: Mapping[int, bool] | None = None) -> None:
        """The total, after whatever has not been printed yet."""
        for point in grade.points:
            if point.id not in self._points:
                self.point(point)
        for point in grade.points:
            self.reason(PointReason(id=point.id, evidence=point.evidence, reason=point.reason))
        self._out.print()
        self._out.print(_text(f"Total {grade.mark:g} / {grade.full_mark:g}", "bold"))
        if teacher is not None:
            self._out.print(_text(compare(grade, teacher)))
        if grade.needs_review:
            why = "; ".join([FLAGS[flag] for flag in grade.flags] or [FLAGS[Flag.UNSURE]])
            # The search for evidence may have made a point unsure that was printed as sure.
            unsure = _points([point.id for point in grade.points if point.needs_review])
            where = f" at {unsure}" if unsure else ""
            self._out.print(_text(f"A teacher should look{where}: {why}.", "yellow"))

    def _row(
        self, sign: str, label: str, marks: str, probability: str, text: Text, style: str
    ) -> None:
        # A table of its own for every row, so that it can be printed as soon as it is decided.
        table = Table.grid(padding=(0, 1))
        for width in (1, 8, 9):
            table.add_column(width=width, style=style)
        table.add_column(width=9, justify="right")
        table.add_column(style=style if style == "dim" else "")
        table.add_row(sign, label, marks, probability, text)
        self._out.print(table)


def print_about(out: Console, grade: GradeResponse) -> None:
    """What it was graded with."""
    about = [grade.model, f"{grade.method} method", f"{grade.shots} examples"]
    about += [f"prompt {grade.prompt_version}"]
    if grade.method == "verdict":
        about += [f"calibration {grade.calibration}" if grade.calibration else "not calibrated"]
    out.print(_text(" · ".join(about), "dim"))


def teacher_mark(grade: GradeResponse, teacher: Mapping[int, bool]) -> float:
    """What the teacher's verdicts are worth."""
    return round(sum(p.mark for p in grade.points if teacher.get(p.id)), 6)


def compare(grade: GradeResponse, teacher: Mapping[int, bool]) -> str:
    """The teacher's mark in words, and on which points the grade differs."""
    differ = _points([p.id for p in grade.points if p.held is not teacher.get(p.id)])
    which = f"differing on {differ}" if differ else "the same on every point"
    return f"The teacher gave {teacher_mark(grade, teacher):g} / {grade.full_mark:g}, {which}."


def _points(ids: Sequence[int]) -> str:
    listed = ", ".join(map(str, ids))
    return f"point{'s' if len(ids) > 1 else ''} {listed}" if ids else ""


def print_questions(out: Console, questions: Sequence[Question], *, as_json: bool = False) -> None:
    """A numbered list of questions, without their references."""
    if as_json:
        listed = [
            {"code": q.code, "subject": q.subject, "question": q.text, "full_mark": q.full_mark}
            for q in questions
        ]
        print(json.dumps({"questions": listed}, ensure_ascii=False), file=out.file)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("code", no_wrap=True)
    table.add_column("subject", no_wrap=True)
    table.add_column("marks", justify="right", no_wrap=True)
    table.add_column("question", overflow="ellipsis", no_wrap=True, ratio=1)
    for number, question in enumerate(questions, start=1):
        table.add_row(
            str(number),
            _text(question.code),
            _text(question.subject),
            f"{question.full_mark:g}",
            _text(" ".join(question.text.split())),
        )
    out.print(table)


def print_summary(out: Console, graded: Sequence[tuple[StudentAnswer, GradeResponse]]) -> None:
    """One line for every marked answer, and how often the model and the teacher agree."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("answer", "quality"):
        table.add_column(name, no_wrap=True)
    for name in ("mark", "teacher", "of"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    same = known = 0
    for answer, grade in graded:
        teacher = "–"
        if answer.verdicts is not None:
            teacher = f"{teacher_mark(grade, answer.verdicts):g}"
            known += len(grade.points)
            same += sum(p.held is answer.verdicts.get(p.id) for p in grade.points)
        table.add_row(
            _text(answer.id),
            _text(answer.quality),
            f"{grade.mark:g}",
            teacher,
            f"{grade.full_mark:g}",
            "look" if grade.needs_review else "",
        )
    out.print(table)
    if known:
        out.print(_text(f"The model and the teacher agree on {same} of {known} points."))


def _text(text: str, style: str = "") -> Text:
    # A Text is never read as markup, whatever a student put into it.
    return Text(printable(text), style=style)
