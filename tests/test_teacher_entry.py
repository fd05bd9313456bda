"""The teacher's pages in a browser, over a real server on the engine without a model."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import openpyxl
import pytest
from browser import chromium, serving_pages, walk
from conftest import serving, wait_until
from hostile_files import REFUSED
from openpyxl.styles import Font

from llmarking.client import AsyncClient, Client
from llmarking.engines.scripted import ScriptedEngine
from llmarking.protocol.courses import AnswerPage, Summary
from llmarking.settings import ServerSettings
from llmarking.store.database import open_store

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

pytestmark = pytest.mark.filterwarnings(
    "default",  # gradio's own warnings
    # It leaves its loops to the garbage collector; the browser holds connections to the end.
    "ignore:unclosed (event loop|resource|<socket):ResourceWarning",
)

KEY = "key-of-this-test-3f81"
CANARY = "kanarienvogel-7c1f"
EVIL = (
    f'{CANARY} <img src="/{CANARY}.png" onerror="document.title=1">'
    " <script>document.title=2</script>"
)


def reason(prompt: str) -> str:
    """What the model writes of a point that is held: the point again."""
    point = re.findall(r"Point: ([^\n]+)", prompt)[-1]
    return json.dumps({"reason": f"It says: {point}."})


@dataclass
class Site:
    """A server and the pages in front of it."""

    server: str
    pages: str
    client: Client


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("pages")
    store = open_store(f"sqlite:///{folder / 'llmarking.db'}")
    engine = ScriptedEngine(reply=reason, delay=0.01)
    with (
        contextlib.closing(store),
        serving(engine, ServerSettings(api_keys=(KEY,)), store) as server,
        serving_pages(str(server), folder) as pages,
        Client(server, KEY) as client,
    ):
        yield Site(str(server), pages, client)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@dataclass
class Visit:
    """A page, and what it asked for and complained about."""

    page: Page
    urls: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Open a page in a fresh profile."""
    with contextlib.ExitStack() as stack:

        def start(**view: Any) -> Visit:
            size = {"width": 1280, "height": 900}
            context = browser.new_context(**({"viewport": size, "locale": "en-GB"} | view))
            stack.callback(context.close)
            made = Visit(context.new_page())
            made.page.set_default_timeout(30_000)
            made.page.on("request", lambda request: made.urls.append(request.url))
            made.page.on("pageerror", lambda error: made.errors.append(str(error)))
            return made

        yield start


def no_shot(page: Page, name: str) -> None:
    """Pictures are taken by the script only."""


def test_a_teacher_uploads_grades_reviews_and_exports(
    site: Site, visit: Callable[..., Visit], tmp_path: Path
) -> None:
    made = visit()
    page = made.page
    walk.log_in(page, site.pages, KEY)
    files = walk.class_files(tmp_path)
    course, exported = walk.walk(page, files, no_shot)
    before = list(csv.reader(io.StringIO(files[1].read_text("utf-8"))))
    after = list(csv.reader(io.StringIO(exported.decode("utf-8"))))
    assert [row[: len(before[0])] for row in after] == before
    assert after[0][-2:] == ["LLMarking mark", "LLMarking feedback"]
    assert all(row[-2] for row in after[1:])
    marks = {row.position: row.mark for row in site.client.answers(course, limit=1000).answers}
    assert [float(row[-2]) for row in after[1:]] == [marks[n] for n in sorted(marks)]
    assert page.locator("#panel .lm-text mark").count()
    decided = site.client.course(course).decided
    assert sum("the teacher" in row[-1] for row in after) == decided >= 5
    assert made.errors == []
    # What was loaded came from the pages themselves.
    assert {url.split("/")[2] for url in made.urls if "://" in url} == {site.pages.split("/")[2]}


# Gradio's dropdown on a slow machine, where its choices are exchanged while it closes. Nobody sees
# it, and what was chosen counts.
GRADIO_DROPDOWN = "Cannot read properties of undefined (reading '0')"


def choose(page: Page, field: str, option: str) -> None:
    """Take a column in one of the fields of the second step, and wait for what it changes."""
    with settled(page):
        page.click(f"#{field} input")
        listed = page.locator(f"#{field} input").get_attribute("aria-controls")
        page.click(f"#{listed} [role=option]:has-text('{option}')")
        page.keyboard.press("Tab")


def test_columns_that_nobody_could_guess_are_chosen_on_the_page(
    site: Site, visit: Callable[..., Visit], tmp_path: Path
) -> None:
    asked, answered = tmp_path / "fragen.xlsx", tmp_path / "klasse.xlsx"
    written = openpyxl.Workbook()
    assert written.active is not None
    written.active.append(["Nr.", "Gefragt", "Höchstens", "So soll es sein"])
    for code in ("A1", "A2"):
        written.active.append([code, f"What is {code}?", 2, "It <Point1:2>stores pairs<Point1:2>."])
    written.save(asked)
    written = openpyxl.Workbook()
    assert written.active is not None
    sheet = written.active
    sheet.append(["Kennung", "Wer", "Wozu", "Geschrieben", "Mal zwei", "Erreicht"])
    for who, code, text in (("0007", "A1", EVIL), ("0008", "A2", "'=1+1"), ("0007", "A2", "-")):
        sheet.append([who, "Ann", code, text, "=2*F2", None])
    sheet.append([9, "Ben", "A1", "pairs", -5, None])
    sheet["A5"].number_format = "0000"
    sheet["F1"].font = Font(italic=True)
    written.save(answered)
    made = visit()
    page = made.page
    walk.log_in(page, site.pages, KEY)
    for slot, file in (("questions", asked), ("answers", answered)):
        with settled(page):
            page.locator(f"#{slot}-file input[type=file]").set_input_files(file)
    assert "Gefragt" in page.locator("#asked-preview").inner_text()
    assert "Geschrieben" in page.locator("#preview").inner_text()
    for column, option in (
        ("asked-reference", "So soll es sein"),
        ("asked-code", "Nr."),
        ("asked-text", "Gefragt"),
        ("asked-full-mark", "Höchstens"),
        ("columns", "Geschrieben"),
        ("student-column", "Kennung"),
        ("name-columns", "Wer"),
        ("mark-column", "Erreicht"),
    ):
        choose(page, column, option)
    assert page.locator("#code-column input").input_value() == "Wozu"
    page.click("#start")
    page.wait_for_url("**/?course=*")
    course = page.url.rpartition("=")[2]
    page.click("#go-review")
    page.wait_for_selector("#panel .lm-panel:visible")
    after = openpyxl.load_workbook(io.BytesIO(walk.export(page, no_shot))).active
    assert after is not None
    rows = list(after.iter_rows(values_only=True))
    assert [row[:5] for row in rows] == list(sheet.iter_rows(values_only=True, max_col=5))
    assert [row[5] for row in rows] == [
        "Erreicht",
        *(row.mark for row in site.client.answers(course, order="upload").answers),
    ]
    assert rows[0][6] == "LLMarking feedback"
    assert str(rows[3][6]).endswith("there is no answer")
    assert after["A5"].number_format == "0000"
    assert after["F1"].font.italic
    assert {row.student for row in site.client.answers(course).answers} == {"0007", "0008", "0009"}
    assert [error for error in made.errors if error != GRADIO_DROPDOWN] == []
    assert page.title() == "LLMarking"


@pytest.fixture
def course(site: Site) -> str:
    """A class of three students; two of them wrote the same, one wrote what nobody should run."""
    question = {
        "code": "Q1",
        "text": "What is a hash table?",
        "reference": "It <Point1:2>stores pairs<Point1:2> and <Point2:1>is fast<Point2:1>.",
    }
    texts = [EVIL, "It stores pairs under keys.", "It stores pairs under keys."]
    answers = [
        {"student": f"00{n}", "name": CANARY, "question": "Q1", "text": text}
        for n, text in enumerate(texts)
    ]
    made = site.client.create_job(
        {"course": {"name": "Class <8a>"}, "questions": [question], "answers": answers}
    )
    wait_until(lambda: site.client.job(made.id).state == "finished")
    return made.course


def open_review(page: Page, site: Site, course: str) -> None:
    """The review of a class, logged in and ready for the keyboard."""
    walk.log_in(page, site.pages, KEY)
    page.goto(f"{site.pages}/?course={course}")
    page.wait_for_selector("#panel .lm-panel:visible")


@contextlib.contextmanager
def settled(page: Page) -> Iterator[None]:
    """At the end, wait until the page has asked for nothing for half a second."""
    asked: set[Request] = set()
    quiet_since = time.monotonic()

    def ended(request: Request) -> None:
        nonlocal quiet_since
        asked.discard(request)
        quiet_since = time.monotonic()

    def began(request: Request) -> None:
        if "/run/predict" in request.url:
            asked.add(request)

    page.on("request", began)
    page.on("requestfinished", ended)
    page.on("requestfailed", ended)
    yield
    deadline = time.monotonic() + 30
    while asked or time.monotonic() - quiet_since < 0.5:
        assert time.monotonic() < deadline, "the page does not come to rest"
        page.wait_for_timeout(50)
    page.remove_listener("request", began)
    page.remove_listener("requestfinished", ended)
    page.remove_listener("requestfailed", ended)


def goto_answer(page: Page, text: str) -> None:
    """Click an answer in the queue."""
    page.click(f"#queue tr:has-text('{text}') >> nth=0")
    page.wait_for_function(
        "(text) => document.querySelector('.lm-text')?.innerText.includes(text)", arg=text
    )


def test_the_class_is_fetched_once_while_the_page_opens(
    site: Site, visit: Callable[..., Visit], course: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled: list[str] = []
    fetch = AsyncClient.answers

    async def counted(self: AsyncClient, course_id: str, **query: Any) -> AnswerPage:
        if query.get("order") == "risk":
            filled.append(course_id)
        return await fetch(self, course_id, **query)

    drawn: list[float | None] = []
    summary = AsyncClient.summary

    async def noted(self: AsyncClient, course_id: str, risk: float | None = None) -> Summary:
        drawn.append(risk)
        return await summary(self, course_id, risk=risk)

    monkeypatch.setattr(AsyncClient, "answers", counted)
    monkeypatch.setattr(AsyncClient, "summary", noted)
    headers = {"Authorization": f"Bearer {KEY}"}
    httpx.patch(f"{site.server}/courses/{course}", json={"risk": 0.12}, headers=headers)
    page = visit().page
    with settled(page):
        open_review(page, site, course)
    assert filled == [course]
    assert drawn == [0.12]
    assert page.locator("#risk input[type=number]").input_value() == "12"
    with settled(page):
        page.fill("#risk input[type=number]", "3")
    # A number that is typed counts while the cursor is still in its field.
    assert "at most 3 %" in page.locator("#load").inner_text()
    page.click("#go-export")
    page.wait_for_selector(".lm-download:visible")
    page.click("#steps >> text=Review")  # whoever comes back sees what is new
    wait_until(lambda: filled == [course, course])
    # The slider stays where the teacher has put it.
    wait_until(lambda: drawn[-1] == 0.03)
    assert page.locator("#risk input[type=number]").input_value() == "3"


def test_a_decision_goes_to_identical_answers_and_comes_back(
    site: Site, visit: Callable[..., Visit], course: str
) -> None:
    page = visit().page
    open_review(page, site, course)
    goto_answer(page, "It stores pairs")
    assert "say the same (1)" in page.locator(".lm-same").inner_text()
    page.keyboard.press("1")
    page.keyboard.press("a")
    page.wait_for_selector("#message >> text=1 more that says the same")
    states = [row.state for row in site.client.answers(course).answers]
    assert states == ["proposed", "overridden", "overridden"]
    page.keyboard.press("u")
    page.wait_for_selector("#message >> text=as it was before")
    assert {row.state for row in site.client.answers(course).answers} == {"proposed"}
    goto_answer(page, "It stores pairs")
    page.keyboard.press("i")  # only this one
    page.keyboard.press("a")
    page.wait_for_selector("#message >> text=is decided")
    assert site.client.course(course).decided == 1
    assert len({row.mark_id for row in site.client.answers(course).answers}) == 3


def test_two_teachers_never_overwrite_each_other(
    site: Site, visit: Callable[..., Visit], course: str
) -> None:
    page = visit().page
    open_review(page, site, course)
    goto_answer(page, CANARY)
    answer = site.client.answer(walk.answer_shown(page))
    others = {verdict: not held for verdict, held in answer.verdicts.items()}
    site.client.decide(answer.id, others, expected_mark_id=answer.mark_id)
    page.keyboard.press("a")
    page.wait_for_selector("#message >> text=Somebody else decided")
    assert site.client.answer(answer.id).verdicts == others
    pressed = page.locator(".lm-toggle").evaluate_all(
        "(all) => all.map((one) => one.getAttribute('aria-pressed') === 'true')"
    )
    assert pressed == list(others.values())


def test_the_queue_is_filtered(site: Site, visit: Callable[..., Visit], course: str) -> None:
    page = visit().page
    open_review(page, site, course)
    assert page.locator("#queue [data-row]").count() == 3
    page.keyboard.press("i")
    page.keyboard.press("a")
    page.wait_for_selector("#message .lm-good")
    page.click("#which input")
    page.click("[role=option]:has-text('decided') >> nth=-1")
    page.wait_for_function("() => document.querySelectorAll('#queue [data-row]').length === 1")
    assert "confirmed" in page.locator("#queue").inner_text()


def test_the_decision_that_empties_the_list_can_be_taken_back(
    site: Site, visit: Callable[..., Visit], course: str
) -> None:
    page = visit().page
    open_review(page, site, course)
    for text in (CANARY, "It stores pairs"):
        goto_answer(page, text)
        page.keyboard.press("a")
        page.wait_for_function(
            "(text) => !document.querySelector('.lm-text')?.innerText.includes(text)", arg=text
        )
    page.wait_for_selector("#panel >> text=Nothing is left here")
    assert site.client.course(course).decided == 3
    page.keyboard.press("u")
    page.wait_for_selector("#message >> text=as it was before")
    assert site.client.course(course).decided == 1
    page.keyboard.press("a")
    page.wait_for_selector("#panel >> text=Nothing is left here")
    page.click("#panel [data-do=undo]")
    page.wait_for_selector("#panel .lm-panel")
    assert site.client.course(course).decided == 1


def test_nothing_of_a_student_is_run_logged_stored_or_in_an_address(
    site: Site,
    visit: Callable[..., Visit],
    course: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    made = visit()
    page = made.page
    open_review(page, site, course)
    goto_answer(page, CANARY)
    page.click(".lm-question summary")
    page.keyboard.press("a")
    page.wait_for_selector("#message .lm-good")
    page.click("#go-export")
    page.wait_for_selector(".lm-download:visible")
    # A file at fault, whose content is quoted in what is said about it.
    page.goto(site.pages)
    wrong = tmp_path / "wrong.csv"
    wrong.write_text(f"question_code,question,reference_answer\nQ1,{CANARY},\n", "utf-8")
    page.locator("#questions-file input[type=file]").set_input_files(wrong)
    page.wait_for_selector(".lm-problem:visible")
    assert page.title() == "LLMarking"
    assert made.errors == []
    assert [url for url in made.urls if CANARY in url or KEY in url] == []
    kept = page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    )
    assert CANARY not in kept
    assert KEY not in kept
    assert page.context.cookies()[0]["httpOnly"]
    said = caplog.text + "".join(capfd.readouterr())
    assert CANARY not in said
    assert KEY not in said


def test_headers_that_are_called_like_a_text_of_ours_stay_what_they_are(
    site: Site, visit: Callable[..., Visit], tmp_path: Path
) -> None:
    page = visit(locale="zh-CN").page
    walk.log_in(page, site.pages, KEY)
    for element, file in zip(("questions", "answers"), walk.class_files(tmp_path), strict=True):
        page.locator(f"#{element}-file input[type=file]").set_input_files(file)
    page.wait_for_selector("#preview table")
    assert page.locator("#student-column input").input_value() == "student_id"
    assert page.locator("#columns .token").inner_text().strip() == "answer"
    assert "答案" in page.locator("#preview").inner_text()
    assert "llmarking:" not in page.locator("body").inner_text()


def test_a_chinese_page_says_in_chinese_what_is_wrong_with_a_file(
    site: Site, visit: Callable[..., Visit], tmp_path: Path
) -> None:
    page = visit(locale="zh-CN").page
    walk.log_in(page, site.pages, KEY)
    asked = tmp_path / "q.csv"
    asked.write_text("question_code,question,full_mark,right answer\nQ1,Why?,2,because\n", "utf-8")
    for name in ("unclosed quote", "missing column", "zip bomb", "web page", "damaged"):
        file, data = REFUSED[name]
        page.locator("#questions-file input[type=file]").set_input_files(asked)
        page.wait_for_selector("text=1 道题，1 个得分点")
        (tmp_path / file).write_bytes(data())
        page.locator("#answers-file input[type=file]").set_input_files(tmp_path / file)
        said = page.wait_for_selector(f".lm-problem:visible >> text={file}").inner_text()
        assert re.search("[，；：（]", said), name
        assert not re.search(r"\b(is|has|the|of|line|column|save|as)\b", said), said
        page.reload()
        page.wait_for_selector("#sample:visible")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("locale", "word"), [("en-GB", "Accept"), ("zh-CN", "确认")])
def test_a_tablet_shows_it_all_without_scrolling_sideways(
    site: Site, visit: Callable[..., Visit], course: str, scheme: str, locale: str, word: str
) -> None:
    page = visit(viewport={"width": 768, "height": 1024}, color_scheme=scheme, locale=locale).page
    open_review(page, site, course)
    assert word in page.locator(".lm-keys").inner_text()
    wide = "[...document.querySelectorAll('.lm-panel *, .lm-queue, #steps, .lm-top')]"
    right = page.evaluate(f"Math.max(...{wide}.map((e) => e.getBoundingClientRect().right))")
    assert right <= 768
    assert page.evaluate("document.documentElement.scrollWidth") <= 768
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", colour)[:3]))
    assert (brightness < 150) == (scheme == "dark")


def test_exports_need_the_login_and_tell_what_is_wrong(site: Site, course: str) -> None:
    with httpx.Client(base_url=site.pages) as http:
        path = f"/export?course={course}&kind=csv"
        assert http.get(path).status_code == 303
        assert http.post("/login", data={"key": KEY}).status_code == 303
        file = http.get(path)
        assert file.status_code == 200
        assert file.headers["content-disposition"].startswith("attachment;")
        assert file.headers["cache-control"] == "no-store"
        assert "stores pairs" in file.text
        audit = http.get(f"/export?course={course}&kind=audit")
        assert [json.loads(line)["at"] for line in audit.text.splitlines()]
        assert CANARY not in audit.text
        assert http.get(f"/export?course={course}&kind=exe").status_code == 400
        assert http.get(f"/export?course={course}&upload=none").status_code == 400
        assert http.get("/export?course=none&kind=csv").status_code in (400, 404)


def test_the_pages_fetch_nothing_from_elsewhere(site: Site) -> None:
    with httpx.Client(base_url=site.pages, follow_redirects=True) as http:
        http.post("/login", data={"key": KEY})
        html = http.get("/").text
        tags = re.findall(r"<(?:script|link)\b[^>]*>", html)
        outside = [tag for tag in tags if re.search(r"(?:src|href)=[\"']?(?:https?:)?//", tag)]
        assert [tag for tag in outside if site.pages not in tag] == []
        assert "fonts.googleapis" not in html + http.get("/theme.css").text


def test_students_get_links_and_what_they_contest_comes_first(
    site: Site, visit: Callable[..., Visit], course: str
) -> None:
    page = visit().page
    open_review(page, site, course)
    page.click("#go-export")
    page.click("#release")
    page.wait_for_selector(".lm-links:visible")
    links = page.locator(".lm-links input").evaluate_all("(all) => all.map((one) => one.value)")
    assert len(links) == 3
    mine = httpx.get(links[0]).json()
    [answer] = mine["answers"]
    # One that the teacher has decided comes back to her.
    shown = site.client.answer(answer["id"])
    site.client.decide(shown.id, {"1": True, "2": False}, expected_mark_id=shown.mark_id)
    sent = {"answer": answer["id"], "point": 2, "text": f"I did say so. {EVIL}"}
    assert httpx.post(f"{links[0]}/contest", json=sent).status_code == 201
    page.click("#steps >> text=Review")
    page.wait_for_selector("#panel .lm-contests:visible")
    assert "I did say so." in page.locator(".lm-contests").inner_text()
    assert page.locator("#queue [data-row='0'] .lm-contested").count() == 1
    page.keyboard.press("2")
    page.keyboard.press("a")
    page.wait_for_selector("#message .lm-good")
    [contest] = site.client.answer(answer["id"]).contests
    assert contest.state == "changed"
    assert page.title() == "LLMarking"
    page.click("#go-export")
    page.click("#revoke")
    page.wait_for_selector("#links >> text=No link works")
    assert httpx.get(links[0]).status_code == 404


def test_an_edited_question_says_first_who_would_change(
    site: Site, visit: Callable[..., Visit], course: str
) -> None:
    page = visit().page
    open_review(page, site, course)
    [question] = site.client.questions(course)
    before = {row.id: (row.mark, row.full_mark) for row in site.client.answers(course).answers}
    page.click("text=Change a question")
    page.click("#rubric-question input")
    page.click(f"[role=option] >> text={question.code}")
    box = page.locator("#rubric-reference textarea")
    page.wait_for_function("document.querySelector('#rubric-reference textarea').value")
    was = box.input_value()
    assert was == question.reference
    box.fill(was.replace("<Point1:", "<Point", 1))
    page.click("#rubric-try")
    page.wait_for_selector("#rubric-found .lm-problem")
    worth = question.points[0].mark
    box.fill(was.replace(f"<Point1:{worth:g}>", f"<Point1:{worth + 3:g}>"))
    page.focus("#rubric-try")
    page.keyboard.press("Enter")
    page.wait_for_selector("#rubric-found .lm-table")
    assert page.locator("#rubric-found tbody tr").count() == len(before)
    page.reload()  # the trial is the server's
    page.wait_for_selector("#steps")
    page.click("text=Change a question")
    page.wait_for_selector("#rubric-found .lm-table")
    page.click("#rubric-discard")
    page.wait_for_selector("#rubric-found >> text=Discarded")
    now = {row.id: (row.mark, row.full_mark) for row in site.client.answers(course).answers}
    assert now == before
    page.click("#rubric-question input")
    page.click(f"[role=option] >> text={question.code}")
    page.wait_for_function("document.querySelector('#rubric-reference textarea').value")
    box.fill(was.replace(f"<Point1:{worth:g}>", f"<Point1:{worth + 3:g}>"))
    page.click("#rubric-try")
    page.click("#rubric-apply")
    page.wait_for_selector("#rubric-found >> text=Applied")
    for row in site.client.answers(course).answers:
        mark, full = before[row.id]
        gained = 3 if row.verdicts["1"] else 0
        assert (row.mark, row.full_mark) == ((mark or 0) + gained, (full or 0) + 3)


def downloaded(page: Page, selector: str) -> tuple[str, str]:
    """Name and content of the file behind a link."""
    with page.expect_download() as download:
        page.click(selector)
    text = Path(download.value.path()).read_bytes().decode("utf-8")
    return download.value.suggested_filename, text


def test_a_gradebook_comes_back_with_the_marks_and_says_who_is_missing(
    site: Site, visit: Callable[..., Visit], course: str, tmp_path: Path
) -> None:
    made = visit()
    page = made.page
    open_review(page, site, course)
    page.click("#go-export")
    [first, second, third] = site.client.answers(course).answers
    book = tmp_path / "Noten 7b.csv"
    evil = EVIL.replace('"', "'")
    before = (
        f"Name;Student ID;Ex-{CANARY};Test/6;Oral\r\n"
        f'"{evil}";000; ;;1,5\r\nBob;0;x;;\r\n"B; C";002;x;4,5;2\r\n'
    )
    book.write_bytes(before.encode())
    page.locator("#gradebook-file input[type=file]").set_input_files(book)
    select = page.locator("#gradebook-into select")
    select.wait_for()
    assert page.locator("#gradebook-student input").input_value() == "Student ID"
    assert select.count() == 1  # of one question there is no sum
    chosen = "[...document.querySelector('#gradebook-into select').selectedOptions][0].text"
    assert page.evaluate(chosen) == "– not written –"  # "Test" and "Oral" could both be meant
    assert page.locator("#gradebook-said .lm-download").count() == 0
    select.select_option(label="Test/6")
    page.wait_for_selector(
        "#gradebook-said >> text=Q1 goes into the column Test/6. Cells filled: 1."
    )
    said = page.locator("#gradebook-said").inner_text()
    assert "out of 3 and the file counts to 6" in said
    for text, who in (
        ("In the class and not in the file (1)", second.student),
        ("In the file and not in the class: stays as it is (1)", "line 3: 0 Bob"),
        ("something stands there already and was kept (1)", "line 4: 002 B; C"),
    ):
        page.click(f"#gradebook-said summary:has-text('{text}')")
        assert who in page.locator("#gradebook-said details[open]").last.inner_text()
        page.click(f"#gradebook-said summary:has-text('{text}')")
    name, text = downloaded(page, "#gradebook-said .lm-download")
    assert name == "Noten 7b_graded.csv"
    mark = f"{(first.mark or 0) * 2:g}".replace(".", ",")
    assert text == before.replace("000; ;;", f"000; ;{mark};")
    page.click("#gradebook-overwrite input")
    page.wait_for_selector("#gradebook-said >> text=Cells filled: 2.")
    name, text = downloaded(page, "#gradebook-said .lm-download")
    again = f"{(third.mark or 0) * 2:g}".replace(".", ",")
    assert text == before.replace("000; ;;", f"000; ;{mark};").replace("x;4,5", f"x;{again}")
    link = page.locator("#gradebook-said .lm-download").get_attribute("href") or ""
    # The file is this browser's, and a student who is deleted is in no file any more.
    with httpx.Client(base_url=site.pages) as other:
        assert other.post("/login", data={"key": KEY}).status_code == 303
        assert other.get(link).status_code == 404
    cookies = {c["name"]: c["value"] for c in page.context.cookies()}
    assert httpx.get(site.pages + link, cookies=cookies).status_code == 200
    page.click("text=Delete one student")
    page.fill("#student-id textarea, #student-id input", "000")
    page.click("#student-look")
    page.fill("#student-again textarea, #student-again input", "000")
    page.click("#student-delete")
    page.wait_for_selector("#gradebook-said .lm-download", state="detached")
    assert httpx.get(site.pages + link, cookies=cookies).status_code == 404
    assert made.errors == []
    assert page.title() == "LLMarking"
    assert [url for url in made.urls if CANARY in url] == []
    assert [each.kind for each in site.client.uploads(course)] == []


def test_a_gradebook_at_fault_is_refused_with_row_and_column(
    site: Site, visit: Callable[..., Visit], course: str, tmp_path: Path
) -> None:
    page = visit(locale="zh-CN").page
    open_review(page, site, course)
    page.click("#go-export")
    book = tmp_path / "book.csv"
    for data, said in (
        ("sid,mark\n000,\n001,\n000,\n", "book.csv 第 4 行 “sid”列：出现在两行"),
        ("sid,mark\n000,\n001,1,2\n", "book.csv 第 3 行 第 3 列：表头有 2 列，这里却有 3 个单元格"),
    ):
        book.write_text(data, "utf-8")
        page.locator("#gradebook-file input[type=file]").set_input_files(book)
        page.wait_for_selector(f"#gradebook-said .lm-problem >> text={said}")
        assert page.locator("#gradebook-said .lm-download").count() == 0
        page.click("#gradebook-file button[aria-label]")
        page.wait_for_function("!document.querySelector('#gradebook-said').innerText.trim()")


def test_the_sum_of_several_questions_or_each_in_its_column(
    site: Site, visit: Callable[..., Visit], tmp_path: Path
) -> None:
    asked = [
        {"code": code, "text": f"{code}?", "reference": f"It is <Point1:{n}>so<Point1:{n}>."}
        for n, code in enumerate(("Q1", "Q2"), start=1)
    ]
    answers = [
        {"student": f"00{n}", "name": "A", "question": question["code"], "text": "It is so."}
        for n in range(2)
        for question in asked[: 2 - n]
    ]
    made = site.client.create_job(
        {"course": {"name": "Sums"}, "questions": asked, "answers": answers}
    )
    wait_until(lambda: site.client.job(made.id).state == "finished")
    marks = {
        (row.student, row.question): row.mark or 0
        for row in site.client.answers(made.course).answers
    }
    page = visit().page
    open_review(page, site, made.course)
    page.click("#go-export")
    book = tmp_path / "book.csv"
    book.write_text("id,total,q 1,other\n000,,,\n001,,,\n", "utf-8")
    page.locator("#gradebook-file input[type=file]").set_input_files(book)
    page.wait_for_selector("#gradebook-into select")
    selects = page.locator("#gradebook-into select")
    assert selects.count() == 3
    selects.nth(0).select_option(label="total")
    summed = "The sum of 2 questions goes into the column total. Cells filled: 2."
    page.wait_for_selector(f"#gradebook-said >> text={summed}")
    said = page.locator("#gradebook-said").inner_text()
    assert "what is missing counts 0 in the sum (1)" in said
    selects.nth(2).select_option(label="a new column at the end")
    page.wait_for_selector("#gradebook-said >> text=Q2 goes into a new column at the end.")
    page.wait_for_selector("#gradebook-said >> text=Q2: no answer, nothing written (1)")
    _, text = downloaded(page, "#gradebook-said .lm-download")
    q1, q2 = marks["000", "Q1"], marks["000", "Q2"]
    lone = marks["001", "Q1"]
    assert text.splitlines() == [
        'id,total,q 1,other,"LLMarking mark, Q2"',
        f"000,{q1 + q2:g},{q1:g},,{q2:g}",
        f"001,{lone:g},{lone:g},,",
    ]
    selects.nth(2).select_option(label="total")
    page.wait_for_selector("#gradebook-said .lm-problem >> text=is chosen for two marks")


def test_a_student_is_deleted_by_an_id_that_is_typed_twice(
    site: Site, visit: Callable[..., Visit], course: str
) -> None:
    page = visit().page
    open_review(page, site, course)
    page.click("#go-export")
    page.click("text=Delete one student")
    [first, *_] = site.client.answers(course).answers
    who, before = first.student or "", site.client.course(course).answers
    for wrong in ("nobody", who):
        page.fill("#student-id textarea, #student-id input", wrong)
        page.click("#student-look")
        page.wait_for_selector(f"#student-found >> text={wrong}")
    page.fill("#student-again textarea, #student-again input", f"{who}0")
    page.click("#student-delete")
    page.wait_for_selector("#student-found >> text=nothing was deleted")
    assert site.client.course(course).answers == before
    page.fill("#student-again textarea, #student-again input", who)
    page.click("#student-delete")
    page.wait_for_selector("#student-found >> text=is deleted")
    left = {each.student for each in site.client.answers(course).answers}
    assert left
    assert who not in left
    assert not page.locator("#student-delete").is_visible()


def test_a_class_is_deleted_by_its_name_only(
    site: Site, visit: Callable[..., Visit], course: str
) -> None:
    page = visit().page
    open_review(page, site, course)
    page.click("#go-export")
    page.click("text=Delete this class")
    page.fill("#delete-name textarea, #delete-name input", "Class 8a")
    page.click("#delete")
    page.wait_for_selector("#deleted >> text=not the name")
    assert course in {each.id for each in site.client.courses()}
    page.fill("#delete-name textarea, #delete-name input", "Class <8a>")
    page.click("#delete")
    page.wait_for_url(f"{site.pages}/")
    assert course not in {each.id for each in site.client.courses()}
