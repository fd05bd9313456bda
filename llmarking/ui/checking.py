"""What the second step says of a class before it is handed in, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from llmarking.errors import LLMarkingError
from llmarking.tables import files as tables
from llmarking.ui.faults import explained, put
from llmarking.ui.intake import Intake
from llmarking.ui.texts import Language, say

SHOWN = 8
LINES_NAMED = 12
CUT = 200  # characters of a cell


def checked(intake: Intake, language: Language) -> str:
    """What was recognised, and what keeps the class from being handed in."""
    said = _questions(intake, language)
    if intake.upload is None:
        said.append(_line("note", language, "answers_missing"))
    elif intake.marks_only:
        source = put(language, intake.upload.kind.said)
        said.append(
            _line("problem", language, "gradebook_dropped", file=intake.upload.file, source=source)
        )
    elif intake.found is not None:
        said += _answers(intake, intake.upload, intake.found, language)
    if intake.problem is not None:
        said += _fault(intake.problem, language)
    if intake.upload is not None:
        notes = dict.fromkeys((*intake.upload.notes, *(intake.found.notes if intake.found else ())))
        said += [f'<p class="lm-note">{escape(put(language, text))}</p>' for text in notes]
    return "".join(said)


def _line(kind: str, language: Language, key: str, **values: object) -> str:
    return f'<p class="lm-{kind}">{escape(say(language, key, **values))}</p>'


def _fault(error: LLMarkingError, language: Language) -> list[str]:
    """What is wrong with a table, and what can be done about it."""
    why = f'<p class="lm-problem">{escape(explained(language, error))}</p>'
    return [why, _line("note", language, "choose_columns")]


def _questions(intake: Intake, language: Language) -> list[str]:
    if intake.asked_problem is not None:
        return _fault(intake.asked_problem, language)
    if not intake.asked or intake.questions_from is None:
        return [_line("note", language, "questions_missing")]
    points = sum(len(question.points) for question in intake.asked)
    count, file = len(intake.asked), intake.questions_from[0]
    return [_line("good", language, "questions_read", count=count, points=points, file=file)]


def _answers(
    intake: Intake, upload: tables.Upload, found: tables.Class, language: Language
) -> list[str]:
    assert intake.columns is not None
    said = [
        _line(
            "good",
            language,
            "answers_read",
            count=len(found.answers),
            students=len({answer.student or answer.row for answer in found.answers}),
            file=upload.file,
            source=_source(upload, language),
            form=put(language, upload.form),
        )
    ]
    empty = [str(each.line) for each in found.answers if not (each.text or "").strip()]
    standing = tables.standing(upload, intake.columns, found.answers)
    for key, lines in (("empty_answers", empty), ("marks_stand", standing)):
        if lines:
            said.append(_line("note", language, key, count=len(lines), lines=_some(lines)))
    return said


def _source(upload: tables.Upload, language: Language) -> str:
    """Where the file comes from; nothing was recognised where the teacher chose the columns."""
    if upload.kind is tables.Kind.UNKNOWN:
        return say(language, "columns_chosen")
    return put(language, upload.kind.said)


def _some(lines: Iterable[str]) -> str:
    """The first few of them; an answer to each of two questions stands in one line."""
    unique = list(dict.fromkeys(lines))
    return ", ".join(unique[:LINES_NAMED]) + (" …" if len(unique) > LINES_NAMED else "")


def asked_preview(intake: Intake, language: Language) -> str:
    """The first questions with their points, or else the first rows of their table."""
    if intake.asked:
        rows = [
            (
                *((question.code, question.text) if point is question.points[0] else ("", "")),
                f"{point.id}: {point.text}",
                f"{point.mark:g}",
            )
            for question in intake.asked[:SHOWN]
            for point in question.points
        ]
        names = ("column_question", "column_text", "column_point", "column_worth")
        heads = [say(language, key) for key in names]
        return _table(say(language, "asked_preview"), heads, rows, ("", "", "", "lm-number"))
    return "" if intake.asked_upload is None else _raw(intake.asked_upload, language)


def preview(intake: Intake, language: Language) -> str:
    """The first answers as they are understood, or else the first rows of their table."""
    if intake.found is None:
        return "" if intake.upload is None else _raw(intake.upload, language)
    rows = [
        (str(each.line), each.student, each.name, each.question, each.text or "")
        for each in intake.found.answers[:SHOWN]
    ]
    names = ("column_line", "column_student", "column_name", "column_question", "answer")
    heads = [say(language, key) for key in names]
    styles = ("lm-number", "lm-name", "lm-name", "", "lm-cut")
    return _table(say(language, "preview"), heads, rows, styles)


def _raw(upload: tables.Upload, language: Language) -> str:
    heads = [put(language, upload.title(place)) for place in range(len(upload.headers))]
    title = say(language, "raw_rows", file=upload.file)
    return _table(title, heads, upload.sample(SHOWN), [""] * len(heads))


def _table(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str]
) -> str:
    """A table under a heading; each column has its style."""
    top = "".join(
        f'<th scope="col" class="{style}">{escape(head)}</th>'
        for head, style in zip(heads, styles, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{style}">{escape(cell[:CUT])}</td>'
            for cell, style in zip(row, styles, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<p class="lm-heading">{escape(title)}</p>'
        f'<div class="lm-scroll"><table class="lm-table"><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def targets(intake: Intake, language: Language) -> str:
    """Where marks and feedback will be written."""
    if intake.upload is None or intake.columns is None or intake.found is None:
        return ""
    said = [
        say(
            language,
            "goes_into",
            what=target.key,
            mark=put(language, target.mark),
            feedback=put(language, target.feedback),
        )
        for target in tables.targets(intake.upload, intake.columns)
    ]
    more = [f"… (+{len(said) - SHOWN})"] if len(said) > SHOWN else []
    return "".join(f'<p class="lm-muted">{escape(text)}</p>' for text in said[:SHOWN] + more)
