"""Which questions are trained on, and how much a verdict counts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import finetune
from llmarking.domain import GradedExample, Point, Question, StudentAnswer
from llmarking.errors import DataError, InputError
from llmarking.training import run
from llmarking.training.data import (
    Group,
    Source,
    apart,
    balance,
    describe,
    groups,
    load,
    split,
    with_examples,
    without,
)


def question(code: str, text: str | None = None, points: int = 1) -> Question:
    every = tuple(Point(i, 1.0, (f"point {i}",)) for i in range(1, points + 1))
    return Question(code, text or f"What is {code}?", float(points), "…", every)


def answers(code: str, *verdicts: bool) -> tuple[StudentAnswer, ...]:
    return tuple(
        StudentAnswer(f"{code}-{n}", code, f"answer {n} to {code}", {1: verdict})
        for n, verdict in enumerate(verdicts)
    )


def course(name: str, count: int, prefix: str = "Q") -> Source:
    codes = [f"{prefix}{n}" for n in range(count)]
    return Source(
        name,
        "CC0",
        "0" * 64,
        tuple(map(question, codes)),
        tuple(a for code in codes for a in answers(code, True, False, False)),
    )


def test_the_shipped_training_data_is_read_and_every_answer_has_verdicts() -> None:
    source = load(["data/training/part_b1.json"])[0]
    found = groups([source])
    assert source.licence == "Apache-2.0"
    assert len(found) == len(source.questions) == 6
    assert {g.kind for g in found} == {"points"}


def test_a_course_without_verdicts_is_refused(tmp_path: object) -> None:
    with pytest.raises(InputError, match="no answer has a teacher's verdict"):
        load_from_text(tmp_path)


def load_from_text(folder: object) -> list[Source]:
    path = f"{folder}/course.csv"
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123  # a path as a user gives it
        file.write("question_code,question,reference,answer\nQ1,What?,That.,This\n")
    return load([path])


def test_an_unknown_course_is_named() -> None:
    with pytest.raises(DataError, match="there is no course 'nowhere'"):
        load(["nowhere"])


def test_answers_that_no_model_is_asked_about_are_left_out() -> None:
    source = Source(
        "c",
        "",
        "",
        (question("Q1"),),
        (
            StudentAnswer("1", "Q1", "This answer", {1: True}),
            StudentAnswer("2", "Q1", "this  ANSWER.", {1: True}),  # the same again
            StudentAnswer("3", "Q1", "…!", {1: False}),
            StudentAnswer("4", "Q1", "not marked"),
            StudentAnswer("5", "Q1", "hid\u200bden", {1: False}),
        ),
    )
    assert [(a.id, a.text) for a in groups([source])[0].answers] == [
        ("1", "This answer"),
        ("5", "hidden"),
    ]


def test_questions_are_held_out_whole_and_from_every_course() -> None:
    sources = [course("one", 20), course("two", 3, "R")]
    everything = groups(sources)
    parts = split(everything, 0.2, seed=1)
    assert {g.key for g in parts.train} | {g.key for g in parts.held} == {g.key for g in everything}
    assert not {g.key for g in parts.train} & {g.key for g in parts.held}
    assert sum(g.source == "one" for g in parts.held) == 4
    assert sum(g.source == "two" for g in parts.held) == 1
    assert split(everything, 0.2, seed=1) == parts
    assert split(everything, 0.2, seed=2) != parts
    assert len(split(everything, 0.9, seed=1, most=2).held) == 4


def test_what_is_left_out_is_left_out_of_every_course() -> None:
    first, second, apart = course("one", 6), course("two", 6), course("three", 2)
    rest = without(groups([first, second]), [apart])
    assert [g.key for g in rest] == [f"{name}/Q{n}" for name in ("one", "two") for n in range(2, 6)]


def test_what_has_no_verdicts_is_left_out_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "course.json"
    questions = [
        {
            "code": f"Q{n}",
            "question": f"What is {n}?",
            "reference": "<Point1:1>it<Point1:1>",
            "answers": [{"id": f"{n}", "answer": "It.", "verdicts": {"1": True}}],
        }
        for n in range(6)
    ]
    head = {"format": "llmarking-course/1", "name": "ALL"}
    data.write_text(json.dumps({**head, "questions": questions}))
    unmarked = tmp_path / "unmarked.csv"
    unmarked.write_text(
        "question_code,question,reference,answer\nA,What is 4?,It.,That\nB,what is  5?,It.,This\n"
    )
    requests: list[run.Request] = []
    monkeypatch.setattr(run, "finetune", lambda request, report: requests.append(request))
    command = ["--data", str(data), "--leave-out", str(unmarked), "--out", str(tmp_path / "out")]
    assert finetune.main(command) == 0
    parts = run._parts(requests[0])
    codes = sorted(group.question.code for group in (*parts.train, *parts.held))
    assert codes == ["Q0", "Q1", "Q2", "Q3"]


@pytest.mark.parametrize("seed", range(8))
def test_the_same_question_in_two_courses_goes_one_way(seed: int) -> None:
    first, second = course("one", 6), course("two", 6)
    parts = split(groups([first, second]), 0.3, seed)
    trained = {g.question.text for g in parts.train}
    assert not trained & {g.question.text for g in parts.held}


def test_courses_of_their_own_are_held_out_whole() -> None:
    trained, held = groups([course("one", 6)]), groups([course("two", 3), course("three", 2, "R")])
    parts = apart(trained, held)
    assert parts.held == tuple(held)
    # Q0 to Q2 are asked in both.
    assert [g.question.code for g in parts.train] == ["Q3", "Q4", "Q5"]
    with pytest.raises(InputError, match="leave no question to train on"):
        apart(groups([course("one", 2)]), held)


def test_too_few_questions_to_hold_some_out() -> None:
    with pytest.raises(InputError, match="--held-out 0"):
        split(groups([course("one", 2)]), 0.2, seed=1)
    assert len(split(groups([course("one", 2)]), 0.0, seed=1).train) == 2


def test_true_and_false_weigh_the_same_in_every_course() -> None:
    weigh = balance(groups([course("one", 10)]))  # a third is true
    assert 10 * weigh.weight("one", True) == pytest.approx(20 * weigh.weight("one", False))
    assert weigh.weight("unknown", True) == 1.0
    rare = Source("rare", "", "", (question("Q"),), answers("Q", True, *[False] * 50))
    assert balance(groups([rare])).weight("rare", True) == 2.0


def test_a_question_without_examples_lends_answers_that_are_not_asked_about() -> None:
    group = Group("c", question("Q"), answers("Q", *[True, False] * 4))
    wide = with_examples(group, 3, random.Random(0))
    assert wide is not None
    shown = [e.answer for e in wide.question.examples]
    assert len(shown) == 3
    assert len(wide.answers) == 5
    assert not set(shown) & {a.text for a in wide.answers}
    assert with_examples(Group("c", question("Q"), group.answers[:4]), 3, random.Random(0)) is None


def test_a_question_with_too_few_examples_of_its_own_gets_none_lent() -> None:
    own = question("Q")
    own = Question(
        own.code, own.text, 1.0, "…", own.points, (GradedExample("an example", {1: True}),)
    )
    group = Group("c", own, answers("Q", *[True] * 9))
    assert with_examples(group, 1, random.Random(0)) is group
    assert with_examples(group, 3, random.Random(0)) is None


def test_the_description_counts_both_parts() -> None:
    sources = [course("one", 10)]
    row = describe(sources, split(groups(sources), 0.2, seed=1))[0]
    assert row["train"] == {"questions": 8, "answers": 24, "verdicts": 24}
    assert row["held_out"] == {"questions": 2, "answers": 6, "verdicts": 6}
