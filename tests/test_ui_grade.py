"""How far grading is, in words, and the table of results in the order of the upload."""

from __future__ import annotations

from typing import Any

import pytest
from test_ui_panel import EVIL, detail

from llmarking.protocol.courses import AnswerPage, AnswerRow
from llmarking.protocol.jobs import Job, JobCounts
from llmarking.ui.grade import how_far, results


def job(**changes: Any) -> Job:
    fields: dict[str, Any] = {
        "id": "j1",
        "course": "c1",
        "state": "running",
        "counts": JobCounts(total=1000, graded=412, failed=0, waiting=588),
        "created_at": "2026-01-01T00:00:00Z",
        "answers_per_second": 3.27,
        "seconds_left": 180.0,
        "options": {},
        "config_hash": "x",
        "model": "scripted",
    }
    return Job(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "412 of 1000 graded, 3.3 answers a second, about 3 min left"),
        ({"answers_per_second": None, "seconds_left": None}, "412 of 1000 graded"),
        ({"state": "queued"}, "412 of 1000 graded · waiting for its turn"),
        ({"state": "paused"}, "412 of 1000 graded · paused"),
        ({"state": "cancelled"}, "412 of 1000 graded · cancelled; what is graded stays"),
        (
            {
                "state": "finished",
                "counts": JobCounts(total=1000, graded=998, failed=2, waiting=0),
            },
            "998 of 1000 graded · finished; 2 could not be graded",
        ),
    ],
)
def test_progress_is_a_sentence(changes: dict[str, Any], said: str) -> None:
    assert how_far(job(**changes), "en") == said


def row(**changes: Any) -> AnswerRow:
    whole = detail(**changes)
    return AnswerRow(**{name: getattr(whole, name) for name in AnswerRow.model_fields})


def test_results_are_escaped_and_keep_their_order() -> None:
    page = AnswerPage(
        total=2,
        answers=[
            row(position=0, text=EVIL, student=EVIL, contested=True),
            row(id="a2", position=1, mark=None, full_mark=None, state="waiting", flags=[]),
        ],
    )
    html = results(page, "en")
    assert "<img" not in html
    assert html.index(">1</td>") < html.index(">2</td>")
    assert "2 / 3" in html
    assert "contested" in html
    assert "not graded yet" in html
