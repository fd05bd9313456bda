#!/usr/bin/env python3
"""Walk through the teacher's pages in a browser, and keep pictures of them for the documents.

It needs chromium and a running server, and takes the pages as they come: every step waits for what
the page should show and fails where it does not.

examples:
  python scripts/screenshots.py --out docs/images
  python scripts/screenshots.py --url http://gpu-box:8000 --out /tmp/pictures
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llmarking.datasets import courses

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[1]

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Quiet, and nothing of its own over the network.
ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
STUDENTS = ("Amara Obi", "Ben Katz", "Chloé Roux", "Dai Lin", "Elif Kaya", "Femi Ade")
PATIENCE = 480.0  # seconds for a class to be graded
Shot = Callable[["Page", str], None]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with a fresh profile.

    Raises:
        FileNotFoundError: there is no chromium.
    """
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise FileNotFoundError("no chromium here; on Debian: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield browser
        browser.close()


def class_files(folder: Path, questions: int = 3, answers: int = 6) -> tuple[Path, Path]:
    """A questions file and an answers file, made of the example course.

    Ids have leading zeros, and one answer is there twice.
    """
    course = courses.example_course()
    asked, given = io.StringIO(), io.StringIO()
    first, second = csv.writer(asked), csv.writer(given)
    first.writerow(["question_code", "question", "full_mark", "reference_answer"])
    second.writerow(["student_id", "name", "question_code", "answer", "remarks"])
    for question in course.questions[:questions]:
        points = question.reference
        for point in question.points:
            tag = f"<Point{point.id}:{point.mark:g}>"
            points = points.replace(point.cases[0], f"{tag}{point.cases[0]}{tag}")
        first.writerow([question.code, question.text, f"{question.full_mark:g}", points])
        texts = [answer.text for answer in course.answers_to(question)[: answers - 1]]
        for number, text in enumerate([*texts, texts[0]]):
            name = STUDENTS[number % len(STUDENTS)]
            second.writerow([f"{number + 7:04}", name, question.code, text, "  kept as it is "])
    paths = folder / "questions.csv", folder / "class 7b.csv"
    for path, written in zip(paths, (asked, given), strict=True):
        path.write_text(written.getvalue(), encoding="utf-8", newline="")
    return paths


def log_in(page: Page, address: str, key: str | None) -> None:
    """Open the pages, with the server's key where one is asked for."""
    page.goto(address)
    if key is not None and page.locator("#key").count():
        page.fill("#key", key)
        page.keyboard.press("Enter")
    page.wait_for_selector("#sample:visible")


def hand_in(page: Page, files: tuple[Path, Path], shot: Shot, *, explain: bool = True) -> str:
    """Upload two files, check what was understood, start; return the new course's id."""
    shot(page, "upload")
    page.locator("#questions-file input[type=file]").set_input_files(files[0])
    page.wait_for_selector("text=/questions?, \\d+ points?,|道题/")
    page.locator("#answers-file input[type=file]").set_input_files(files[1])
    page.wait_for_selector("#preview table")
    if page.locator("#explain input").is_checked() != explain:
        page.locator("#explain input").click()
    page.fill("#class-name textarea, #class-name input", "Class 7b")
    page.evaluate("scrollTo(0, 0)")
    shot(page, "check")
    page.click("#start")
    page.wait_for_url("**/?course=*")
    (course,) = parse_qs(urlsplit(page.url).query)["course"]
    return course


def watch(page: Page, shot: Shot) -> None:
    """See it being graded, reload in the middle, and wait for the end."""
    page.wait_for_selector("#progress .lm-said:visible")
    page.reload()
    # A class that is finished meanwhile opens at its review; the grading is one step back.
    page.wait_for_selector("#progress .lm-said:visible, #panel .lm-panel:visible")
    if page.locator("#progress .lm-said:visible").count():
        page.wait_for_function(
            "/^[1-9]|已评 [1-9]/.test(document.querySelector('#progress').innerText.trim())",
            timeout=PATIENCE * 1000,
        )
        shot(page, "grade")
        page.wait_for_function(
            "/finished|已完成/.test(document.querySelector('#progress').innerText)",
            timeout=PATIENCE * 1000,
        )
        page.click("#go-review")
    page.wait_for_selector("#panel .lm-panel:visible")


def review(page: Page, shot: Shot) -> None:
    """Decide by keyboard: change a point, accept, undo, accept again, go on."""
    page.wait_for_selector("#histogram .lm-chart")
    shot(page, "review")
    show_evidence(page, shot)
    shown = answer_shown(page)
    before = page.locator("#panel output").inner_text()
    page.keyboard.press("1")
    assert page.locator("#panel output").inner_text() != before, "the mark follows the points"
    page.keyboard.press("a")
    page.wait_for_selector("#message .lm-good")
    page.wait_for_function(
        "(id) => document.querySelector('.lm-panel').dataset.answer != id", arg=shown
    )
    page.keyboard.press("u")
    page.wait_for_function(
        "(id) => document.querySelector('.lm-panel').dataset.answer == id", arg=shown
    )
    page.wait_for_function("() => !document.querySelector('.lm-panel .lm-overridden')")
    for _ in range(8):
        shown = answer_shown(page)
        page.keyboard.press("a")
        page.wait_for_function(
            "(id) => document.querySelector('.lm-panel')?.dataset.answer != id", arg=shown
        )
    page.click("#refit")
    page.wait_for_selector("#discard:visible")
    _to_top(page, "#corrections")
    shot(page, "class")


def show_evidence(page: Page, shot: Shot) -> None:
    """The first answer of the list in which words show at least two points; then back to the top.

    Raises:
        LookupError: the model quotes so much in no answer.
    """
    for row in range(page.locator("#queue [data-row]").count()):
        _choose(page, row)
        marked = page.locator("#panel .lm-text mark").evaluate_all(
            "(all) => all.flatMap((one) => one.dataset.points.split(' '))"
        )
        if len(set(marked)) >= 2:
            break
    else:
        raise LookupError("no answer has the words for two points marked")
    page.locator("#panel").scroll_into_view_if_needed()
    shot(page, "evidence")
    _choose(page, 0)


def _choose(page: Page, row: int) -> None:
    page.click(f"#queue [data-row='{row}']")
    page.wait_for_selector(f"#queue [data-row='{row}'][aria-current='true']")


def answer_shown(page: Page) -> str:
    """The id of the answer in the panel."""
    return page.locator(".lm-panel").get_attribute("data-answer") or ""


def export(page: Page, shot: Shot) -> bytes:
    """Download the teacher's own file with marks."""
    page.click("#go-export")
    page.wait_for_selector(".lm-download:visible")
    shot(page, "export")
    with page.expect_download() as download:
        page.click(".lm-own .lm-download")
    return Path(download.value.path()).read_bytes()


def edit_question(page: Page, shot: Shot) -> None:
    """Let the first point of the first question be worth more, see who would change, discard."""
    page.click("#rubric > button")
    _to_top(page, "#rubric")  # the list of questions opens below its field
    page.click("#rubric-question input")
    page.click("[role=option] >> nth=0")
    box = page.locator("#rubric-reference textarea")
    page.wait_for_function("document.querySelector('#rubric-reference textarea').value")
    box.fill(re.sub(r"<Point1:[\d.]+>", "<Point1:3>", box.input_value()))
    page.click("#rubric-try")
    page.wait_for_selector("#rubric-discard:visible")
    _to_top(page, "#rubric")
    shot(page, "question")
    page.click("#rubric-discard")
    page.wait_for_selector("#rubric-discard", state="hidden")
    page.click("#rubric > button")


def look_at_student(page: Page, shot: Shot) -> None:
    """What would go with a student; nothing is deleted."""
    page.click("#leaving > button")
    page.fill("#student-id textarea, #student-id input", "0009")
    page.click("#student-look")
    page.wait_for_selector("#student-delete:visible")
    page.locator("#leaving").scroll_into_view_if_needed()
    shot(page, "student")


def _to_top(page: Page, selector: str) -> None:
    page.locator(selector).evaluate("(element) => element.scrollIntoView()")


def gradebook_file(folder: Path) -> Path:
    """A gradebook as Canvas writes it, in which one student of the class is not and one is new."""
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(["Student", "ID", "SIS User ID", "Section", "Term paper (411)", "Quiz (412)"])
    rows.writerow(["    Points Possible", "", "", "", "20", "10"])
    for number, name in enumerate((*STUDENTS[:-1], "Gil Moreno")):
        given, family = name.split()
        ids = f"{number + 7:04}" if name in STUDENTS else "0100"
        rows.writerow([f"{family}, {given}", str(number + 51), ids, "7b", "15.5", ""])
    path = folder / "gradebook.csv"
    path.write_text(out.getvalue(), encoding="utf-8", newline="")
    return path


def fill_gradebook(page: Page, file: Path, shot: Shot) -> bytes:
    """Drop a gradebook on the last step; return it with the marks in it."""
    page.locator("#gradebook-file input[type=file]").set_input_files(file)
    page.wait_for_selector("#gradebook-said .lm-download:visible")
    page.click("#gradebook-said summary >> nth=0")
    _to_top(page, "#gradebook")
    shot(page, "gradebook")
    with page.expect_download() as download:
        page.click("#gradebook-said .lm-download")
    return Path(download.value.path()).read_bytes()


def walk(page: Page, files: tuple[Path, Path], shot: Shot) -> tuple[str, bytes]:
    """The whole way of a teacher who is logged in; return the course and the exported file."""
    course = hand_in(page, files, shot)
    watch(page, shot)
    review(page, shot)
    return course, export(page, shot)


@contextmanager
def pages(url: str | None) -> Iterator[str]:
    """`teacher_entry.py` on a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, str(ROOT / "teacher_entry.py"), "--port", str(port)]
    with subprocess.Popen(command + (["--url", url] if url else [])) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if time.monotonic() > deadline or process.poll() is not None:
                    raise TimeoutError("the pages did not start")
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _camera(out: Path, suffix: str) -> Shot:
    def shot(page: Page, name: str) -> None:
        page.wait_for_timeout(700)  # animations end, fonts arrive
        page.screenshot(path=out / f"{name}{suffix}.png")
        print(out / f"{name}{suffix}.png", flush=True)

    return shot


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="the server (default: as for every script)")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the pictures")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    key = os.environ.get("LLMARKING_API_KEY")
    wide, tablet = {"width": 1280, "height": 860}, {"width": 768, "height": 1024}
    views: tuple[tuple[str, dict[str, Any]], ...] = (
        ("-dark-tablet", {"color_scheme": "dark", "viewport": tablet, "locale": "en-GB"}),
        ("-tablet", {"viewport": tablet, "locale": "en-GB"}),
        ("-dark", {"color_scheme": "dark", "viewport": wide, "locale": "en-GB"}),
        ("-zh", {"locale": "zh-CN", "viewport": wide}),
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        pages(options.url) as address,
        chromium() as browser,
    ):
        files, book = class_files(Path(folder)), gradebook_file(Path(folder))
        course = ""
        for suffix, view in (("", {"viewport": wide, "locale": "en-GB"}), *views):
            page = browser.new_context(**view).new_page()
            log_in(page, address, key)
            shot = _camera(options.out, suffix)
            if not course:
                course, _ = walk(page, files, shot)
                page.click("#steps [role=tab] >> nth=3")
            else:
                page.goto(f"{address}/?course={course}")
                page.wait_for_selector("#histogram .lm-chart")
                shot(page, "review")
            edit_question(page, shot)
            page.click("#go-export")
            page.wait_for_selector(".lm-download:visible")
            fill_gradebook(page, book, shot)
            look_at_student(page, shot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
