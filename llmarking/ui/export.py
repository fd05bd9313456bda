"""What goes out: the teacher's own file with marks, all results, links for students, deletion.

Files go through routes of our own behind the same login. gradio's file cache, whose files any user
can fetch by address, never holds them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from html import escape
from typing import Any, NamedTuple, cast
from urllib.parse import quote, urlencode

import gradio as gr
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from llmarking.calls.jobs import FileFormat
from llmarking.client import AsyncClient
from llmarking.domain import Flag
from llmarking.errors import DataError, LLMarkingError, RequestRefused
from llmarking.protocol.courses import AnswerRow, WirePoint
from llmarking.sentences import sentence
from llmarking.tables import files as tables
from llmarking.ui.desk import Desk, note, told
from llmarking.ui.faults import explained
from llmarking.ui.login import Sessions
from llmarking.ui.shelf import Filled, Shelf
from llmarking.ui.texts import TEXTS, Language, language_of, say

PAGE = 1000
KINDS = {
    "csv": "text/csv; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "json": "application/json",
}
BINARY = "application/octet-stream"


class ExportParts(NamedTuple):
    """The components of the last step."""

    files: gr.HTML
    release: gr.Button
    revoke: gr.Button
    links: gr.HTML


class DeletionParts(NamedTuple):
    """The components of the deletion of the class."""

    name: gr.Textbox
    delete: gr.Button
    said: gr.HTML


class ExportPage:
    """The functions behind the last step."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    @told
    async def files(self, course: str, request: gr.Request) -> str:
        """What can be downloaded."""
        if not course:
            return ""
        language, client = self._desk.language(request), self._desk.client(request)
        about = await client.course(course)
        undecided = about.answers - about.decided
        said = note(say(language, "undecided_note", count=undecided)) if undecided else ""
        links = [
            _link("lm-own", "download", language, course=course, upload=upload.id).format(
                file=escape(upload.filename)
            )
            for upload in await client.uploads(course)
            if upload.kind == "answers"
        ]
        links += [
            _link("", "download_all", language, course=course, kind=kind).format(kind=kind.upper())
            for kind in KINDS
        ]
        links.append(_link("", "download_audit", language, course=course, kind="audit"))
        return f'{said}<ul class="lm-downloads">{"".join(links)}</ul>'

    @told
    async def release(self, course: str, request: gr.Request) -> str:
        """Make a link for each student, shown this once."""
        language, client = self._desk.language(request), self._desk.client(request)
        made = await client.release(course, renew=True)
        rows = "".join(
            f"<tr><td>{escape(link.student)}</td><td>{escape(link.name)}</td>"
            f'<td><input readonly value="{escape(client.url + link.path)}"></td></tr>'
            for link in made.links
        )
        heads = "".join(
            f'<th scope="col">{escape(say(language, key))}</th>'
            for key in ("column_student", "column_name", "column_link")
        )
        return (
            note(say(language, "released", count=len(made.links)), "good")
            + f'<div class="lm-scroll lm-links"><table class="lm-table"><thead><tr>{heads}</tr>'
            f"</thead><tbody>{rows}</tbody></table></div>"
        )

    @told
    async def revoke(self, course: str, request: gr.Request) -> str:
        """Let no link work any more."""
        await self._desk.client(request).revoke(course)
        return note(say(self._desk.language(request), "revoked"), "good")

    @told
    async def delete(self, course: str, name: str, request: gr.Request) -> list[Any]:
        """Delete the course whose name was typed; return its id or nothing, and a sentence."""
        language, client = self._desk.language(request), self._desk.client(request)
        about = await client.course(course)
        if name.strip() != about.name.strip():
            return [gr.skip(), note(say(language, "delete_wrong"), "problem")]
        await client.delete_course(course)
        return ["", note(say(language, "deleted"), "good")]


def _link(style: str, key: str, language: Language, **query: str) -> str:
    """A link to the route of exports; the places of its text are left open."""
    address = escape(f"/export?{urlencode(query)}")
    text = escape(TEXTS[key][language])
    return f'<li class="{style}"><a class="lm-download" href="{address}" download>{text}</a></li>'


async def filled(client: AsyncClient, course: str, upload: str, language: Language) -> Filled:
    """The uploaded file with the marks that stand.

    Raises:
        DataError: there is no such file in this course.
    """
    listed = {each.id: each for each in await client.uploads(course)}
    if upload not in listed:
        raise DataError(sentence("no_such_file", "the class has no such file"))
    about = listed[upload]
    data = await client.upload_bytes(upload)
    worth = {question.code: question.points for question in await client.questions(course)}
    marks: dict[tuple[int, int], tables.Marking] = {}
    async for row in all_answers(client, course):
        source = row.source or {}
        if source.get("upload") == upload and row.mark is not None:
            place = (int(source["row"] or 0), int(source["item"] or 0))
            marks[place] = marking(row, worth.get(row.question, []), language)

    def fill() -> Filled:
        taken = tables.detect(data, about.filename)
        columns = tables.columns_of(dict(about.mapping or {}), taken)
        out = tables.export(taken, columns, marks)
        return Filled(out.data, out.name)

    return await asyncio.to_thread(fill)


async def all_answers(client: AsyncClient, course: str) -> AsyncIterator[AnswerRow]:
    """The answers of a course in the order in which they were handed in."""
    offset, total = 0, 1
    while offset < total:
        page = await client.answers(course, order="upload", offset=offset, limit=PAGE)
        offset, total = offset + PAGE, page.total
        for row in page.answers:
            yield row


def marking(row: AnswerRow, points: list[WirePoint], language: Language) -> tables.Marking:
    """What is written beside an answer: the mark, and a sentence for the student."""
    verdicts: Mapping[int, bool | None] = {int(p): held for p, held in row.verdicts.items()}
    parts = [
        say(
            language,
            "feedback_point",
            point=point.id,
            earned=f"{point.mark if verdicts.get(point.id) else 0:g}",
            worth=f"{point.mark:g}",
        )
        for point in points
    ]
    unread = row.state == "proposed" and Flag.EMPTY in row.flags
    parts.append(say(language, "feedback_empty" if unread else f"feedback_{row.state}"))
    return tables.Marking(row.mark or 0.0, row.full_mark or 0.0, verdicts, "; ".join(parts))


def export_route(sessions: Sessions, shelf: Shelf) -> Any:
    """The endpoint of `/export?course=…&upload=…`, `…&kind=…` or `/export?made=…`.

    The guard has seen the login.
    """

    async def export(request: Request) -> Response:
        """A file as an attachment, kept by nobody on its way."""
        client = sessions.client(request)
        if client is None:  # it ran out since the guard looked
            return RedirectResponse("/login", 303)
        asked = request.query_params
        course = asked.get("course", "")
        language = language_of(request.headers.get("accept-language"))
        if "made" in asked:
            waiting = shelf.take(request, asked["made"])
            if waiting is None:
                return PlainTextResponse(say(language, "gradebook_gone"), 404)
            return _attachment(waiting, BINARY)
        try:
            made, kind = await _made(
                client,
                course,
                asked.get("upload"),
                asked.get("kind", ""),
                language,
            )
        except RequestRefused as error:
            return PlainTextResponse(explained(language, error), error.status or 400)
        except LLMarkingError as error:
            return PlainTextResponse(explained(language, error), 400)
        return _attachment(made, kind)

    return export


def _attachment(made: Filled, kind: str) -> Response:
    return Response(
        made.data,
        media_type=kind,
        headers={
            "content-disposition": f"attachment; filename*=UTF-8''{quote(made.name)}",
            "cache-control": "no-store",
        },
    )


async def _made(
    client: AsyncClient, course: str, upload: str | None, kind: str, language: Language
) -> tuple[Filled, str]:
    if upload is not None:
        return await filled(client, course, upload, language), BINARY
    if kind == "audit":
        audit = await client.audit(course)
        return Filled(audit, f"{course}_audit.jsonl"), "application/x-ndjson"
    if kind not in KINDS:
        fault = sentence(
            "no_such_export",
            "there is no export of that kind; there are {known}",
            known=", ".join((*KINDS, "audit")),
        )
        raise DataError(fault)
    jobs = [job for job in await client.jobs(course) if job.kind == "grade"]
    if not jobs:
        raise DataError(sentence("nothing_graded", "nothing has been graded yet"))
    data = await client.job_file(jobs[0].id, cast(FileFormat, kind))
    return Filled(data, f"{course}_results.{kind}"), KINDS[kind]


def build_files(i18n: gr.I18n) -> gr.HTML:
    """The files of the class, to be downloaded."""
    gr.Markdown(i18n("export_hint"))
    return gr.HTML(elem_id="files")


def build_export(i18n: gr.I18n, files: gr.HTML) -> ExportParts:
    """The links for students."""
    with gr.Accordion(i18n("release_title"), open=True):
        gr.Markdown(i18n("release_hint"))
        with gr.Row():
            release = gr.Button(i18n("release"), elem_id="release")
            revoke = gr.Button(i18n("revoke"), elem_id="revoke")
        links = gr.HTML(elem_id="links")
    return ExportParts(files, release, revoke, links)


def build_deletion(i18n: gr.I18n) -> DeletionParts:
    """The deletion of the class."""
    with gr.Accordion(i18n("delete_title"), open=False):
        gr.Markdown(i18n("delete_hint"))
        with gr.Row(elem_classes="lm-form"):
            name = gr.Textbox(label=i18n("class_name"), max_length=200, elem_id="delete-name")
            delete = gr.Button(i18n("delete"), variant="stop", elem_id="delete")
    said = gr.HTML(elem_id="deleted")
    return DeletionParts(name, delete, said)
