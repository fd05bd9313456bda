"""The pages of a run: what they show, and that they are whole by themselves."""

from __future__ import annotations

import base64
import copy
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from io import StringIO
from typing import Any

import pytest
import toy_run
from rich.console import Console

from llmarking.evaluation import report, report_files
from llmarking.evaluation.plots import CAPTIONS, draw


class Kept(dict[str, str]):
    """The files that were written."""

    def write(self, name: str, content: str) -> None:
        self[name] = content


class Page(HTMLParser):
    """Tags that are open, addresses and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def numbers() -> dict[str, Any]:
    toy = toy_run.course()
    return toy_run.numbers(toy, toy_run.samples(toy))


def written(run: dict[str, Any], numbers: dict[str, Any], *, plots: bool = True) -> Kept:
    kept = Kept()
    report_files.write(kept, run, numbers, plots=plots)
    return kept


def test_a_run_has_a_page_in_three_forms(numbers: dict[str, Any]) -> None:
    kept = written(toy_run.record(), numbers)
    assert set(kept) == {"report.md", "report.html", *(f"plots/{name}.svg" for name in CAPTIONS)}
    kappa = report.estimate(numbers["model"]["points"]["pooled"]["kappa"])
    for page in (kept["report.md"], Page(kept["report.html"]).text):
        for part in ("all True", "token overlap", "By quality", "By label", "By question", "Q4"):
            assert part in page, part
        for part in ("balanced accuracy", "F1(False)", "Brier score", "without a mark"):
            assert part in page, part
        for part in (kappa, "0" * 64, "eval_short_batched.py -c TOY", "at most 5 % errors"):
            assert part in page, part
    for name in CAPTIONS:
        assert f"](plots/{name}.svg)" in kept["report.md"]
    assert set(written(toy_run.record(), numbers, plots=False)) == {"report.md"}


def test_every_number_is_listed_with_its_intervals(numbers: dict[str, Any]) -> None:
    """None of `metrics.json` is left out of the pages, neither pooled nor over questions."""
    for section, level in zip(report.every_number(numbers), report.LEVELS, strict=True):
        ours = numbers["model"][level]
        assert len(section.rows) == len(ours["pooled"]) - 1  # less the count
        known = {**report.LEVELS[level][1], **report.OTHERS[level]}
        for name, row in zip(known, section.rows, strict=True):
            expected = [known[name]]
            for way in ("pooled", "mean_over_questions"):
                value = ours[way][name]
                expected += [report.estimate(value), report.bounds(value)]
            assert list(row) == expected


@pytest.mark.parametrize("width", [80, 200])
def test_tables_fit_a_terminal(width: int) -> None:
    """No digit is cut off at 80 columns, with the widest numbers there are."""
    count = "10000 answers"
    header = (count, "QWK", "95 %", "Pearson", "RMSE", "MAE", "bias", "exact", "± 1")
    row = ("token overlap", "-0.333", "[-0.33, -0.33]", "-0.067", *["-0.651"] * 5)
    out = Console(width=width, file=StringIO(), color_system=None)
    report.print_table(out, report.Section("Marks", header, (row,)))
    printed = out.file.getvalue()  # type: ignore[attr-defined]
    assert [line.split() for line in printed.splitlines()] == [
        " ".join(header).split(),
        " ".join(row).split(),
    ]


def test_a_session_that_was_killed_is_told(numbers: dict[str, Any]) -> None:
    run = toy_run.record()
    run["sessions"].insert(0, {"began": "2026-01-01", "ended": None, "seconds": None, "answers": 7})
    text = Page(written(run, numbers)["report.html"]).text
    assert "7 answers from 2026-01-01 on, until it was killed" in text
    assert "24 answers in 2 s" in text


def test_the_page_needs_no_other_file(numbers: dict[str, Any]) -> None:
    """Nothing is fetched, every image is an SVG in the page, and every tag is closed."""
    page = Page(written(toy_run.record(), numbers)["report.html"])
    assert page.open == []
    assert len(page.addresses) == len(CAPTIONS)
    for address in page.addresses:
        kind, _, data = address.partition(",")
        assert kind == "data:image/svg+xml;base64"
        assert ET.fromstring(base64.b64decode(data)).tag.endswith("svg")


def test_names_can_not_break_the_pages(numbers: dict[str, Any]) -> None:
    """A question's code and a course's name are other people's."""
    hostile = copy.deepcopy(numbers)
    evil = "<script>alert(1)</script>|$\\x$\x1b[31m"
    by_question = hostile["model"]["by_question"]
    by_question[evil] = by_question.pop("Q1")
    hostile["failed"] = [{"question": evil, "id": evil, "status": 500, "title": "error"}]
    kept = written(toy_run.record(course=evil), hostile)
    page = Page(kept["report.html"])
    assert "script" not in {*page.open, *re.findall(r"<(\w+)", kept["report.html"])}
    assert evil.partition("|")[0] in page.text
    assert "\x1b" not in kept["report.md"]
    rows = [line for line in kept["report.md"].splitlines() if "alert" in line and "| " in line]
    assert all(line.count(" | ") == rows[0].count(" | ") for line in rows)
    ET.fromstring(kept["plots/questions.svg"])


def test_plots_are_the_same_for_the_same_numbers(numbers: dict[str, Any]) -> None:
    assert draw(numbers) == draw(numbers)


def test_plots_of_many_questions() -> None:
    toy = toy_run.course([f"Q{n}" for n in range(40)], answers=3)
    assert ">40 questions<" in draw(toy_run.numbers(toy, toy_run.samples(toy)))["questions"]


def test_plots_say_what_was_counted(numbers: dict[str, Any]) -> None:
    texts = {e.text for e in ET.fromstring(draw(numbers)["confusion"]).iter() if e.text}
    counts = numbers["model"]["curves"]["confusion"]
    for row in counts.values():
        assert {str(row["true"]), str(row["false"])} <= texts


def test_without_probabilities_there_is_less_to_draw() -> None:
    """As with the prose method; and what could not be read has a column of its own."""
    toy = toy_run.course()
    kept = toy_run.samples(toy)
    for sample in kept:
        for point in sample["points"]:
            point["probability"] = None
    kept[0]["points"][0]["held"] = kept[0]["mark"] = None
    drawn = draw(toy_run.numbers(toy, kept))
    assert set(drawn) == {"confusion", "marks", "questions"}
    assert ">Missing<" in drawn["confusion"]


def test_without_verdicts_there_are_marks() -> None:
    toy = toy_run.course()
    kept = toy_run.samples(toy)
    for sample in kept:
        for point in sample["points"]:
            point["teacher"] = None
    measured = toy_run.numbers(toy, kept)
    assert set(draw(measured)) == {"marks"}
    assert [section.title for section in report.levels(measured)] == ["Marks"]


def test_qualities_stand_in_their_order(numbers: dict[str, Any]) -> None:
    (section,) = report.by_quality(numbers)
    names = [row[0] for row in section.rows]
    assert names == [name for name in ("wrong", "partial", "right") if name in names]
