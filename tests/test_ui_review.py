"""The queue of the review: where the keys lead, and what they pass over."""

from __future__ import annotations

from test_ui_grade import row
from test_ui_panel import EVIL, detail

from llmarking.ui.review import Queue, listed


def queue(*states: str, which: str = "undecided") -> Queue:
    rows = [row(id=f"a{n}", position=n, state=state) for n, state in enumerate(states)]
    return Queue(which=which, rows=rows, total=len(rows))  # type: ignore[arg-type]


def test_next_and_back_stay_inside() -> None:
    made = queue("proposed", "proposed")
    made.step(-1)
    assert made.current == "a0"
    made.step(1)
    made.step(1)
    assert made.current == "a1"
    assert Queue().current is None


def test_what_is_decided_is_passed_over_among_the_undecided_only() -> None:
    made = queue("proposed", "confirmed", "overridden", "proposed")
    made.step(1)
    assert made.current == "a3"
    made.step(-1)
    assert made.current == "a0"
    everything = queue("proposed", "confirmed", "proposed", which="all")
    everything.step(1)
    assert everything.current == "a1"


def test_what_a_student_objects_to_is_not_settled() -> None:
    made = queue("proposed", "confirmed", "confirmed", "proposed")
    made.rows[2] = made.rows[2].model_copy(update={"contested": True})
    made.step(1)
    assert made.current == "a2"


def test_the_list_shows_what_became_of_an_answer() -> None:
    made = queue("proposed", "proposed")
    made.update(detail(id="a1", position=1, state="overridden", mark=0.0))
    assert made.rows[1].state == "overridden"
    html = listed(made, "en")
    assert "unlike the model" in html
    assert html.count('aria-current="true"') == 1


def test_the_list_holds_no_markup_of_others() -> None:
    made = Queue(rows=[row(text=EVIL, question=EVIL)])
    assert "<img" not in listed(made, "en")
    assert listed(Queue(), "en") == ""
