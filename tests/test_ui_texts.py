"""Texts of the teacher's pages: both languages say the same things, and all of them are there."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from llmarking.domain import Flag
from llmarking.ui.texts import LANGUAGES, PREFIX, TEXTS, duration, language_of, say, translations

PACKAGE = Path(__file__).resolve().parents[1] / "llmarking" / "ui"


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("key", TEXTS)
def test_both_languages_have_the_same_places(key: str) -> None:
    assert set(TEXTS[key]) == set(LANGUAGES)
    assert all(TEXTS[key].values())
    assert places(TEXTS[key]["en"]) == places(TEXTS[key]["zh"])


def test_every_text_that_the_pages_name_exists_and_none_is_left_over() -> None:
    code = "\n".join(path.read_text("utf-8") for path in PACKAGE.glob("*.py"))
    named = set(re.findall(r'i18n\("(\w+)"\)', code))
    named |= set(re.findall(r'(?:say|_t)\(\s*\w+(?:\.\w+\(request\))?,\s*["\'](\w+)["\']', code))
    assert named - set(TEXTS) == set()
    # States of answers come from the server as words.
    quoted = set(re.findall(r'["\'](\w+)["\']', code)) | named | {"waiting"}
    made = ("flag_", "state_", "job_", "column_", "contest_", "feedback_", "step_", "left_")
    left = {key for key in TEXTS if key not in quoted and not key.startswith(made)}
    assert left == set()


@pytest.mark.parametrize("flag", Flag)
def test_every_flag_is_named_and_explained(flag: Flag) -> None:
    for language in LANGUAGES:
        assert say(language, f"flag_{flag}")
        assert say(language, f"flag_{flag}_why")


@pytest.mark.parametrize(
    ("header", "language"),
    [
        (None, "en"),
        ("", "en"),
        ("fr-FR", "en"),
        ("zh-CN,zh;q=0.9", "zh"),
        ("en-GB,en;q=0.9,zh;q=0.8", "en"),
        ("fr, zh;q=0.8, en;q=0.5", "zh"),
        ("zh;q=x, en", "zh"),
        (";;,=,q", "en"),
    ],
)
def test_the_language_is_what_the_browser_asks_for_first(header: str | None, language: str) -> None:
    assert language_of(header) == language


@pytest.mark.parametrize(
    ("count", "points", "said"),
    [
        (1, 1, "1 question, 1 point"),
        (2, 1, "2 questions, 1 point"),
        (0, 3, "0 questions, 3 points"),
    ],
)
def test_a_word_goes_with_its_number(count: int, points: int, said: str) -> None:
    values: dict[str, object] = {"count": count, "points": points, "file": "{count:a|b}.csv"}
    assert say("en", "questions_read", **values) == f"{said}, in {{count:a|b}}.csv."
    assert say("zh", "questions_read", **values).endswith(f"{count} 道题，{points} 个得分点。")


def test_no_english_text_has_a_bare_number_before_a_plural() -> None:
    """A class of one, or one that is left, is told in the singular."""
    things = "answers(?! a second)|questions|points|students|verdicts|marks|links|files"
    of_many = rf"\{{\w+\}} (?:\w+ )?(?:{things})\b"
    assert [key for key in TEXTS if re.search(of_many, TEXTS[key]["en"])] == []


def test_gradio_gets_every_text_by_language_tag() -> None:
    tables = translations()
    assert {"en", "zh", "zh-CN"} <= set(tables)
    assert all(set(table) == {f"{PREFIX}{key}" for key in TEXTS} for table in tables.values())


def test_times_are_rough() -> None:
    said = [duration(seconds, "en") for seconds in (0.2, 42, 200, 9000)]
    assert said == ["1 s", "42 s", "3 min", "2.5 h"]
