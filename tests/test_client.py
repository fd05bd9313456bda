"""The client over real connections, to a server that sends exactly the bytes a test tells it to."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from llmarking import rubric
from llmarking.calls.call import question_body
from llmarking.client import AsyncClient, Client, Retry
from llmarking.datasets.courses import example_course
from llmarking.domain import GradedExample, Question
from llmarking.errors import InputError, LLMarkingError, RequestRefused, ServerUnreachable
from llmarking.protocol.bodies import WireQuestion

GENERATED = {
    "text": ["hello"],
    "model": "stub",
    "finish_reasons": ["stop"],
    "usage": {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1},
}
POINT = {"id": 1, "mark": 2, "text": "stores pairs", "held": True, "probability": 0.9}
GRADED = {
    "mark": 2,
    "full_mark": 2,
    "points": [POINT],
    "flags": [],
    "needs_review": False,
    "model": "stub",
    "method": "verdict",
    "shots": 0,
    "prompt_version": "v1",
    "usage": {},
}
QUESTION = {"text": "What is a hash table?", "reference": "<Point1:2>stores pairs<Point1:2>"}
BUSY = {"title": "Busy", "status": 429, "detail": "the server is busy"}


# What a server sends, and the events it waits for in between.
Pieces = list[bytes | threading.Event]


@dataclass
class Received:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Stub:
    """A server that answers each request with the next of `replies`, a list of pieces to send.

    After the pieces the connection is closed.
    """

    replies: list[Pieces] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)
    hung_up: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            method, path, _ = lines.readline().decode().split()
            headers = {}
            while (line := lines.readline().strip()) and b":" in line:
                name, _, value = line.decode().partition(":")
                headers[name.lower()] = value.strip()
            body = lines.read(int(headers.get("content-length", 0)))
            self.received.append(Received(method, path, headers, json.loads(body or "null")))
            self.arrived.set()
            try:
                for piece in self.replies.pop(0) if self.replies else []:
                    if isinstance(piece, bytes):
                        connection.sendall(piece)
                        continue
                    # Waiting for the event, or for the other side to hang up.
                    connection.settimeout(0.02)
                    while not piece.is_set():
                        try:
                            if connection.recv(1) == b"":
                                self.hung_up.set()
                                return
                        except TimeoutError:
                            continue
            except OSError:
                self.hung_up.set()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLMARKING_URL", "LLMARKING_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def stub() -> Iterator[Stub]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Stub(url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        threading.Thread(target=server.serve, args=(listener,), daemon=True).start()
        yield server
        listener.shutdown(socket.SHUT_RDWR)


class Blocking:
    """`AsyncClient` driven from ordinary code, so that every test runs with both clients."""

    def __init__(
        self, *args: Any, sleep: Callable[[float], None] | None = None, **options: Any
    ) -> None:
        async def pause(seconds: float) -> None:
            (sleep or (lambda _: None))(seconds)

        self._runner = asyncio.Runner()
        self._client = AsyncClient(*args, sleep=pause, **options)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **options: Any) -> Any:
            result = method(*args, **options)
            return self._iterate(result) if name.startswith("stream") else self._run(result)

        return call

    def _run(self, result: Any) -> Any:
        async def wait() -> Any:
            return await result

        return self._runner.run(wait())

    def _iterate(self, result: Any) -> Generator[Any, None, None]:
        try:
            while True:
                try:
                    yield self._run(anext(result))
                except StopAsyncIteration:
                    return
        finally:
            self._run(result.aclose())

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._client.close())
        self._runner.close()


Make = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest, stub: Stub) -> Iterator[Make]:
    """Makes a client of either kind that talks to the stub and does not really sleep."""
    made = []

    def client(url: str | None = None, *args: Any, **options: Any) -> Any:
        kind = Client if request.param == "sync" else Blocking
        options.setdefault("sleep", lambda seconds: None)
        made.append(kind(url or stub.url, *args, **options))
        return made[-1]

    yield client
    for one in made:
        one.__exit__(None, None, None)


def reply(body: object, status: int = 200, **headers: str) -> Pieces:
    """A whole answer."""
    data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(data)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ["\r\n".join([*lines, "", ""]).encode() + data]


def stream(*pieces: bytes | threading.Event, end: bool = True) -> Pieces:
    """A streamed answer; without `end` it breaks off."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    chunks = [p if not isinstance(p, bytes) else b"%x\r\n%b\r\n" % (len(p), p) for p in pieces]
    return [head, *chunks, *([b"0\r\n\r\n"] if end else [])]


def line(**said: object) -> bytes:
    return json.dumps(said, ensure_ascii=False).encode() + b"\n"


def event(name: str, said: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(said)}\n\n".encode()


@pytest.mark.parametrize(
    ("ask", "path", "body"),
    [
        (
            lambda c: c.generate("hi", max_tokens=3, stop=["\n"]),
            "/generate",
            {"prompt": "hi", "max_tokens": 3, "stop": ["\n"]},
        ),
        (lambda c: c.generate(["a", "b"]), "/generate", {"prompt": ["a", "b"]}),
        (
            lambda c: c.generate("hi", choices=["Yes", "No"], seed=None),
            "/generate",
            {"prompt": "hi", "choices": ["Yes", "No"]},
        ),
        (
            lambda c: c.chat([{"role": "user", "content": "hé"}], temperature=0.5),
            "/generate",
            {"messages": [{"role": "user", "content": "hé"}], "temperature": 0.5},
        ),
    ],
)
def test_generation_requests(
    stub: Stub, make: Make, ask: Callable[[Any], object], path: str, body: object
) -> None:
    """Only what was said is sent; defaults are the server's."""
    stub.replies = [reply(GENERATED)]
    answer = ask(make())
    assert (stub.received[0].method, stub.received[0].path) == ("POST", path)
    assert stub.received[0].body == body
    assert answer == "hello" or answer.text == ["hello"]  # type: ignore[attr-defined]


def test_grade_request(stub: Stub, make: Make) -> None:
    """A question may be given as the wire's, and everything else stands beside it."""
    stub.replies = [reply(GRADED)]
    grade = make().grade(
        WireQuestion.model_validate(QUESTION), "keeps pairs", explain=True, shots=0
    )
    assert stub.received[0].body == {
        "question": QUESTION,
        "answer": "keeps pairs",
        "explain": True,
        "shots": 0,
    }
    assert (grade.mark, grade.points[0].probability) == (2, 0.9)


def test_short_questions(stub: Stub, make: Make) -> None:
    """`models` and `metrics` are GETs without a body."""
    card = {"model": "m", "context": 8, "revision": "", "dtype": "", "adapters": [], "versions": {}}
    stub.replies = [reply({"models": [card]}), reply(b"vllm:up 1\n")]
    client = make()
    assert [m.model for m in client.models()] == ["m"]
    assert client.metrics() == "vllm:up 1\n"
    assert [(r.method, r.path) for r in stub.received] == [("GET", "/models"), ("GET", "/metrics")]


def test_a_newer_server_may_say_more(stub: Stub, make: Make) -> None:
    """Fields that this client does not know are passed over, at any depth."""
    newer = {**GRADED, "mood": "good", "points": [{**POINT, "colour": "red"}]}
    stub.replies = [reply(newer)]
    assert make().grade(QUESTION, "x").mark == 2


@pytest.mark.parametrize("text", ["a\udcffb"])
def test_text_that_is_no_unicode(stub: Stub, make: Make, text: str) -> None:
    """A byte that the command line could not decode is named before anything is sent."""
    with pytest.raises(InputError, match="UTF-8"):
        make().generate(text)
    assert stub.received == []


@pytest.mark.parametrize("options", [{"n": 2, "temperature": 1.0}])
def test_a_stream_carries_one_text(make: Make, options: dict[str, Any]) -> None:
    """Several samples can't be streamed as one text."""
    with pytest.raises(InputError, match="one text"):
        make().stream_generate("hi", **options)


@pytest.mark.parametrize("question", example_course().questions, ids=lambda q: q.code)
def test_shipped_questions_keep_their_markup(question: Question) -> None:
    """What a server parses from the request is the question we had."""
    sent = WireQuestion(**question_body(question)).question()
    assert sent == question


@pytest.mark.parametrize(
    "markup",
    [
        "A <Point1:1>map<Point1:1> is no <Point2:2>hash map<Point2:2>.",
        "<Point2:2>second<Point2:2> comes before <Point1:0.5>first<Point1:0.5>",
        "<Point1_case1:1>heap<Point1_case1:1> or <Point1_case2:1>tree<Point1_case2:1>, sorted",
        "<Point1:1>the<Point1:1> same, <Point2:1>the<Point2:1> same",
        "<Point1:1> spaces <Point1:1>around",
        "<Point1:2>键值对<Point1:2>。<Point2:1>常数时间<Point2:1>",
    ],
)
def test_markup_is_put_back(markup: str) -> None:
    """Parsing what is sent gives the same prose and points."""
    parsed = rubric.parse(markup)
    example = GradedExample("x", {p.id: True for p in parsed.points}, {1: "why"})
    question = Question("q", "?", parsed.full_mark, parsed.prose, parsed.points, (example,))
    assert WireQuestion(**question_body(question)).question() == question


def test_points_that_are_not_in_the_reference() -> None:
    """A question whose prose was rewritten is still sent, its points alone."""
    parsed = rubric.parse("<Point1:1>a<Point1:1> and <Point2:1>b<Point2:1>")
    question = Question("q", "?", 2, "something else", parsed.points)
    sent = WireQuestion(**question_body(question)).question()
    assert sent.points == parsed.points


@pytest.mark.parametrize(
    "cut",
    [
        lambda data: [data],
        lambda data: [data[i : i + 1] for i in range(len(data))],
        lambda data: [data[:7], data[7:-3], data[-3:]],
    ],
    ids=["whole", "bytes", "pieces"],
)
def test_text_arrives_however_it_is_cut(
    stub: Stub, make: Make, cut: Callable[[bytes], list[bytes]]
) -> None:
    """Neither the network's cuts nor separators that JSON allows inside a string divide a line."""
    texts = ["one", "one\u2028two", "one\u2028two\x85é\U0001f600", "one\u2028two\x85é\U0001f600\n"]
    data = b"".join(line(text=[text]) for text in texts).replace(b"}\n", b"}\r\n", 1)
    stub.replies = [stream(*cut(data))]
    assert list(make().stream_generate("hi")) == texts
    assert stub.received[0].body == {"prompt": "hi", "stream": True}


def test_text_arrives_before_the_stream_ends(stub: Stub, make: Make) -> None:
    """The second piece is sent only after the first one was seen."""
    seen = threading.Event()
    stub.replies = [stream(line(text=["a"]), seen, line(text=["a b"]))]
    texts = make().stream_generate("hi")
    assert next(texts) == "a"
    seen.set()
    assert list(texts) == ["a b"]


def test_closing_a_stream_hangs_up(stub: Stub, make: Make) -> None:
    """The server learns at once that nobody listens any more."""
    never = threading.Event()
    stub.replies = [stream(line(text=["a"]), never)]
    with closing(make().stream_generate("hi")) as texts:
        assert next(texts) == "a"
    assert stub.hung_up.wait(10)


def test_grade_events(stub: Stub, make: Make) -> None:
    """Comments, unknown events and split data lines are part of the format."""
    reason = {"id": 1, "evidence": "pairs", "reason": "It says so."}
    grade = json.dumps(GRADED, indent=1).replace("\n", "\r\ndata: ")
    stub.replies = [
        stream(
            b": ping\n\n",
            event("point", POINT),
            event("weather", {"sunny": True}),
            event("reason", reason),
            f"event: grade\r\ndata: {grade}\r\n\r\n".encode(),
        )
    ]
    events = list(make().stream_grade(QUESTION, "pairs"))
    assert [name for name, _ in events] == ["point", "reason", "grade"]
    assert events[0][1].held is True
    assert (events[1][1].evidence, events[1][1].reason) == ("pairs", "It says so.")
    assert events[2][1].mark == 2
    assert stub.received[0].body["stream"] is True


PROBLEM = {"title": "Bad", "status": 422, "detail": "must be at most 2", "field": "temperature"}


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (reply(PROBLEM, 422), RequestRefused, "^temperature: must be at most 2$"),
        (reply({"title": "Only a title", "status": 400}, 400), RequestRefused, "^Only a title$"),
        (reply({"detail": "x"}, 401), RequestRefused, "wants an API key.*LLMARKING_API_KEY"),
        (reply(b"<h1>no</h1>", 404), RequestRefused, "404.*is it an LLMarking server"),
        (reply(b"oops", 500), RequestRefused, "500"),
        (reply(b"", 307, Location="https://x.example/"), RequestRefused, "https://x.example/"),
        (reply({"detail": "no upstream"}, 502), ServerUnreachable, "not ready: no upstream"),
        (reply(b"", 504), ServerUnreachable, "not ready: 504"),
        (reply(b"<html>hello</html>"), ServerUnreachable, "no LLMarking answer"),
        (reply({"text": "not a list"}), ServerUnreachable, "no LLMarking answer"),
    ],
)
def test_refusals(
    stub: Stub, make: Make, answer: Pieces, error: type[LLMarkingError], message: str
) -> None:
    """Each answer that is none becomes an error that says what to do, and nothing is sent twice."""
    stub.replies = [answer]
    with pytest.raises(error, match=message):
        make().generate("hi")
    assert len(stub.received) == 1


def test_a_refusal_keeps_the_problem(stub: Stub, make: Make) -> None:
    """Callers can read the whole problem-details object."""
    stub.replies = [reply(PROBLEM, 422)]
    with pytest.raises(RequestRefused) as caught:
        make().generate("hi")
    assert (caught.value.status, caught.value.problem) == (422, PROBLEM)


@pytest.mark.parametrize(
    ("pieces", "end", "error", "message"),
    [
        ([line(error={**PROBLEM, "status": 503, "detail": "died"})], True, RequestRefused, "died"),
        ([b'{"text": ["a b'], True, ServerUnreachable, "too early"),
        ([b'{"text": ["a b"]}\n'], False, ServerUnreachable, "in the middle"),
        ([b"what?\n"], True, ServerUnreachable, "no LLMarking answer"),
        ([b'{"text": []}\n'], True, ServerUnreachable, "no LLMarking answer"),
    ],
)  # fmt: skip
def test_a_text_stream_that_fails(
    stub: Stub,
    make: Make,
    pieces: list[bytes],
    end: bool,
    error: type[LLMarkingError],
    message: str,
) -> None:
    """What had arrived is handed out first; then comes the error, and never a second try."""
    stub.replies = [stream(line(text=["a"]), *pieces, end=end)]
    texts = make().stream_generate("hi")
    assert next(texts) == "a"
    with pytest.raises(error, match=message):
        list(texts)
    assert len(stub.received) == 1


@pytest.mark.parametrize(
    ("last", "error", "message"),
    [
        (event("error", {"status": 503, "detail": "engine died"}), RequestRefused, "engine died"),
        (b"", ServerUnreachable, "before the grade"),
        (event("point", {"id": "one"}), ServerUnreachable, "no LLMarking answer"),
    ],
)
def test_a_grade_stream_that_fails(
    stub: Stub, make: Make, last: bytes, error: type[LLMarkingError], message: str
) -> None:
    """A grade that never comes is an error, not an empty grade."""
    stub.replies = [stream(event("point", POINT), last)]
    with pytest.raises(error, match=message):
        list(make().stream_grade(QUESTION, "x"))


def test_nobody_there(make: Make) -> None:
    """The message names the address and how to start a server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pauses: list[float] = []
    with pytest.raises(ServerUnreachable, match=rf"127\.0\.0\.1:{port}.*python vllm_server.py"):
        make(f"127.0.0.1:{port}", sleep=pauses.append).models()
    assert len(pauses) >= 2
    assert sum(pauses) <= Retry().connect


def test_silence(stub: Stub, make: Make) -> None:
    """A server that takes a request and says nothing is given up, and not asked again."""
    stub.replies = [[threading.Event()]]
    with pytest.raises(ServerUnreachable, match="silent"):
        make(timeout=0.5).generate("hi")
    assert stub.arrived.wait(30)
    assert len(stub.received) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(stub: Stub, make: Make, status: int) -> None:
    """The pauses grow and are never the same for all clients."""
    stub.replies = [reply(BUSY, status), reply(BUSY, status), reply(GENERATED)]
    pauses: list[float] = []
    assert make(sleep=pauses.append).generate("hi").text == ["hello"]
    assert [r.body for r in stub.received] == [{"prompt": "hi"}] * 3
    assert 0.15 <= pauses[0] <= 0.25
    assert 0.3 <= pauses[1] <= 0.5


@pytest.mark.parametrize(
    ("wanted", "least", "most"),
    [
        (lambda: "7", 7, 7.5),
        (lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True), 18, 20.5),
        (lambda: format_datetime(datetime(2001, 1, 1, tzinfo=UTC), usegmt=True), 0, 0.5),
        (lambda: "soon", 0.15, 0.25),
    ],
    ids=["seconds", "date", "past", "nonsense"],
)
def test_retry_after(
    stub: Stub, make: Make, wanted: Callable[[], str], least: float, most: float
) -> None:
    """The server says how long to wait, as a number or as a date."""
    stub.replies = [reply(BUSY, 429, Retry_After=wanted()), reply(GENERATED)]
    pauses: list[float] = []
    make(sleep=pauses.append).generate("hi")
    assert least <= pauses[0] <= most


@pytest.mark.parametrize("after", ["61", "1000000"])
def test_waiting_is_bounded(stub: Stub, make: Make, after: str) -> None:
    """Nobody waits longer than the budget, whatever the server asks for."""
    stub.replies = [reply(BUSY, 429, Retry_After=after)]
    with pytest.raises(RequestRefused, match="busy") as caught:
        make(sleep=lambda _: pytest.fail("it waited")).generate("hi")
    assert caught.value.status == 429


def test_it_gives_up_in_the_end(stub: Stub, make: Make) -> None:
    """All pauses together stay inside the budget."""
    stub.replies = [reply({"detail": "loading"}, 503)] * 50
    pauses: list[float] = []
    with pytest.raises(ServerUnreachable, match="not ready: loading"):
        make(sleep=pauses.append, retry=Retry(busy=5)).generate("hi")
    assert 1 < sum(pauses) <= 5
    assert len(stub.received) == len(pauses) + 1


def test_what_is_retried_in_a_stream(stub: Stub, make: Make) -> None:
    """A stream that is refused for now is asked for again; one the engine can't serve is not."""
    stub.replies = [reply(BUSY, 429), stream(line(text=["a"]))]
    assert list(make().stream_generate("hi")) == ["a"]
    stub.replies = [reply({"detail": "dead"}, 503)]
    with pytest.raises(ServerUnreachable, match="dead"):
        list(make().stream_generate("hi"))
    assert len(stub.received) == 3


def test_a_connection_lost_before_the_answer(stub: Stub, make: Make) -> None:
    """A server that hangs up before it answers is asked once more, but not for a stream."""
    stub.replies = [[], reply(GENERATED)]
    assert make().generate("hi").text == ["hello"]
    stub.replies = [[]]
    with pytest.raises(ServerUnreachable, match="before an answer"):
        list(make().stream_generate("hi"))
    assert len(stub.received) == 3


def test_ready(stub: Stub, make: Make) -> None:
    """One look, without trying again."""
    stub.replies = [reply({}, 503), reply({})]
    client = make()
    assert [client.ready(), client.ready()] == [False, True]
    assert [r.path for r in stub.received] == ["/health/ready"] * 2
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert make(f"http://127.0.0.1:{port}").ready() is False


def test_wait_ready(stub: Stub, make: Make) -> None:
    """It looks until the server is ready, or says what it was waiting for."""
    stub.replies = [reply({}, 503), reply({}, 503), reply({})]
    make().wait_ready(60)
    assert len(stub.received) == 3
    stub.replies = [reply({"detail": "loading the model"}, 503)]
    with pytest.raises(ServerUnreachable, match=r"after 0 s.*loading the model"):
        make().wait_ready(0)


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        (None, None, "http://127.0.0.1:8000"),
        (None, "http://host:1", "http://host:1"),
        ("http://other:2/", "http://host:1", "http://other:2"),
        ("host:3", None, "http://host:3"),
        ("https://host/marking/", None, "https://host/marking"),
    ],
)
def test_address(
    monkeypatch: pytest.MonkeyPatch, url: str | None, environment: str | None, expected: str
) -> None:
    """Given, from the environment, or this machine's."""
    if environment:
        monkeypatch.setenv("LLMARKING_URL", environment)
    with Client(url) as client:
        assert client.url == expected


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://host:99999999", "http://h?x=1"])
def test_no_address(url: str) -> None:
    """What can't be a server's address is refused at once."""
    with pytest.raises(InputError, match="is no server address"):
        Client(url)


@pytest.mark.parametrize("key", ["a\nb", "schlüssel"])
def test_no_key(key: str) -> None:
    """A key that can't be put in a header is refused at once, and not shown."""
    with pytest.raises(InputError, match="API key") as caught:
        Client(api_key=key)
    assert key not in str(caught.value)


def test_the_key_is_sent(stub: Stub, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment unless it is given; and a wrong one has its own message."""
    monkeypatch.setenv("LLMARKING_API_KEY", "from-env\n")
    stub.replies = [reply(GENERATED), reply({"detail": "no"}, 401)]
    make().generate("hi")
    with pytest.raises(RequestRefused, match="does not know this API key"):
        make(None, "given").generate("hi")
    sent = [r.headers["authorization"] for r in stub.received]
    assert sent == ["Bearer from-env", "Bearer given"]


def test_a_proxy_is_not_asked_for_this_machine(
    stub: Stub, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy in the environment is for other machines; those do go through it."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", stub.url)
    stub.replies = [reply(GENERATED), reply(GENERATED)]
    make().generate("hi")
    make("http://marking.example").generate("hi")
    assert [r.path for r in stub.received] == ["/generate", "http://marking.example/generate"]


def test_a_base_path_is_kept(stub: Stub, make: Make) -> None:
    """A server may live below a path of a larger site."""
    stub.replies = [reply(GENERATED)]
    make(f"{stub.url}/marking/").generate("hi")
    assert stub.received[0].path == "/marking/generate"


def test_many_threads_share_a_client(live_server: str) -> None:
    """Every one of them gets the answer to what it asked."""
    with Client(live_server) as client, ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda i: client.generate(f"number {i}").text, range(200)))
    assert answers == [[f"number {i}"] for i in range(200)]


async def test_many_requests_at_once(live_server: str) -> None:
    """No limit of the client's own stands in the way."""
    async with AsyncClient(live_server) as client:
        asked = [client.generate(f"number {i}") for i in range(200)]
        answers = await asyncio.gather(*asked)
    assert [a.text for a in answers] == [[f"number {i}"] for i in range(200)]


async def test_cancelling_hangs_up(stub: Stub) -> None:
    """A cancelled task leaves no request behind on the server."""
    stub.replies = [[threading.Event()]]
    async with AsyncClient(stub.url) as client:
        task = asyncio.create_task(client.generate("hi"))
        assert await asyncio.to_thread(stub.arrived.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await asyncio.to_thread(stub.hung_up.wait, 10)


def test_imports_stay_light() -> None:
    """People who only run the client scripts need neither the server's nor the model's packages."""
    code = (
        "import sys, vllm_client, student_entry\n"
        "print([m for m in ('torch', 'vllm', 'fastapi', 'starlette', 'gradio', 'transformers')"
        " if m in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
