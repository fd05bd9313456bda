"""The student's page: its language, what it escapes, what it lets out."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from llmarking.protocol.bodies import PointResult
from llmarking.protocol.courses import WireContest
from llmarking.protocol.releases import StudentAnswerResult, StudentResults
from llmarking.server import student_page


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB,en;q=0.9,zh;q=0.1", "en"),
        ("fr, zh;q=0.2", "zh"),
        ("de", "en"),
        ("zh;q=0", "en"),
        ("en;q=0.3, ZH-hant;q=0.7", "zh"),
        (";;;, zh;q=9, =", "en"),
    ],
)
def test_language_is_what_the_browser_asks_for(accepted: str, expected: str) -> None:
    assert student_page.language(accepted) == expected


def test_both_languages_say_the_same_things() -> None:
    english, chinese = student_page.TEXTS["en"], student_page.TEXTS["zh"]
    assert english.keys() == chinese.keys()
    for name, text in english.items():
        assert places(text) == places(chinese[name]), name


def places(text: str) -> list[str]:
    return sorted(re.findall(r"\{\w+\}", text))


def results(**fields: Any) -> StudentResults:
    answer = StudentAnswerResult(
        **{
            "id": "a1",
            "question": "Q1",
            "question_text": "What is <b>bold</b>?",
            "text": "It <script>alert(1)</script> & more",
            "mark": 2,
            "full_mark": 3,
            "checked": False,
            "comment": None,
            "points": [
                PointResult(
                    id=1, mark=2, text="pairs", held=True, evidence='"><img src=x onerror=y>'
                ),
                PointResult(id=2, mark=1, text="at once", held=False, reason="it is <i>not</i>"),
            ],
            "contests": [],
        }
        | fields
    )
    return StudentResults(
        course="C & D", student="s1", name="<Ann>", mark=2, full_mark=3, answers=[answer]
    )


class Tags(HTMLParser):
    """Start tags with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_what_people_wrote_is_text() -> None:
    found = Tags(student_page.page(results(), "/results/t", "en"))
    names = {tag for tag, _ in found.tags}
    assert not names & {"script", "b", "i", "img", "ann"}
    assert not any(name.startswith("on") for _, given in found.tags for name in given)
    assert "It <script>alert(1)</script> & more" in found.text
    assert "2 out of 3" in found.text


def test_the_form_offers_what_is_not_waiting_already() -> None:
    waiting = WireContest(
        id="x", answer="a1", point=2, text="But I did!", state="open", created_at="now"
    )
    page = student_page.page(results(contests=[waiting]), "/results/t", "en")
    found = Tags(page)
    assert [given["value"] for tag, given in found.tags if tag == "option"] == ["1", ""]
    assert [given["action"] for tag, given in found.tags if tag == "form"] == ["/results/t/contest"]
    assert "But I did!" in found.text
    none = Tags(student_page.page(results(mark=None, points=[]), "/results/t", "en"))
    assert "form" not in {tag for tag, _ in none.tags}
    assert "not marked yet" in none.text


def test_nothing_is_loaded_from_anywhere() -> None:
    page = student_page.page(results(), "/results/t", "zh")
    policy = student_page.headers()["Content-Security-Policy"]
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy, "the browser would refuse the page's own style"
    assert "default-src 'none'" in policy
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?\s*(https?:)?//", page)
    assert "style=" not in page
    assert '<html lang="zh-Hans">' in page
    assert "你的答案" in page
