"""What the demo prints: each marked answer, and a summary beside the verdicts given by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llmarking.console.feedback import FLAGS, teacher_mark
from llmarking.domain import Question, StudentAnswer
from llmarking.errors import RequestRefused
from llmarking.protocol.bodies import GradeResponse, PointResult
from llmarking.sentences import counted
from llmarking.terminal import printable


@dataclass(frozen=True, slots=True)
class Marked:
    """An answer with its grade, or with why there is none."""

    question: Question
    answer: StudentAnswer
    grade: GradeResponse | None
    error: RequestRefused | None = None


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds that each part took; `loading` is None for a server that ran already."""

    loading: float | None
    verdicts: float
    explanations: float


COLUMNS = ("answers", "points", "review", "marks", "by hand", "of", "agree", "kappa", "all True")
LEGEND = """\
review: points a teacher should look at. marks, by hand: mean marks of an answer, from the model \
and by hand. agree, kappa: how far the model's verdicts on points agree with those by hand, as a \
share and as Cohen's kappa. all True: the share if every point were held stated; its kappa is 0.
The course is small, made up, and much like what the default model's adapter was trained on. It \
shows that the set-up works; how good the model is stands in docs/grading.md."""
_SIGNS = {True: ("✓", "green"), False: ("✗", "red"), None: ("?", "yellow")}


def say(out: Console, text: str, style: str = "") -> None:
    """Print text as it is: nothing in it is read as markup."""
    out.print(_text(text, style))


def print_marked(out: Console, marked: Marked) -> None:
    """One answer with its mark, a line for every point, and what a teacher should look at."""
    answer, grade = marked.answer, marked.grade
    out.print()
    title = _text(f"{answer.id}  {answer.quality}".rstrip(), "bold")
    if grade is None:
        out.print(title.append(f"  not graded: {printable(str(marked.error))}", "red"))
        return
    title.append(f"  {grade.mark:g} of {grade.full_mark:g} marks")
    if answer.verdicts is not None:
        title.append(f", by hand {teacher_mark(grade, answer.verdicts):g}", "not bold dim")
    out.print(title)
    shown = _text(answer.text) if answer.text.strip() else _text("(empty)", "dim")
    out.print(Padding(shown, (0, 0, 0, 2), expand=False))
    table = Table.grid(padding=(0, 1))
    for width in (1, 1, 2, 7, 5):
        table.add_column(width=width, justify="right")
    table.add_column(overflow="fold")
    for point in grade.points:
        sign, style = _SIGNS[point.held]
        earned = f"{point.mark if point.held else 0:g}/{point.mark:g}"
        probability = "–" if point.probability is None else f"{point.probability:.0%}"
        cells = [Text(cell, style) for cell in (sign, str(point.id), earned, probability)]
        table.add_row("", *cells, _point(point, answer))
    out.print(table)
    for flag in grade.flags:
        say(out, f"  ! {FLAGS[flag]}", "yellow")


def _point(point: PointResult, answer: StudentAnswer) -> Text:
    """The point, and below it what is to be said about the verdict."""
    lines = [_text(point.text)]
    if point.needs_review:
        lines[0].append(" (unsure)", "yellow")
    by_hand = None if answer.verdicts is None else answer.verdicts[point.id]
    if by_hand not in (None, point.held):
        lines.append(_text(f"by hand: {'stated' if by_hand else 'not stated'}", "dim"))
    if point.evidence:
        lines.append(_text(f"“{point.evidence}”", "italic"))
    if point.reason:
        lines.append(_text(point.reason, "italic"))
    return Text("\n").join(lines)


def summarise(marked: Sequence[Marked], times: Times, *, explained: int) -> dict[str, Any]:
    """Everything the demo found out, as one object: the whole, then question by question."""
    codes = dict.fromkeys(one.question.code for one in marked)
    graded = [one.grade for one in marked if one.grade]
    whole = _row(marked)
    about = {"model", "adapter", "prompt_version", "calibration", "shots"}
    return {
        **(graded[0].model_dump(include=about) if graded else {}),
        **whole,
        "failed": len(marked) - len(graded),
        "explained": explained,
        "seconds": {
            "loading": times.loading and round(times.loading, 1),
            "verdicts": round(times.verdicts, 2),
            "explanations": round(times.explanations, 1),
        },
        "answers_per_second": round(len(graded) / times.verdicts, 2),
        "points_per_second": round(whole["points"] / times.verdicts, 2),
        "questions": [
            {"code": code, **_row([one for one in marked if one.question.code == code])}
            for code in codes
        ],
    }


def _row(marked: Sequence[Marked]) -> dict[str, Any]:
    """Counts, mean marks, and agreement on the points that have a verdict from both sides."""
    graded = [(one.answer, one.grade) for one in marked if one.grade]
    points = [(answer, point) for answer, grade in graded for point in grade.points]
    pairs = [
        (point.held, answer.verdicts[point.id])
        for answer, point in points
        if answer.verdicts is not None and point.held is not None
    ]
    by_hand = [teacher_mark(grade, a.verdicts) for a, grade in graded if a.verdicts is not None]
    model = [held for held, _ in pairs]
    hand = [held for _, held in pairs]
    return {
        "answers": len(graded),
        "points": len(points),
        "mean_mark": _mean([grade.mark for _, grade in graded]),
        "mean_mark_by_hand": _mean(by_hand),
        "full_mark": _mean([grade.full_mark for _, grade in graded]),
        "points_for_review": sum(point.needs_review for _, point in points),
        "answers_for_review": sum(grade.needs_review for _, grade in graded),
        "accuracy": _mean([a == b for a, b in pairs]),
        "kappa": kappa(model, hand),
        "all_true": {
            "accuracy": _mean([float(held) for held in hand]),
            "kappa": kappa([True] * len(hand), hand),
        },
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def kappa(one: Sequence[bool], other: Sequence[bool]) -> float | None:
    """Cohen's kappa; None where chance alone would agree on everything."""
    if not one:
        return None
    p, q = sum(one) / len(one), sum(other) / len(other)
    chance = p * q + (1 - p) * (1 - q)
    observed = sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
    return None if chance == 1 else round((observed - chance) / (1 - chance), 4)


def print_summary(out: Console, summary: dict[str, Any]) -> None:
    """The table of questions, how to read it, and how long everything took."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("question", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in summary["questions"]:
        table.add_row(row["code"], *_cells(row))
    table.add_row("all", *_cells(summary), style="bold")
    out.print()
    out.rule(style="dim")
    out.print(table)
    out.print()
    say(out, LEGEND, "dim")
    out.print()
    seconds = summary["seconds"]
    answers = counted(summary["answers"], "answer", "answers")
    took = f"{answers} with {counted(summary['points'], 'point', 'points')}"
    took += f" in {seconds['verdicts']:.1f} s: {summary['answers_per_second']:.1f} answers"
    say(out, f"{took} and {summary['points_per_second']:.1f} points a second.")
    if summary["explained"]:
        explained = counted(summary["explained"], "answer", "answers")
        say(out, f"{explained} explained in {seconds['explanations']:.1f} s.")
    if seconds["loading"] is not None:
        say(out, f"The server was ready after {seconds['loading']:.0f} s.")
    if summary["failed"]:
        say(out, f"{counted(summary['failed'], 'answer', 'answers')} could not be graded.", "red")


def _cells(row: dict[str, Any]) -> list[str]:
    def share(value: float | None) -> str:
        return "–" if value is None else f"{value:.0%}"

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    return [
        str(row["answers"]),
        str(row["points"]),
        str(row["points_for_review"]),
        number(row["mean_mark"]),
        number(row["mean_mark_by_hand"]),
        f"{row['full_mark']:g}" if row["full_mark"] is not None else "–",
        share(row["accuracy"]),
        number(row["kappa"]),
        share(row["all_true"]["accuracy"]),
    ]


def _text(text: str, style: str = "") -> Text:
    # A Text is never read as markup, whatever a student put into it.
    return Text(printable(text), style=style)
