"""A new adapter becomes a course's default only when it is better beyond the interval."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from conftest import ServerFactory, wait_until

import finetune
from llmarking.client import AsyncClient, Client
from llmarking.domain import Point, Question, StudentAnswer
from llmarking.engines.scripted import ScriptedEngine
from llmarking.errors import InputError
from llmarking.store.database import Store
from llmarking.training import course as training_course, promotion
from llmarking.training.data import Group, question_key


def group(number: int, answers: int = 6) -> Group:
    question = Question(
        f"Q{number}",
        f"What is number {number}?",
        2.0,
        "This. That.",
        (Point(1, 1.0, ("this",)), Point(2, 1.0, ("that",))),
    )
    return Group(
        "course",
        question,
        tuple(
            StudentAnswer(
                f"{number}-{i}", question.code, f"{number} {i}", {1: i % 2 == 0, 2: i < 3}
            )
            for i in range(answers)
        ),
    )


class Marker:
    """Marks as the teacher does, but for every answer whose number an adapter gets wrong."""

    def __init__(self, wrong: dict[str | None, set[int]]) -> None:
        self._wrong = wrong

    async def grade(self, question: Question, answer: str, *, adapter: str | None) -> Any:
        i = int(answer.split()[1])
        turn = i in self._wrong.get(adapter, set())
        verdicts = {1: i % 2 == 0, 2: i < 3}
        return SimpleNamespace(
            points=[SimpleNamespace(id=p, held=held != turn) for p, held in verdicts.items()]
        )


async def compared(wrong: dict[str | None, set[int]], questions: int = 8) -> promotion.Comparison:
    marker = cast(AsyncClient, Marker(wrong))
    return await promotion.compare(marker, [group(n) for n in range(questions)], None, "new")


async def test_one_that_is_better_everywhere_is_better() -> None:
    found = await compared({None: {0, 1, 5}})
    assert (found.questions, found.verdicts) == (8, 96)
    assert found.before == pytest.approx(0.0)
    assert found.after == pytest.approx(1.0)
    assert found.better
    assert "kappa 0.000 before, 1.000 with the new adapter, difference +1.000" in str(found)


async def test_one_that_is_worse_or_the_same_is_not() -> None:
    assert not (await compared({"new": {0, 1}})).better
    same = await compared({None: {2}, "new": {2}})
    assert same.difference.estimate == 0
    assert not same.better


async def test_a_gain_on_two_questions_is_too_little_to_tell() -> None:
    found = await compared({None: {0, 1, 5}}, questions=2)
    assert found.difference.low > 0
    assert not found.better


def test_questions_that_were_trained_on_do_not_count(tmp_path: Path) -> None:
    groups = [group(n) for n in range(3)]
    trained = {"trained_questions": [question_key(g.question) for g in groups[:2]]}
    (tmp_path / "metrics.json").write_text(json.dumps(trained))
    assert promotion.unseen(groups, tmp_path) == groups[2:]
    with pytest.raises(InputError, match="was trained on every question"):
        promotion.unseen(groups[:2], tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match=r"only an adapter of finetune\.py"):
        promotion.unseen(groups, tmp_path)


@pytest.fixture
def server(live_server_factory: ServerFactory, store: Store) -> str:
    """A server with two adapters and a graded course of which a teacher decided one answer each."""
    url = live_server_factory(ScriptedEngine(adapters=["old", "new"]), store)
    questions = [
        {
            "code": f"Q{n}",
            "text": f"What is number {n}?",
            "reference": "<Point1:1>red apples<Point1:1> and <Point2:1>green pears<Point2:1>",
        }
        for n in range(6)
    ]
    answers = [
        {"student": f"s{i}", "question": f"Q{n}", "text": f"red apples {n}{i}"}
        for n in range(6)
        for i in range(2)
    ]
    with Client(url) as client:
        client.create_course(id="fruit", name="Fruit", default_adapter="old")
        job = client.create_job(
            {"course": {"id": "fruit"}, "questions": questions, "answers": answers}
        )
        wait_until(lambda: client.job(job.id).state == "finished")
        for row in client.answers("fruit").answers[::2]:
            client.decide(row.id, {"1": True, "2": False}, expected_mark_id=row.mark_id)
    return str(url)


def test_only_what_a_teacher_decided_is_trained_on(server: str) -> None:
    with Client(server) as client:
        source = training_course.fetch(client, "fruit")
        again = training_course.fetch(client, "fruit")
        client.create_course(id="empty", name="Empty")
        with pytest.raises(InputError, match="no answer of course empty has been decided"):
            training_course.fetch(client, "empty")
    assert len(source.questions) == 6
    assert len(source.answers) == 6
    assert all(a.verdicts == {1: True, 2: False} for a in source.answers)
    assert source == again


def test_an_adapter_that_changes_nothing_is_not_promoted(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = tmp_path / "new"
    adapter.mkdir()
    (adapter / "metrics.json").write_text(json.dumps({"trained_questions": []}))
    status = finetune.main(
        ["--course", "fruit", "--out", str(adapter), "--promote", "--url", server]
    )
    printed = capsys.readouterr()
    assert status == 6, printed.err
    assert printed.out.startswith("12 verdicts to 6 questions that were not trained on")
    assert "stays as it is" in printed.err
    with Client(server) as client:
        assert client.course("fruit").default_adapter == "old"


def test_a_better_adapter_becomes_the_default(
    server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapter = tmp_path / "new"
    adapter.mkdir()
    (adapter / "metrics.json").write_text(json.dumps({"trained_questions": []}))
    seen: list[tuple[str | None, str]] = []

    async def better(_: Any, groups: Any, present: str | None, new: str) -> promotion.Comparison:
        seen.append((present, new))
        marker = cast(AsyncClient, Marker({None: {0, 1, 5}}))
        return await honest(marker, [group(n) for n in range(8)], None, "new")

    honest = promotion.compare
    monkeypatch.setattr(promotion, "compare", better)
    command = ["--course", "fruit", "--out", str(adapter), "--promote", "--url", server]
    assert finetune.main(command) == 0, capsys.readouterr().err
    assert seen == [("old", "new")]
    with Client(server) as client:
        assert client.course("fruit").default_adapter == "new"
    # And once it is, there is nothing to promote.
    assert finetune.main(command) == 3
    assert "is the default of course fruit already" in capsys.readouterr().err
