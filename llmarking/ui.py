"""The teacher's page: upload, check, grade, review, export. The only importer of gradio.

A class lives in the memory of one browser session. The only file written is the export, in a folder
that goes with the program.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import fastapi
import gradio as gr
import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmarking import courses, tables
from llmarking.client import AsyncClient
from llmarking.domain import Question
from llmarking.errors import LLMarkingError, RequestRefused
from llmarking.protocol import GradeResponse

AT_ONCE = 8
MAX_FILE = "20mb"
SAMPLE = Path(__file__).resolve().parents[1] / "data" / "short" / "EXAMPLE"
COLUMNS = ["No.", "Question", "Answer", "Mark", "Of", "Certainty %", "Look at it"]
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'"
)
_CHINESE = {
    "questions": "题目文件（CSV、TSV、XLSX 或 JSON）",
    "answers": "答案文件（CSV、TSV 或 XLSX）",
    "sample": "使用示例班级",
    "grade": "3. 开始评分",
    "stop": "停止",
    "review": "4. 复核：最不确定的排在最前",
    "answer": "学生答案",
    "points": "得分点（勾选即得分）",
    "export": "5. 导出 CSV",
    "check": "2. 检查",
    "progress": "进度",
}
_ENGLISH = {
    "questions": "Questions (CSV, TSV, XLSX or JSON)",
    "answers": "Answers (CSV, TSV or XLSX)",
    "sample": "Use the sample class",
    "grade": "3. Grade",
    "stop": "Stop",
    "review": "4. Review, least certain first",
    "answer": "Answer",
    "points": "Points; tick those that are earned",
    "export": "5. Export CSV",
    "check": "2. Check",
    "progress": "Progress",
}


@dataclass(slots=True)
class Session:
    """What one browser works on. `results` and `overrides` go by the number of the answer."""

    asked: tuple[Question, ...] = ()
    upload: tables.Upload | None = None
    file: tables.Class | None = None
    results: dict[int, GradeResponse] = field(default_factory=dict)
    overrides: dict[int, set[int]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    chosen: int | None = None
    running: bool = False
    stopped: bool = False
    export: Path | None = None

    def check(self) -> str:
        """Match answers to questions, and say what was recognised."""
        self.file, self.chosen = None, None
        for kept in (self.results, self.overrides, self.failures):
            kept.clear()
        said = [f"{len(self.asked)} questions." if self.asked else "Questions are missing."]
        if self.upload is None:
            return "\n".join([*said, "Answers are missing."])
        if self.asked:
            self.file = tables.class_from(self.upload, self.upload.columns, self.asked)
            said.append(f"{len(self.file.answers)} answers in {self.upload.file}.")
            said.append(f"Recognised as: {self.upload.kind} ({self.upload.form}).")
            said += [
                f"{target.key}: mark in {target.mark}, feedback in {target.feedback}"
                for target in tables.targets(self.upload, self.upload.columns)
            ]
            said += [*self.upload.notes, *self.file.notes]
            empty = [str(a.line) for a in self.file.answers if not (a.text or "").strip()]
            if empty:
                said.append(f"Empty answers in lines {', '.join(empty[:20])}.")
        return "\n".join(said)

    def earned(self, index: int) -> set[int]:
        """The points that an answer gets: the teacher's word above the model's."""
        if index in self.overrides:
            return self.overrides[index]
        return {point.id for point in self.results[index].points if point.held}

    def mark(self, index: int) -> float:
        """The sum of the points that it gets."""
        earned = self.earned(index)
        return round(sum(p.mark for p in self.results[index].points if p.id in earned), 6)

    def rows(self) -> list[list[Any]]:
        """The table to review, least certain first; what the teacher decided comes last."""
        assert self.file is not None
        order = sorted(
            self.results,
            key=lambda i: (
                i in self.overrides,
                not self.results[i].needs_review,
                _certainty(self.results[i]),
                i,
            ),
        )
        return [
            [
                index + 1,
                self.file.answers[index].question,
                (self.file.answers[index].text or "")[:200],
                self.mark(index),
                self.results[index].full_mark,
                round(100 * _certainty(self.results[index])),
                "decided"
                if index in self.overrides
                else ", ".join(self.results[index].flags)
                or ("unsure" if self.results[index].needs_review else ""),
            ]
            for index in order
        ]

    def markings(self) -> dict[tuple[int, int], tables.Marking]:
        """What is written into the table."""
        assert self.file is not None
        found = {}
        for index, result in self.results.items():
            earned = self.earned(index)
            notes = [
                f"Point {p.id}: {p.mark if p.id in earned else 0:g} of {p.mark:g}"
                for p in result.points
            ]
            if index in self.overrides:
                notes.append("decided by the teacher")
            elif result.needs_review:
                notes.append("to be reviewed")
            found[self.file.answers[index].place] = tables.Marking(
                self.mark(index),
                result.full_mark,
                {p.id: p.id in earned for p in result.points},
                "; ".join(notes),
            )
        return found


class Page:
    """The functions behind the buttons."""

    def __init__(self, url: str | None, api_key: str | None, folder: Path) -> None:
        self._url, self._key, self._folder = url, api_key, folder

    def questions(self, path: str, session: Session) -> str:
        """Take the questions from an uploaded file, and delete it."""
        try:
            self._idle(session)
            if path.lower().endswith(".json"):
                session.asked = courses.read(path).questions
            else:
                session.asked = _questions(*_uploaded(path))
            return session.check()
        except LLMarkingError as error:
            return f"Problem: {str(error).replace(path, Path(path).name)}"
        finally:
            Path(path).unlink(missing_ok=True)

    def answers(self, path: str, session: Session) -> str:
        """Take the answers from an uploaded file, and delete it."""
        try:
            self._idle(session)
            session.upload = tables.detect(*_uploaded(path))
            return session.check()
        except LLMarkingError as error:
            return f"Problem: {error}"
        finally:
            Path(path).unlink(missing_ok=True)

    def sample(self, session: Session) -> str:
        """Take the class that is shipped."""
        try:
            self._idle(session)
            first, second = (SAMPLE / f"EXAMPLE_CSV{n}.csv" for n in (1, 2))
            session.asked = _questions(first.read_bytes(), first.name)
            session.upload = tables.detect(second.read_bytes(), second.name)
            return session.check()
        except LLMarkingError as error:
            return f"Problem: {error}"

    async def grade(self, session: Session) -> AsyncIterator[tuple[str, list[list[Any]]]]:
        """Grade what is not graded yet, a few at once; tell how far it is."""
        if session.file is None or session.running:
            yield ("Already grading." if session.running else "Upload a class first."), []
            return
        asked = {question.code: question for question in session.asked}
        everything = session.file.answers
        todo = [
            (index, answer)
            for index, answer in enumerate(everything)
            if index not in session.results
        ]
        session.running, session.stopped = True, False
        session.failures.clear()
        began, done, queue = time.monotonic(), len(session.results), iter(todo)

        async def work(client: AsyncClient) -> None:
            for index, answer in queue:
                if session.stopped:
                    return
                try:
                    session.results[index] = await client.grade(
                        asked[answer.question], answer.text or ""
                    )
                except LLMarkingError as error:
                    session.failures[index] = str(error)
                    if not isinstance(error, RequestRefused) or error.status in (401, 403):
                        session.stopped = True  # it would be the same for all others

        tasks: list[asyncio.Task[None]] = []
        try:
            async with AsyncClient(self._url, self._key) as client:
                tasks = [asyncio.create_task(work(client)) for _ in range(AT_ONCE)]
                left: set[asyncio.Task[None]] = set(tasks)
                while left:
                    _, left = await asyncio.wait(left, timeout=0.5)
                    now = len(session.results)
                    yield _progress(now, len(everything), now - done, began), session.rows()
                for task in tasks:
                    task.result()
            yield _outcome(session, len(everything)), session.rows()
        finally:
            for task in tasks:
                task.cancel()
            session.running = False

    def stop(self, session: Session) -> str:
        """Begin no more answers."""
        session.stopped = True
        return "Stopping: the answers that are under way are finished."

    def open(self, number: int, session: Session) -> tuple[str, Any, str]:
        """Show an answer by its number from 1."""
        index = int(number) - 1
        if session.file is None or index not in session.results:
            return "", gr.CheckboxGroup(choices=[], value=[]), ""
        session.chosen = index
        choices = [
            (f"Point {p.id} ({p.mark:g}): {p.text} — {_percent(p.probability)}", p.id)
            for p in session.results[index].points
        ]
        value = sorted(session.earned(index))
        answer = session.file.answers[index]
        return (
            answer.text or "",
            gr.CheckboxGroup(choices=choices, value=value),
            _shown(session, index),
        )

    def override(self, earned: list[int], session: Session) -> tuple[str, list[list[Any]]]:
        """The teacher's verdicts on the answer that is shown."""
        if session.chosen is None:
            return "Choose an answer first.", []
        session.overrides[session.chosen] = {int(point) for point in earned}
        return _shown(session, session.chosen), session.rows()

    def export(self, session: Session) -> str:
        """Write the table with its marks; it is deleted once it has been handed over."""
        if session.upload is None or session.file is None or not session.results:
            raise gr.Error("Nothing is graded yet.", print_exception=False)
        written = tables.export(session.upload, session.upload.columns, session.markings())
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        session.export = folder / written.name
        session.export.write_bytes(written.data)
        return str(session.export)

    def cleared(self, session: Session) -> None:
        """Delete our copy of the export; gradio's own goes with its cache."""
        if session.export is not None:
            session.export.unlink(missing_ok=True)
            session.export = None

    @staticmethod
    def _idle(session: Session) -> None:
        if session.running:
            raise LLMarkingError("grading is under way; stop it first")


def _questions(data: bytes, name: str) -> tuple[Question, ...]:
    upload = tables.detect(data, name)
    return tuple(draft.question() for draft in tables.questions_from(upload, upload.columns))


def _uploaded(path: str) -> tuple[bytes, str]:
    return Path(path).read_bytes(), Path(path).name


def _certainty(result: GradeResponse) -> float:
    """How far the least certain verdict is from a coin's, from 0 to 1."""
    return min(
        (0.0 if p.probability is None else abs(2 * p.probability - 1) for p in result.points),
        default=0.0,
    )


def _percent(probability: float | None) -> str:
    return "no probability" if probability is None else f"{probability:.0%}"


def _shown(session: Session, index: int) -> str:
    result = session.results[index]
    return f"No. {index + 1}: {session.mark(index):g} of {result.full_mark:g}"


def _progress(now: int, total: int, fresh: int, began: float) -> str:
    said = f"{now} of {total} graded"
    if fresh and now < total:
        seconds = (time.monotonic() - began) / fresh * (total - now)
        left = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(seconds, 1):.0f} s"
        said += f", about {left} left"
    return said


def _outcome(session: Session, total: int) -> str:
    said = f"{len(session.results)} of {total} graded"
    if session.failures:
        first = min(session.failures)
        said += (
            f"; {len(session.failures)} failed. The first is no. {first + 1}: "
            f"{session.failures[first]}. Press Grade to try them again."
        )
    elif session.stopped:
        said += "; stopped. Press Grade to go on."
    return said


def build(page: Page, i18n: gr.I18n) -> gr.Blocks:
    """The page."""
    blocks: gr.Blocks
    with gr.Blocks(title="LLMarking", analytics_enabled=False, delete_cache=(600, 600)) as blocks:
        session = gr.State(Session(), time_to_live=24 * 3600)
        gr.Markdown("# LLMarking\n1. Upload → 2. Check → 3. Grade → 4. Review → 5. Export")
        with gr.Row():
            questions = gr.File(
                label=i18n("questions"),
                file_types=[".csv", ".tsv", ".txt", ".xls", ".xlsx", ".json"],
            )
            answers = gr.File(
                label=i18n("answers"), file_types=[".csv", ".tsv", ".txt", ".xls", ".xlsx"]
            )
        sample = gr.Button(i18n("sample"))
        checked = gr.Textbox(label=i18n("check"), lines=4, interactive=False)
        with gr.Row():
            grade = gr.Button(i18n("grade"), variant="primary")
            stop = gr.Button(i18n("stop"), variant="stop")
        progress = gr.Textbox(label=i18n("progress"), interactive=False)
        table = gr.Dataframe(
            headers=COLUMNS,
            datatype=["number", "str", "str", "number", "number", "number", "str"],
            label=i18n("review"),
            type="array",
            interactive=False,
            max_chars=80,
            show_search="filter",
        )
        number = gr.Number(visible=False, precision=0)
        mark = gr.Textbox(show_label=False, interactive=False)
        text = gr.Textbox(label=i18n("answer"), lines=4, interactive=False)
        points = gr.CheckboxGroup(label=i18n("points"), choices=[], interactive=True)
        export = gr.Button(i18n("export"), variant="primary")
        file = gr.File(label="CSV", interactive=False)

        questions.upload(page.questions, [questions, session], checked, api_name="questions")
        answers.upload(page.answers, [answers, session], checked, api_name="answers")
        sample.click(page.sample, session, checked, api_name="sample")
        grade.click(page.grade, session, [progress, table], api_name="grade")
        stop.click(page.stop, session, progress, queue=False, api_name="stop")
        opened = [text, points, mark]
        table.select(_number, None, number, api_visibility="private").then(
            page.open, [number, session], opened, api_name="open"
        )
        points.input(page.override, [points, session], [mark, table], api_name="override")
        export.click(page.export, session, file, api_name="export").then(
            page.cleared, session, None, api_visibility="private"
        )
    blocks.queue(default_concurrency_limit=16)
    return blocks


def _number(event: gr.SelectData) -> int:
    """The number of the answer in the row that was clicked."""
    return int(event.row_value[0])


class _LocalOnly:
    """Tells browsers to fetch nothing from elsewhere."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = _POLICY
                headers["referrer-policy"] = "no-referrer"
            await send(message)

        await self._app(scope, receive, with_policy)


def create_app(url: str | None, api_key: str | None, folder: Path) -> fastapi.FastAPI:
    """The page as an app; with a key it is behind a login whose password is the key."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    chinese: dict[str, Any] = {"zh": _CHINESE, "zh-CN": _CHINESE}
    i18n = gr.I18n(en=_ENGLISH, **chinese)

    def known(_: str, password: str) -> bool:
        return hmac.compare_digest(password.encode(), (api_key or "").encode())

    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_LocalOnly)
    gr.mount_gradio_app(
        app,
        build(Page(url, api_key, folder), i18n),
        path="/",
        auth=known if api_key else None,
        auth_message="Any name; the password is the API key of the server.",
        run_history=False,
        footer_links=[],
        max_file_size=MAX_FILE,
        ssr_mode=False,
        show_error=False,
        i18n=i18n,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )
    return app


def serve(url: str | None, api_key: str | None, host: str, port: int) -> None:
    """Serve the page until it is stopped."""
    with tempfile.TemporaryDirectory(prefix="llmarking-") as folder:
        app = create_app(url, api_key, Path(folder))
        print(f"LLMarking for teachers: http://{host}:{port}", flush=True)
        if host not in ("127.0.0.1", "localhost", "::1") and not api_key:
            print("Everybody who reaches this address can use the page: set an API key.")
        uvicorn.run(app, host=host, port=port, log_level="warning")
