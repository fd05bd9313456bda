"""The teacher's pages, put together. Only this package imports gradio.

A class lives on the server from the moment it is handed in; the page's address holds its id and
nothing else. Before that, its files are in the memory of one browser session.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import fastapi
import gradio as gr
import uvicorn

from llmarking.ui.desk import Desk
from llmarking.ui.export import (
    DeletionParts,
    ExportPage,
    ExportParts,
    build_deletion,
    build_export,
    build_files,
    export_route,
)
from llmarking.ui.frame import FramePage, build_frame
from llmarking.ui.grade import GradePage, GradeParts, build_grade
from llmarking.ui.gradebook import GradebookPage, GradebookParts, build_gradebook
from llmarking.ui.intake import Intake
from llmarking.ui.leaving import LeavingPage, LeavingParts, build_leaving
from llmarking.ui.login import LOOPBACK, Guard, Sessions, login_routes
from llmarking.ui.overview import (
    OverviewPage,
    OverviewParts,
    RefitParts,
    build_load,
    build_overview,
    build_refit,
)
from llmarking.ui.review import ReviewPage, ReviewParts, build_filters, build_review, listener
from llmarking.ui.rubric import RubricPage, RubricParts, build_rubric
from llmarking.ui.shelf import Shelf
from llmarking.ui.texts import PREFIX, translations
from llmarking.ui.upload import CheckParts, UploadPage, UploadParts, build_check, build_upload

MAX_FILE = "20mb"
_STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
# The address changes without a reload, so that a reload comes back to the class.
_GO_TO = "(id) => { if (id) history.replaceState(null, '', '?course=' + encodeURIComponent(id)); }"
_LEAVE = "(id) => { if (!id) location.assign('/'); }"
# No event of ours is part of an API, and none needs gradio's queue: grading is done elsewhere.
_QUIET: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}


class Labels(gr.I18n):
    """Our texts as gradio's translation takes them, under keys that nothing else is called by."""

    def __call__(self, key: str) -> Any:
        """What the browser puts the text of this name for."""
        return super().__call__(f"{PREFIX}{key}")


class Parts(NamedTuple):
    """Every component that something else on the page refers to."""

    top: gr.HTML
    steps: gr.Walkthrough
    entered: dict[str, gr.Step]
    course: gr.Textbox
    intake: gr.State
    upload: UploadParts
    check: CheckParts
    grade: GradeParts
    review: ReviewParts
    overview: OverviewParts
    refit: RefitParts
    rubric: RubricParts
    to_export: gr.Button
    export: ExportParts
    gradebook: GradebookParts
    leaving: LeavingParts
    deletion: DeletionParts

    @property
    def progress(self) -> list[Any]:
        """What `GradePage` returns values for."""
        grade = self.grade
        return [
            *(grade.progress, grade.pause, grade.resume, grade.cancel, grade.review),
            *(grade.table, grade.place, grade.seen, grade.timer),
        ]

    @property
    def filters(self) -> list[Any]:
        """What `ReviewPage.fill` takes."""
        review = self.review
        return [self.course, review.which, review.flag, review.question, review.queue]

    @property
    def drawn(self) -> list[Any]:
        """What `ReviewPage` returns values for."""
        review = self.review
        return [review.queue, review.message, review.rows, review.panel]

    @property
    def pictures(self) -> list[Any]:
        """What `OverviewPage.look` returns values for."""
        whole = self.overview
        return [whole.load, whole.marks, whole.difficulty, whole.agreement]


def build(desk: Desk, i18n: gr.I18n) -> gr.Blocks:
    """The pages."""
    blocks: gr.Blocks
    with gr.Blocks(
        title="LLMarking", analytics_enabled=False, delete_cache=(600, 600), fill_width=True
    ) as blocks:
        top = build_frame()
        course = gr.Textbox(visible=False)
        intake = gr.State(Intake(), time_to_live=24 * 3600)
        entered = {}
        with gr.Walkthrough(selected=1, elem_id="steps") as steps:
            with gr.Step(i18n("step_upload"), id=1) as entered["upload"]:
                upload = build_upload(i18n)
            with gr.Step(i18n("step_check"), id=2) as entered["check"]:
                check = build_check(i18n)
            with gr.Step(i18n("step_grade"), id=3) as entered["grade"]:
                grade = build_grade(i18n)
            with gr.Step(i18n("step_review"), id=4) as entered["review"]:
                with gr.Row():
                    risk = build_load(i18n)
                    filters = build_filters(i18n)
                load = gr.HTML(elem_id="load")
                review = build_review(i18n, filters)
                to_export = gr.Button(i18n("go_export"), variant="primary", elem_id="go-export")
                refit = build_refit(i18n)
                rubric = build_rubric(i18n)
                overview = build_overview(i18n, risk, load)
            with gr.Step(i18n("step_export"), id=5) as entered["export"]:
                files = build_files(i18n)
                gradebook = build_gradebook(i18n)
                export = build_export(i18n, files)
                leaving = build_leaving(i18n)
                deletion = build_deletion(i18n)
        parts = Parts(
            *(top, steps, entered, course, intake, upload, check, grade, review),
            *(overview, refit, rubric, to_export, export, gradebook, leaving, deletion),
        )
        _wire_upload(parts, UploadPage(desk))
        _wire_grade(parts, GradePage(desk))
        _wire_review(parts, ReviewPage(desk), OverviewPage(desk))
        _wire_rubric(parts, RubricPage(desk), ReviewPage(desk), OverviewPage(desk))
        _wire_export(parts, ExportPage(desk))
        _wire_gradebook(parts, GradebookPage(desk))
        _wire_leaving(parts, LeavingPage(desk), ExportPage(desk), GradebookPage(desk))
        _wire_frame(blocks, parts, desk)
    return blocks


def _wire_upload(parts: Parts, page: UploadPage) -> None:
    upload, check, intake = parts.upload, parts.check, parts.intake
    taken = [intake, upload.problem, parts.steps, *check.understood]
    upload.questions.upload(page.questions, [upload.questions, intake], taken, **_QUIET)
    upload.answers.upload(page.answers, [upload.answers, intake], taken, **_QUIET)
    upload.sample.click(page.sample, intake, taken, **_QUIET)
    for columns, remap in (
        (check.of_questions, page.remap_questions),
        (check.of_answers, page.remap),
    ):
        for column in columns:
            column.input(remap, [*columns, intake], taken, **_QUIET)
    check.start.click(
        page.start,
        [intake, check.name, check.explain, check.shots],
        [parts.course, parts.steps, check.problem, intake],
        **(_QUIET | {"show_progress": "minimal"}),
    )


def _wire_grade(parts: Parts, page: GradePage) -> None:
    grade, course = parts.grade, parts.course
    again = [course, grade.offset]
    grade.timer.tick(page.look, [*again, grade.seen], parts.progress, **_QUIET)
    grade.pause.click(page.pause, again, parts.progress, **_QUIET)
    grade.resume.click(page.resume, again, parts.progress, **_QUIET)
    grade.cancel.click(page.cancel, again, parts.progress, **_QUIET)
    for button, handler in ((grade.earlier, page.earlier), (grade.later, page.later)):
        button.click(handler, again, [*parts.progress, grade.offset], **_QUIET)
    grade.review.click(lambda: gr.Walkthrough(selected=4), None, parts.steps, **_QUIET)
    parts.entered["grade"].select(page.again, again, parts.progress, **_QUIET)


def _wire_review(parts: Parts, page: ReviewPage, whole: OverviewPage) -> None:
    review, overview, refit, course = parts.review, parts.overview, parts.refit, parts.course
    look = (whole.look, [course, overview.risk], parts.pictures)
    for choice in (review.which, review.flag, review.question):
        choice.input(page.fill, parts.filters, parts.drawn, **_QUIET)
    listener(review.rows, "open")(page.open, review.queue, parts.drawn, **_QUIET)
    listener(review.panel, "act")(page.act, [course, review.queue], parts.drawn, **_QUIET).then(
        *look, trigger_mode="always_last", **_QUIET
    )
    # Not its release: that waits, for a number that is typed, until the field is left.
    overview.risk.input(*look, trigger_mode="always_last", **_QUIET)
    parts.entered["review"].select(page.fill, parts.filters, parts.drawn, **_QUIET)
    parts.entered["review"].select(
        whole.enter,
        [course, overview.risk, overview.entered],
        [overview.risk, overview.entered, *parts.pictures],
        **_QUIET,
    )
    proposed = [refit.proposal, refit.found, refit.apply, refit.discard]
    refit.refit.click(whole.refit, course, proposed, **_QUIET)
    refit.discard.click(whole.discard, [course, refit.proposal], proposed, **_QUIET)
    refit.apply.click(whole.apply, [course, refit.proposal], proposed, **_QUIET).then(
        page.fill, parts.filters, parts.drawn, **_QUIET
    ).then(*look, **_QUIET)
    parts.to_export.click(lambda: gr.Walkthrough(selected=5), None, parts.steps, **_QUIET)


def _wire_rubric(parts: Parts, page: RubricPage, review: ReviewPage, whole: OverviewPage) -> None:
    rubric, course = parts.rubric, parts.course
    tried = [rubric.trial, rubric.found, rubric.apply, rubric.discard, rubric.timer]
    edited = [rubric.text, rubric.reference]
    chosen = [course, rubric.question]
    course.change(page.questions, course, rubric.question, **_QUIET)
    course.change(page.open, course, tried, **_QUIET)
    rubric.question.change(page.chosen, chosen, edited, **_QUIET)
    rubric.attempt.click(page.attempt, [*chosen, *edited], tried, **_QUIET)
    rubric.timer.tick(page.look, rubric.trial, tried, **_QUIET)
    rubric.discard.click(page.discard, rubric.trial, tried, **_QUIET).then(
        page.chosen, chosen, edited, **_QUIET
    )
    rubric.apply.click(page.apply, rubric.trial, tried, **_QUIET).then(
        review.fill, parts.filters, parts.drawn, **_QUIET
    ).then(whole.look, [course, parts.overview.risk], parts.pictures, **_QUIET)


def _wire_export(parts: Parts, page: ExportPage) -> None:
    export, course = parts.export, parts.course
    parts.entered["export"].select(page.files, course, export.files, **_QUIET)
    export.release.click(page.release, course, export.links, **_QUIET)
    export.revoke.click(page.revoke, course, export.links, **_QUIET)
    whole = parts.deletion
    whole.delete.click(page.delete, [course, whole.name], [course, whole.said], **_QUIET).then(
        None, course, None, js=_LEAVE, **_QUIET
    )


def _wire_gradebook(parts: Parts, page: GradebookPage) -> None:
    book, course = parts.gradebook, parts.course
    book.file.upload(page.drop, [book.file, course, book.dropped], book.shown, **_QUIET)
    book.file.clear(page.clear, book.dropped, book.shown, **_QUIET)
    chosen = [course, book.student, book.overwrite, book.dropped]
    again = [book.dropped, book.into, book.said]
    book.student.input(page.choose, chosen, again, **_QUIET)
    book.overwrite.input(page.choose, chosen, again, **_QUIET)
    placed = [book.dropped, book.said]
    listener(book.into, "into")(page.place, [course, book.dropped], placed, **_QUIET)


def _wire_leaving(
    parts: Parts, page: LeavingPage, exports: ExportPage, gradebooks: GradebookPage
) -> None:
    leaving, course = parts.leaving, parts.course
    said = [leaving.found, leaving.again, leaving.delete]
    leaving.look.click(page.look, [course, leaving.student], said, **_QUIET)
    leaving.student.submit(page.look, [course, leaving.student], said, **_QUIET)
    leaving.delete.click(
        page.delete, [course, leaving.student, leaving.again], said, **_QUIET
    ).then(exports.files, course, parts.export.files, **_QUIET).then(
        # What was filled in before holds the student's mark.
        gradebooks.clear,
        parts.gradebook.dropped,
        parts.gradebook.shown,
        **_QUIET,
    )


def _wire_frame(blocks: gr.Blocks, parts: Parts, desk: Desk) -> None:
    """What happens when the page opens, and when a class is handed in."""
    frame, uploads, grades = FramePage(desk), UploadPage(desk), GradePage(desk)
    reviews = ReviewPage(desk)
    grade, review, course = parts.grade, parts.review, parts.course
    blocks.load(uploads.classes, None, parts.upload.classes, **_QUIET)
    blocks.load(reviews.choices, None, [review.which, review.flag], **_QUIET)
    blocks.load(frame.top, course, parts.top, **_QUIET)
    blocks.load(frame.opened, None, [course, parts.steps], **_QUIET)
    course.change(None, course, None, js=_GO_TO, **_QUIET)
    course.change(frame.top, course, parts.top, **_QUIET)
    course.change(grades.again, [course, grade.offset], parts.progress, **_QUIET)
    course.change(reviews.questions, course, review.question, **_QUIET)


def create_app(
    url: str | None, api_key: str | None, folder: Path, *, local: bool = True
) -> fastapi.FastAPI:
    """The pages as an app, behind a login by the server's keys.

    Args:
        url: the server, as `AsyncClient` takes it.
        api_key: the one key that opens the pages; None takes any that the server knows.
        folder: where files lie while they are uploaded.
        local: the pages are for this machine alone.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    chinese: dict[str, Any] = translations()
    i18n = Labels(**chinese)
    sessions, shelf = Sessions(url, api_key), Shelf()
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, sessions=sessions)
    for path, methods, endpoint in login_routes(sessions, local=local):
        app.add_api_route(path, endpoint, methods=methods, response_model=None)
    app.add_api_route(
        "/export", export_route(sessions, shelf), methods=["GET"], response_model=None
    )
    gr.mount_gradio_app(
        app,
        build(Desk(sessions, shelf), i18n),
        path="/",
        run_history=False,
        footer_links=[],
        max_file_size=MAX_FILE,
        ssr_mode=False,
        show_error=False,
        i18n=i18n,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=_STYLE,
    )
    return app


def serve(url: str | None, api_key: str | None, host: str, port: int) -> None:
    """Serve the pages until they are stopped."""
    with tempfile.TemporaryDirectory(prefix="llmarking-") as folder:
        local = host in LOOPBACK
        app = create_app(url, api_key, Path(folder), local=local)
        print(f"LLMarking for teachers: http://{host}:{port}", flush=True)
        if not local and not api_key:
            print(
                "If the server has no API keys, everybody who reaches this address can use the "
                "pages and read every class: give the server keys."
            )
        uvicorn.run(app, host=host, port=port, log_level="warning")
