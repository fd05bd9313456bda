"""The server as a process: what it prints, how it stops, and with which exit code."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
from adapter_files import adapter_folder
from conftest import wait_until

from llmarking import settings
from llmarking.errors import InputError
from llmarking.server import serve
from llmarking.settings import ServerSettings

ROOT = Path(__file__).parents[1]
SCRIPT = [sys.executable, "vllm_server.py"]
# A server whose engine does what the command line can't ask for.
SPECIAL = """
import asyncio, sys
from llmarking.engines.scripted import ScriptedEngine
from llmarking.errors import EngineError
from llmarking.server import service
from llmarking.server.serve import serve
from llmarking.settings import ServerSettings
import logging
logging.basicConfig(level=logging.INFO)
service.HEALTH_INTERVAL = 0.01

class Engine(ScriptedEngine):
    async def start(self):
        if "fails" in sys.argv:
            raise EngineError("no memory left")
    async def check_health(self):
        if "dies" in sys.argv and self.running():
            self.dead = True
        await super().check_health()

async def slow(delay):
    await asyncio.sleep(60)

engine = Engine(sleep=slow) if "slow" in sys.argv else Engine()
raise SystemExit(asyncio.run(serve(engine, ServerSettings(port=0, drain_seconds=1))))
"""


class Process:
    """A running server with what it has printed so far."""

    def __init__(self, command: Sequence[str], **environ: str) -> None:
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"LLMARKING_HOME": tempfile.mkdtemp()} | environ,
        )  # fmt: skip
        self.printed = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.printed += line

    @property
    def address(self) -> str:
        """Where it listens, once it does."""
        found: list[str] = []

        def listening() -> bool:
            found[:] = re.findall(r"listening on (http://\S+),", self.printed)
            return bool(found) or self._process.poll() is not None

        wait_until(listening)
        assert found, self.printed
        wait_until(lambda: self._answers(found[0]))
        return found[0]

    @staticmethod
    def _answers(address: str) -> bool:
        try:
            return httpx.get(f"{address}/health/live").status_code == 200
        except httpx.TransportError:
            return False

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        """The exit code; what it printed is complete then."""
        code = self._process.wait(60)
        self._reader.join(10)
        return code

    def stop(self) -> None:
        # Killed at once it would leave vLLM's processes behind, which hold its output open.
        if self._process.poll() is None:
            children = psutil.Process(self._process.pid).children(recursive=True)
            if children:
                self._process.terminate()
                psutil.wait_procs(children, timeout=60)
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        self._process.kill()
        self._process.wait()
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def start() -> Iterator[type[Process]]:
    running: list[Process] = []

    class Started(Process):
        def __init__(self, command: Sequence[str], **environ: str) -> None:
            super().__init__(command, **environ)
            running.append(self)

    yield Started
    for process in running:
        process.stop()


def run(*arguments: str) -> int:
    """The exit code of the command line, in this process."""
    try:
        return serve.main(arguments)
    except SystemExit as exit_:  # argparse's way
        return int(exit_.code or 0)


def connect(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def refused(address: str) -> bool:
    try:
        connect(address).close()
    except ConnectionRefusedError:
        return True
    return False


# Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server_with_zero(number: int, start: type[Process]) -> None:
    server = start([*SCRIPT, "-m", "scripted", "--port", "0"])
    assert httpx.get(f"{server.address}/health/ready").status_code == 200
    server.send(number)
    assert server.end() == 0
    assert "Traceback" not in server.printed


def test_a_signal_lets_a_running_request_finish_and_closes_the_door(start: type[Process]) -> None:
    """A stream longer than what the sockets hold: it can't be done before it is read."""
    server = start([*SCRIPT, "-m", "scripted", "--port", "0"])
    address = server.address
    prompt = " ".join(["word"] * 5000)
    body = {"prompt": prompt, "stream": True, "max_tokens": 10_000}
    with httpx.stream("POST", f"{address}/generate", json=body, timeout=60) as reply:
        lines = reply.iter_lines()
        assert json.loads(next(lines)) == {"text": ["word "]}
        server.send(signal.SIGTERM)
        wait_until(lambda: refused(address))
        *_, last = lines
    assert json.loads(last) == {"text": [prompt]}
    assert server.end() == 0


def test_a_request_that_does_not_end_in_time_is_given_up(start: type[Process]) -> None:
    server = start([sys.executable, "-c", SPECIAL, "slow"])
    address = server.address
    with connect(address) as client:
        content = b'{"prompt": "a"}'
        head = f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + content)
        held = "llmarking_requests_held 1.0"
        wait_until(lambda: held in httpx.get(f"{address}/metrics").text)
        server.send(signal.SIGTERM)
        assert b" 503 " in client.recv(65536).split(b"\r\n")[0]
        assert server.end() == 0
    assert "Traceback" not in server.printed


def test_a_second_signal_does_not_wait(start: type[Process]) -> None:
    server = start([sys.executable, "-c", SPECIAL.replace("drain_seconds=1", "drain_seconds=600"),
                    "slow"])  # fmt: skip
    address = server.address
    with connect(address) as client:
        content = b'{"prompt": "a"}'
        head = f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + content)
        wait_until(lambda: "held 1.0" in httpx.get(f"{address}/metrics").text)
        server.send(signal.SIGINT)
        wait_until(lambda: refused(address))
        server.send(signal.SIGINT)
        assert server.end() == 0


# Failing


def test_an_engine_that_can_not_be_loaded_ends_the_server_with_one_and_a_message(
    start: type[Process],
) -> None:
    server = start([sys.executable, "-c", SPECIAL, "fails"])
    assert server.end() == 1
    assert "stopped because the engine failed: no memory left" in server.printed


def test_an_engine_that_dies_ends_the_server_with_one_and_a_message(start: type[Process]) -> None:
    server = start([sys.executable, "-c", SPECIAL, "dies"])
    reply = httpx.post(f"{server.address}/generate", json={"prompt": "a b c"})
    assert reply.status_code == 503
    assert server.end() == 1
    assert "stopped because the engine failed" in server.printed
    assert "Traceback" not in server.printed


def test_a_port_in_use_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run("-m", "scripted", "--port", str(port)) == 1
    expected = f"vllm_server.py: can't listen on 127.0.0.1:{port}: Address already in use\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_is_not_ours_is_said_at_once(
    host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-m", "scripted", "--host", host, "--port", "0") == 1
    assert f"can't listen on {host}:0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "99999"], "--port 99999: a port is between 0 and 65535"),
        (["--max-queue", "0"], "--max-queue 0: must be at least 1"),
        (["--api-key", "short"], "--api-key: a key has at least 8 characters"),
        (["--api-key", "has a space in it"], "--api-key: a key has"),
        (["--gpu-memory-utilization", "0.5"], "unknown argument --gpu-memory-utilization"),
        (["--port", "x"], "invalid int value: 'x'"),
        (["--source", "ftp"], "invalid choice: 'ftp'"),
    ],
)
def test_a_wrong_flag_is_refused_with_two_and_a_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-m", "scripted", *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err


def test_a_key_never_appears_in_what_is_printed(start: type[Process]) -> None:
    server = start(
        [*SCRIPT, "-m", "scripted", "--port", "0", "--api-key", "first-secret-key"],
        LLMARKING_API_KEYS="second-secret-key, third-secret-key",
    )
    address = server.address
    for key in ("first-secret-key", "second-secret-key", "third-secret-key"):
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{address}/models", headers=headers).status_code == 200
    assert httpx.get(f"{address}/models").status_code == 401
    server.send(signal.SIGTERM)
    assert server.end() == 0
    assert "secret" not in server.printed


def test_help_shows_every_flag_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    for flag in ("--model", "--source", "--api-key", "--max-queue", "--drain-seconds", "--adapter"):
        assert flag in shown
    assert "python vllm_server.py -m 8 --source modelscope" in shown


# Settings


@pytest.mark.parametrize(
    ("given", "environ", "keys"),
    [
        (None, "", ()),
        (["one-long-key"], "", ("one-long-key",)),
        (None, "key-number-1,key-number-2 key-number-3",
         ("key-number-1", "key-number-2", "key-number-3")),
        (["key-number-2"], "key-number-1, key-number-2", ("key-number-2", "key-number-1")),
        (None, " ,, ", ()),
    ],
)  # fmt: skip
def test_keys_come_from_flags_and_the_environment_each_once(
    given: list[str] | None, environ: str, keys: tuple[str, ...]
) -> None:
    assert settings.keys(given, "LLMARKING_API_KEYS", {"LLMARKING_API_KEYS": environ}) == keys


def test_keys_are_not_shown_with_the_settings() -> None:
    assert "secret" not in repr(ServerSettings(api_keys=("a-secret-key",)))


@pytest.mark.parametrize("key", ["", "short", "with space", "größter-schlüssel", "tab\there-it-is"])
def test_a_key_that_can_not_be_sent_is_refused(key: str) -> None:
    with pytest.raises(InputError, match="at least 8 characters"):
        ServerSettings(api_keys=(key,))


# Which adapters the engine gets, and how


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What the engine is made with, in place of one."""
    seen: dict[str, Any] = {}

    class Engine:
        def __init__(self, folder: Path, name: str, **options: Any) -> None:
            seen.update(options, folder=folder)

    model = SimpleNamespace(path=tmp_path / "model", digest="d" * 64, revision="r")
    monkeypatch.setattr("llmarking.engines.vllm_engine.VLLMEngine", Engine)
    monkeypatch.setattr(serve.hub, "fetch", lambda *_: model)
    monkeypatch.setattr(serve, "check_memory", lambda *_: None)
    monkeypatch.setattr(serve, "merged_folder", lambda *_: tmp_path / "merged")
    monkeypatch.setattr(serve, "gpu_gib", lambda: ())
    return seen


def engine_of(*flags: str) -> str | None:
    known, extra = serve.parser().parse_known_args(flags)
    return serve._engine(known, extra)[1]


SHIPPED = "qwen2.5-coder-1.5b-marker"


def test_on_a_cpu_the_default_adapter_alone_is_merged(made: dict[str, Any], tmp_path: Path) -> None:
    mine = adapter_folder(tmp_path / "mine", base="Qwen/Qwen2.5-Coder-1.5B-Instruct")
    assert engine_of() == SHIPPED
    assert (made["merged"].name, made["adapters"], made["lora"]) == (SHIPPED, [], False)
    assert made["folder"] == tmp_path / "merged"
    own = ("--no-adapter", "--adapter", f"mine={mine}", "--default-adapter", "mine")
    assert engine_of(*own) == "mine"
    assert (made["merged"].name, made["adapters"]) == ("mine", [])


def test_on_a_cpu_several_adapters_lie_beside_the_weights(
    made: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = adapter_folder(tmp_path / "mine", base="Qwen/Qwen2.5-Coder-1.5B-Instruct")
    for flags in (("--adapter", f"mine={mine}"), ("--enable-lora",)):
        caplog.clear()
        assert engine_of(*flags) == SHIPPED
        assert made["merged"] is None
        assert made["adapters"][0].name == SHIPPED
        assert made["folder"] == tmp_path / "model"
        assert "grades many times slower" in caplog.text
    assert made["lora"] is True
    # One that nobody said should grade everything is not in the weights of everything.
    assert engine_of("--no-adapter", "--adapter", f"mine={mine}") is None
    assert [a.name for a in made["adapters"]] == ["mine"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--default-adapter", "nobody"), "--default-adapter nobody: there is no such adapter"),
        (("--adapter", "a={0}", "--adapter", "a={0}"), "two adapters are called a"),
    ],
)
def test_adapters_that_make_no_sense_are_refused(
    flags: tuple[str, ...], words: str, made: dict[str, Any], tmp_path: Path
) -> None:
    mine = adapter_folder(tmp_path / "mine")
    with pytest.raises(InputError, match=words):
        engine_of(*(flag.format(mine) for flag in flags))
    assert made == {}


def test_an_adapter_folder_must_be_there_and_be_of_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-m", "scripted", "--adapter-folder", str(tmp_path / "none")) == 2
    assert "there is no such folder" in capsys.readouterr().err
    known = serve.parser().parse_args(["--adapter-folder", str(tmp_path)])
    with pytest.raises(InputError, match="needs --enable-lora"):
        serve._adapter_folder(known)


@pytest.mark.parametrize(
    ("flags", "gpus", "processes"),
    [
        ((), (80.0,), 4),
        ((), (), 0),
        (("--device", "cpu"), (80.0,), 0),
        (("-m", "scripted"), (80.0,), 0),
        (("--screeners", "0"), (80.0,), 0),
        (("--screeners", "2"), (), 2),
    ],
)
def test_where_a_gpu_marks_screening_has_processes_of_its_own(
    flags: tuple[str, ...], gpus: tuple[float, ...], processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "gpu_gib", lambda: gpus)
    monkeypatch.setattr(serve.os, "sched_getaffinity", lambda _: range(16))
    assert serve._screeners(serve.parser().parse_args(flags)) == processes


def test_a_number_of_processes_has_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-m", "scripted", "--screeners", "65") == 2
    assert "--screeners 65: must be from 0 to 64" in capsys.readouterr().err
