"""The chat script as a process of its own: through pipes, and in a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable

import pytest
from terminal_session import CTRL_C, CTRL_D, Session, run_piped

from llmarking.engines.scripted import ScriptedEngine

SCRIPT = "vllm_client.py"
Serve = Callable[..., str]


class Signal(list[str]):
    """A list that tells when something was put into it."""

    def __init__(self) -> None:
        super().__init__()
        self.filled = threading.Event()

    def append(self, item: str) -> None:
        super().append(item)
        self.filled.set()


class Talker(ScriptedEngine):
    """Answers "word0 word1 word2 " and so on; while it is held, it stops after two words.

    Args:
        held: whether to wait after two words of the first answer until somebody stops it.
    """

    def __init__(self, *, held: bool = False) -> None:
        super().__init__(self._say, sleep=self._pause)
        self.prompts: list[str] = []
        self.aborted: Signal = Signal()
        self.waiting = threading.Event()
        self._held = held
        self._words = 0

    def _say(self, prompt: str) -> str:
        self.prompts.append(prompt)
        self._words = 0
        return f"word0 word1 word2 END{len(self.prompts)}"

    async def _pause(self, _: float) -> None:
        self._words += 1
        if self._held and len(self.prompts) == 1 and self._words > 2:
            self.waiting.set()
            await asyncio.Event().wait()

    def turns(self) -> list[list[str]]:
        """What was said in each prompt, without the template around it."""
        return [
            [turn.split("<|end|>")[0] for turn in prompt.split("<|start|>")[1:-1]]
            for prompt in self.prompts
        ]


@pytest.mark.parametrize(
    ("args", "stdin", "turns"),
    [
        (["hello"], b"", ["user\nhello"]),
        (["-s", "hello"], b"ignored", ["user\nhello"]),
        (["-"], b"from a pipe\n", ["user\nfrom a pipe"]),
        ([], "\ufeffline 1\r\nÜ 2\r\n".encode(), ["user\nline 1\r\nÜ 2"]),
        (["--system", "Be brief.", "hi"], b"", ["system\nBe brief.", "user\nhi"]),
        (["--no-color", "--temperature", "0.5", "hi"], b"", ["user\nhi"]),
    ],
)
def test_one_answer(
    live_server_factory: Serve, args: list[str], stdin: bytes, turns: list[str]
) -> None:
    """A prompt or a pipe gets one answer on standard output, and nothing else is there."""
    engine = Talker()
    done = run_piped(SCRIPT, *args, stdin=stdin, env={"LLMARKING_URL": live_server_factory(engine)})
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == "word0 word1 word2 END1\n"
    assert engine.turns() == [turns]


def test_options_reach_the_server(live_server_factory: Serve) -> None:
    """`--max-tokens` cuts the answer."""
    url = live_server_factory(Talker())
    done = run_piped(SCRIPT, "--url", url, "--max-tokens", "2", "hi")
    assert done.stdout.decode().strip() == "word0 word1"


def test_json(live_server_factory: Serve) -> None:
    """One JSON object, as the server sent it."""
    done = run_piped(SCRIPT, "--json", "hi", env={"LLMARKING_URL": live_server_factory(Talker())})
    answer = json.loads(done.stdout)
    assert (answer["text"], answer["model"]) == (["word0 word1 word2 END1"], "scripted")
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("args", "stdin", "status", "message"),
    [
        (["--temperature", "hot", "hi"], b"", 2, "invalid float value"),
        (["-s", "--json", "hi"], b"", 2, "not allowed with"),
        ([], b" \n", 3, "the prompt is empty"),
        ([], b"\xff\xfe", 3, "not UTF-8"),
        (["--temperature", "9", "hi"], b"", 3, "temperature"),
        (["--url", "ftp://x", "hi"], b"", 3, "no server address"),
        (["--api-key", "not-that-one", "hi"], b"", 4, "does not know this API key"),
        (["--url", "http://127.0.0.1:9", "hi"], b"", 5, "python vllm_server.py"),
    ],
)
def test_failures(
    live_server_factory: Serve, args: list[str], stdin: bytes, status: int, message: str
) -> None:
    """Each has its exit status and one line that says what to do; data there is none."""
    url = live_server_factory(Talker(), api_keys=("the-only-key",))
    env = {"LLMARKING_URL": url, "LLMARKING_API_KEY": "the-only-key"}
    done = run_piped(SCRIPT, *args, stdin=stdin, env=env)
    assert (done.returncode, done.stdout) == (status, b"")
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_conversation_keeps_its_history(live_server_factory: Serve) -> None:
    """What the server gets grows with every turn, until it is cleared."""
    engine = Talker()
    url = live_server_factory(engine)
    with Session(SCRIPT, "-s", "--system", "Be kind.", env={"LLMARKING_URL": url}) as session:
        session.expect("scripted at http")
        for number, text in enumerate(["one", "two", "/clear", "three"]):
            session.expect("> ")
            session.type(text + "\n")
            session.expect("forgotten" if text == "/clear" else f"END{number + (number < 2)}")
        session.expect("> ")
        session.type(CTRL_D)
        assert session.end() == 0
    first = ["system\nBe kind.", "user\none"]
    assert engine.turns() == [
        first,
        [*first, "assistant\nword0 word1 word2 END1", "user\ntwo"],
        ["system\nBe kind.", "user\nthree"],
    ]


@pytest.mark.parametrize("term", ["dumb", "xterm-256color"])
def test_ctrl_c_stops_the_answer_only(live_server_factory: Serve, term: str) -> None:
    """The engine stops working, and what had been said stays in the conversation."""
    engine = Talker(held=True)
    url = live_server_factory(engine)
    with Session(SCRIPT, "-s", env={"LLMARKING_URL": url, "TERM": term}) as session:
        session.expect("> ")
        session.type("first\n")
        session.expect("word0 word1 ")
        session.type(CTRL_C)
        assert engine.aborted.filled.wait(30)
        session.expect("(stopped)")
        session.expect("> ")
        session.type("second\n")
        session.expect("END2")
        session.expect("> ")
        session.type("/exit\n")
        assert session.end() == 0
    assert engine.turns()[1] == ["user\nfirst", "assistant\nword0 word1 ", "user\nsecond"]
    assert engine.running() == 0


def test_ctrl_c_without_streaming(live_server_factory: Serve) -> None:
    """An answer of which nothing was seen leaves no trace in the conversation."""
    engine = Talker(held=True)
    with Session(SCRIPT, env={"LLMARKING_URL": live_server_factory(engine)}) as session:
        session.expect("> ")
        session.type("first\n")
        assert engine.waiting.wait(30)
        session.type(CTRL_C)
        assert engine.aborted.filled.wait(30)
        session.expect("(stopped)")
        session.type("second\n")
        session.expect("END2")
        session.expect("> ")
        session.type(CTRL_C)
        assert session.end() == 130
    assert engine.turns()[1] == ["user\nsecond"]


def test_ctrl_c_of_one_answer(live_server_factory: Serve) -> None:
    """What had arrived stays on the screen, and the exit status tells."""
    engine = Talker(held=True)
    url = live_server_factory(engine)
    with Session(SCRIPT, "-s", "hello", env={"LLMARKING_URL": url}) as session:
        session.expect("word0 word1 ")
        session.type(CTRL_C)
        assert engine.aborted.filled.wait(30)
        assert session.end() == 130


def test_commands_and_errors_do_not_end_it(live_server_factory: Serve) -> None:
    """A mistake is answered with what can be done; the conversation goes on."""
    url = live_server_factory(Talker(), api_keys=("the-only-key",))
    env = {"LLMARKING_URL": url, "LLMARKING_API_KEY": "the-only-key"}
    with Session(SCRIPT, "--temperature", "9", env=env) as session:
        session.expect("> ")
        # A key that is pressed before the prompt shows may be lost.
        for typed, answer in [
            ("/help", "/clear"),
            ("/bye", "is no command"),
            ("hi", "temperature"),
        ]:
            session.type(typed + "\n")
            session.expect(answer)
            session.expect("\n> ")
        session.type(CTRL_D)
        assert session.end() == 0


def test_a_server_that_is_not_there(live_server_factory: Serve) -> None:
    """A conversation does not begin without a server."""
    with Session(SCRIPT, "--url", "http://127.0.0.1:9") as session:
        session.expect("no server answers at http://127.0.0.1:9")
        assert session.end() == 5


def test_json_needs_a_prompt() -> None:
    """A conversation is nothing that one JSON object holds."""
    with Session(SCRIPT, "--json") as session:
        session.expect("--json answers one prompt")
        assert session.end() == 2


def test_a_terminal_is_not_steered(live_server_factory: Serve) -> None:
    """Escape sequences in an answer are shown, not obeyed; a pipe gets them as they are."""
    engine = ScriptedEngine(lambda _: "safe \x1b[31mred\x9b2J")
    url = live_server_factory(engine)
    with Session(SCRIPT, "hi", env={"LLMARKING_URL": url}) as session:
        session.expect("safe \ufffd[31mred\ufffd2J\n")
        assert session.end() == 0
        assert "\x1b" not in session.seen
    done = run_piped(SCRIPT, "hi", env={"LLMARKING_URL": url})
    assert done.stdout.decode() == "safe \x1b[31mred\x9b2J\n"


def test_output_that_goes_elsewhere(live_server_factory: Serve) -> None:
    """With standard output in a pipe, the prompt and messages stay on the terminal."""
    reader, writer = os.pipe()
    url = live_server_factory(Talker())
    with Session(SCRIPT, "-s", stdout=writer, env={"LLMARKING_URL": url}) as session:
        os.close(writer)
        session.expect("> ")
        session.type("hi\n")
        session.expect("> ")
        session.type(CTRL_D)
        assert session.end() == 0
    with os.fdopen(reader, "rb") as data:
        assert data.read() == b"word0 word1 word2 END1\n"


def test_whoever_reads_has_seen_enough(live_server_factory: Serve) -> None:
    """A reader that goes away, as `head` does, causes no traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    url = live_server_factory(Talker())
    with Session(SCRIPT, "-s", "hi", stdout=writer, env={"LLMARKING_URL": url}) as session:
        os.close(writer)
        assert session.end() == 1
        assert "Traceback" not in session.seen
