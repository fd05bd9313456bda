"""The student script as a process of its own: through pipes, and in a terminal."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from terminal_session import CTRL_C, CTRL_D, Session, run_piped
from test_courses import COURSE, write
from test_vllm_client import Signal

from llmarking.console.feedback import FLAGS
from llmarking.datasets.courses import example_course
from llmarking.domain import Flag
from llmarking.engines.scripted import ScriptedEngine

SCRIPT = "student_entry.py"
Serve = Callable[..., str]


class Marker(ScriptedEngine):
    """Holds every odd reading true and every even one false, and explains with the same words.

    Args:
        held: whether the first explanation never comes, until it is stopped.
    """

    def __init__(self, *, held: bool = False, context: int = 32768) -> None:
        super().__init__(self._explain, self._odds, sleep=self._pause, context=context)
        self.prompts: list[str] = []
        self.aborted: Signal = Signal()
        self.waiting = threading.Event()
        self._held = held
        self._explaining = False

    def _odds(self, prompt: str) -> float:
        self.prompts.append(prompt)
        return 4.0 if len(self.prompts) % 2 else -4.0

    def _explain(self, prompt: str) -> str:
        self._explaining = True
        return json.dumps({"reason": "It says that it stores pairs."})

    async def _pause(self, _: float) -> None:
        if self._held and self._explaining:
            self.waiting.set()
            await asyncio.Event().wait()


@pytest.fixture
def course(tmp_path: Path) -> str:
    return str(write(tmp_path / "course.json", COURSE))


def test_one_answer(live_server_factory: Serve, course: str) -> None:
    """Points, marks, probability, evidence, reason, total; in 80 columns and without colour."""
    url = live_server_factory(Marker())
    args = [
        "--course",
        course,
        "--question",
        "A1",
        "--answer",
        "It keeps pairs [red]quickly[/red].",
    ]
    done = run_piped(SCRIPT, *args, env={"LLMARKING_URL": url})
    shown = " ".join(done.stdout.decode().split())
    assert (done.returncode, done.stderr) == (0, b"")
    for part in [
        "What is a hash table?",
        "It keeps pairs [red]quickly[/red].",
        "✓ Point 1 2 / 2 98% stores pairs",
        "✗ Point 2 0 / 1 2% is fast",
        "“It keeps pairs [red]quickly[/red]”",
        "It says that it stores pairs.",
        "Total 2 / 3",
    ]:
        assert part in shown
        shown = shown[shown.index(part) :]
    assert "\x1b" not in done.stdout.decode()
    assert all(cell_len(line) <= 80 for line in done.stdout.decode().splitlines())


@pytest.mark.parametrize("args", [["--no-stream"], ["-s"], ["-p", "3"], ["--no-explain"]])
def test_however_it_is_asked_for(live_server_factory: Serve, course: str, args: list[str]) -> None:
    """With and without a stream the same is shown."""
    url = live_server_factory(Marker())
    args = ["--course", course, "--question", "A1", "--answer", "Keeps pairs.", *args]
    done = run_piped(SCRIPT, *args, env={"LLMARKING_URL": url})
    assert done.returncode == 0
    assert done.stdout.count(b"Point 2  0 / 1") == 1
    assert done.stdout.count(b"It says that it stores pairs.") == ("--no-explain" not in args)
    assert done.stdout.count("does not say: “is fast”".encode()) == ("--no-explain" not in args)
    assert b"Total 2 / 3" in done.stdout


@pytest.mark.parametrize(
    ("args", "stdin"),
    [
        (["--answer", "Keeps\npairs."], b""),
        (["--answer", "-"], b"Keeps\npairs.\n"),
        ([], b"\xef\xbb\xbfKeeps\npairs.\n"),
    ],
)
def test_json(live_server_factory: Serve, course: str, args: list[str], stdin: bytes) -> None:
    """One JSON object, wherever the answer came from."""
    url = live_server_factory(Marker())
    args = ["--course", course, "--question", "a1", "--json", *args]
    done = run_piped(SCRIPT, *args, stdin=stdin, env={"LLMARKING_URL": url})
    said = json.loads(done.stdout)
    assert (said["question"], said["answer"], said["error"]) == ("A1", "Keeps\npairs.", None)
    assert [p["held"] for p in said["grade"]["points"]] == [True, False]
    assert said["grade"]["points"][0]["evidence"] == "Keeps"
    assert (said["grade"]["mark"], said["grade"]["full_mark"]) == (2, 3)


def test_an_adapter(live_server_factory: Serve, course: str) -> None:
    url = live_server_factory(ScriptedEngine(adapters=["mine"]))
    args = ["--course", course, "--question", "A1", "--answer", "Pairs.", "--json", "--no-explain"]
    done = run_piped(SCRIPT, *args, "--adapter", "mine", env={"LLMARKING_URL": url})
    assert (done.returncode, json.loads(done.stdout)["grade"]["adapter"]) == (0, "mine")
    done = run_piped(SCRIPT, *args, "--adapter", "other", env={"LLMARKING_URL": url})
    assert done.returncode == 3
    assert b"there is no adapter 'other'; known: mine" in done.stdout + done.stderr


def test_prose(live_server_factory: Serve, course: str) -> None:
    """A verdict that the model did not give is shown as missing, not as false."""
    engine = ScriptedEngine(lambda _: "<Point1:2> *True (It says pairs.)")
    args = ["--course", course, "--question", "A1", "--answer", "Pairs.", "--method", "prose"]
    done = run_piped(SCRIPT, *args, env={"LLMARKING_URL": live_server_factory(engine)})
    shown = " ".join(done.stdout.decode().split())
    assert done.returncode == 0
    assert "✓ Point 1 2 / 2 – stores pairs" in shown
    assert "? Point 2 – / 1 – is fast (no verdict: missing)" in shown
    assert "Point 1 It says pairs." in shown
    assert "A teacher should look at point 2: a verdict could not be read" in shown


@pytest.mark.parametrize(("n", "shown"), [("0", 0), ("1", 1), ("2", 3)])
def test_examples_shown_to_the_model(live_server_factory: Serve, n: str, shown: int) -> None:
    """-n means zero-, one- and few-shot, as it always did."""
    engine = Marker()
    question = example_course().questions[0]
    args = ["-n", n, "--question", question.code, "--answer", "Water.", "--json"]
    done = run_piped(SCRIPT, *args, env={"LLMARKING_URL": live_server_factory(engine)})
    assert json.loads(done.stdout)["grade"]["shots"] == shown
    seen = [example.answer in engine.prompts[0] for example in question.examples]
    assert seen == [i < shown for i in range(len(question.examples))]


def test_every_flag_has_words() -> None:
    """Whatever the server flags, the student reads a sentence."""
    assert set(FLAGS) == set(Flag)


def test_list() -> None:
    """The questions without a word of their references, and without a server."""
    done = run_piped(SCRIPT, "--list")
    listed = done.stdout.decode()
    assert done.returncode == 0
    assert all(q.code in listed for q in example_course().questions)
    assert all(cell_len(line) <= 80 for line in listed.splitlines())
    said = json.loads(run_piped(SCRIPT, "--list", "--json").stdout)
    assert [q["question"] for q in said["questions"]] == [
        q.text for q in example_course().questions
    ]
    assert all(set(q) == {"code", "subject", "question", "full_mark"} for q in said["questions"])


@pytest.mark.parametrize("args", [[], ["--examples", "--limit", "5"]])
def test_walking_through_the_examples(
    live_server_factory: Serve, course: str, args: list[str]
) -> None:
    """Every answer is graded and compared with the teacher, and a summary ends it."""
    done = run_piped(
        SCRIPT, "--course", course, *args, env={"LLMARKING_URL": live_server_factory(Marker())}
    )
    shown = done.stdout.decode()
    assert done.returncode == 0
    assert b"scripted at http" in done.stderr
    assert shown.count("What is a hash table?") == 1
    assert "A1-1  [1 of 2]" in shown
    assert "(empty)" in shown
    assert "The teacher gave 0 / 3, the same on every point." in shown
    assert "The model and the teacher agree on 2 of 2 points." in shown
    assert "Total 2 / 3" in shown


def test_the_shipped_examples(live_server_factory: Serve) -> None:
    """--limit takes answers of different quality first; --question takes one question."""
    url = live_server_factory(Marker())
    args = ["--examples", "--question", "COM001", "--limit", "4", "--json", "--no-explain"]
    done = run_piped(SCRIPT, *args, env={"LLMARKING_URL": url})
    said = json.loads(done.stdout)
    assert (said["course"], said["complete"], len(said["results"])) == ("EXAMPLE", True, 4)
    assert len({r["quality"] for r in said["results"]}) == 4
    assert all(r["question"] == "COM001" and r["teacher"] and r["grade"] for r in said["results"])


def test_an_answer_that_can_not_be_graded(live_server_factory: Serve, tmp_path: Path) -> None:
    """The others are graded, and the exit status says that one was not."""
    question = {**COURSE["questions"][0]}
    question["answers"] = [
        {"id": "long", "answer": "pairs " * 40_000},
        {"id": "short", "answer": "pairs"},
    ]
    course = str(write(tmp_path / "c.json", {**COURSE, "questions": [question]}))
    url = live_server_factory(Marker())
    done = run_piped(SCRIPT, "--course", course, "--json", env={"LLMARKING_URL": url})
    long, short = json.loads(done.stdout)["results"]
    assert done.returncode == 6
    assert (long["grade"], long["error"]["status"]) == (None, 422)
    assert short["grade"]["mark"] == 2
    assert b"long: " in done.stderr


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["-n", "3"], 2, "invalid choice"),
        (["--answer", "x"], 2, "--answer needs --question"),
        (["--examples", "--question", "A1", "--answer", "x"], 2, "leave --answer out"),
        (["--limit", "0"], 2, "no number above 0"),
        (["-s", "--json"], 2, "not allowed with"),
        (["--question", "B7", "--answer", "x"], 3, "there are A1, A2"),
        (["--question", "A1"], 3, "standard input holds no answer"),
        (["--course", "missing.json"], 3, "missing.json: the course can't be read"),
        (["--api-key", "wrong", "--question", "A1", "--answer", "x"], 4, "this API key"),
        (["--api-key", "wrong"], 4, "this API key"),
        (["--url", "http://127.0.0.1:9", "--question", "A1", "--answer", "x"], 5, "vllm_server.py"),
        (["--url", "http://127.0.0.1:9"], 5, "no server answers at http://127.0.0.1:9"),
    ],
)
def test_failures(
    live_server_factory: Serve, course: str, args: list[str], status: int, message: str
) -> None:
    """Each has its exit status and says what to do; there is no traceback."""
    url = live_server_factory(Marker(), api_keys=("the-only-key",))
    env = {"LLMARKING_URL": url, "LLMARKING_API_KEY": "the-only-key"}
    done = run_piped(SCRIPT, "--course", course, *args, env=env)
    assert done.returncode == status
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert b"Total" not in done.stdout


def test_at_the_keyboard(live_server_factory: Serve, course: str) -> None:
    """Choose, answer, see; then answer again, choose another or end. The reference comes last."""
    url = live_server_factory(Marker())
    with Session(SCRIPT, "--course", course, env={"LLMARKING_URL": url}) as session:
        session.expect("Which one?")
        session.type("7\n")
        session.expect("there is no question '7'")
        session.expect("Which one?")
        session.type("1\n")
        session.expect("What is a hash table?")
        session.expect("> ")
        session.type("It keeps\n")
        before = session.expect("> ")
        session.type("pairs.\n\n")
        before += session.expect("✓ Point 1  2 / 2")
        assert "stores pairs" not in session.seen[: session.seen.index("✓")]
        session.expect("It says that it stores pairs.")
        session.expect("Total 2 / 3")
        session.expect("> ")
        session.type("\n")
        session.expect("Which one?")
        session.type("a2\n")
        session.expect("Why?")
        session.expect("> ")
        session.type(CTRL_D)
        assert session.end() == 0


def test_an_answer_ended_with_ctrl_d(live_server_factory: Serve, course: str) -> None:
    """Ctrl-D hands in what was typed; once more, it ends."""
    url = live_server_factory(Marker())
    with Session(
        SCRIPT, "--course", course, "--question", "A1", env={"LLMARKING_URL": url}
    ) as session:
        session.expect("> ")
        session.type("pairs\n")
        session.expect("> ")
        session.type(CTRL_D)
        session.expect("Total 2 / 3")
        session.expect("> ")
        session.type(CTRL_D)
        assert session.end() == 0


def test_points_appear_before_reasons_and_ctrl_c_stops_those(
    live_server_factory: Serve, course: str
) -> None:
    """Feedback streams; stopping it frees the engine and leaves the program running."""
    engine = Marker(held=True)
    url = live_server_factory(engine)
    with Session(
        SCRIPT, "--course", course, "--question", "A1", env={"LLMARKING_URL": url}
    ) as session:
        session.expect("> ")
        session.type("It keeps pairs.\n\n")
        session.expect("✗ Point 2")
        assert engine.waiting.wait(30)
        session.type(CTRL_C)
        assert engine.aborted.filled.wait(30)
        session.expect("(stopped)")
        session.expect("> ")
        session.type(CTRL_C)
        assert session.end() == 130
    assert engine.running() == 0


def test_stopping_a_walk_keeps_what_is_done(live_server_factory: Serve, course: str) -> None:
    """What was graded before Ctrl-C is summed up."""
    engine = Marker(held=True)
    url = live_server_factory(engine)
    with Session(SCRIPT, "--course", course, "--examples", env={"LLMARKING_URL": url}) as session:
        session.expect("A1-2  [2 of 2]")
        session.expect("✗ Point 2")
        assert engine.waiting.wait(30)
        session.type(CTRL_C)
        session.expect("agree on 2 of 2 points")
        assert session.end() == 130


def test_no_arguments_at_a_terminal(live_server_factory: Serve) -> None:
    """The shipped examples are walked through, and it says how to type an answer instead."""
    url = live_server_factory(Marker())
    with Session(SCRIPT, env={"LLMARKING_URL": url}) as session:
        session.expect("-n 0 lets you choose a question and type an answer")
        session.expect("[1 of 30]")
        session.expect("[2 of 30]")
        session.type(CTRL_C)
        session.expect("points.")
        assert session.end() == 130


def test_json_at_the_keyboard() -> None:
    """A conversation is nothing that one JSON object holds."""
    with Session(SCRIPT, "--json") as session:
        session.expect("--json needs --answer or --examples")
        assert session.end() == 2


def test_letters_the_terminal_lacks(live_server_factory: Serve, course: str) -> None:
    """They are replaced; the feedback still comes."""
    url = live_server_factory(Marker())
    args = ["--course", course, "--question", "A1", "--answer", "键 pairs"]
    done = run_piped(SCRIPT, *args, env={"LLMARKING_URL": url, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert b"Point 1  2 / 2" in done.stdout
