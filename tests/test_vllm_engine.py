"""The real engine on the small test model: the promises that a script can't prove."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from conftest import wait_until
from test_serve import SCRIPT, Process, connect, refused
from test_server import GRADE, raw_request

pytestmark = pytest.mark.engine

MODEL = "SmolLM2-135M-Instruct"
CONTEXT = 2048
# Whose rounding does not depend on the processor as far as any test here looks; bfloat16, which is
# vLLM's choice, differs by up to 0.2 between processors with and without matrix instructions.
DTYPE = "float32"
ADMIN = "the-key-of-the-admin"
AUTH = {"Authorization": f"Bearer {ADMIN}"}


class Server(Process):
    """A server on the real engine; `seen` are the statuses of live and ready while it loaded."""

    def __init__(self, command: list[str]) -> None:
        super().__init__(command)
        self.seen: set[tuple[int, int]] = set()
        try:
            self.url = self.address
            # Asking again and again would take a core from what is waited for.
            wait_until(self._ready, seconds=480, pause=0.25)
        except BaseException:
            # Left alone, it would go on in the way of all tests that follow.
            self.stop()
            raise

    def _ready(self) -> bool:
        live = httpx.get(f"{self.url}/health/live", timeout=30).status_code
        ready = httpx.get(f"{self.url}/health/ready", timeout=30).status_code
        self.seen.add((live, ready))
        return ready == 200

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=120)

    def metric(self, name: str) -> float:
        """The sum of a metric of vLLM over its labels."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        return sum(float(v) for v in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))

    def engine_core(self) -> psutil.Process:
        children = psutil.Process(self._process.pid).children(recursive=True)
        return next(c for c in children if "EngineCore" in " ".join(c.cmdline()) + c.name())

    def idle(self) -> bool:
        names = (
            "vllm:num_requests_running",
            "vllm:num_requests_waiting",
            "llmarking_requests_held",
        )
        return sum(map(self.metric, names)) == 0


@pytest.fixture(scope="module")
def shelf(test_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three adapters that differ."""
    root = tmp_path_factory.mktemp("adapters")
    folders = [str(root / name) for name in ("one", "two", "three")]
    command = [sys.executable, str(Path(__file__).with_name("peft_adapters.py")), str(test_model)]
    subprocess.run([*command, *folders], check=True, timeout=240)
    return root


@pytest.fixture(scope="module")
def server(test_model: Path, shelf: Path) -> Iterator[Server]:
    """`vllm_server.py` on the bare test model with room for adapters: an engine takes long to
    start, so all tests of this file share it but those that look at one from inside (`probe`)."""
    process = Server(
        [*SCRIPT, "-m", MODEL, "--source", "pypi", "--device", "cpu", "--port", "0",
         "--max-model-len", str(CONTEXT), "--enable-lora", "--adapter-folder", str(shelf),
         "--admin-key", ADMIN, "--no-adapter", "--adapter", f"start={shelf / 'three'}",
         "--dtype", DTYPE]
    )  # fmt: skip
    yield process
    process.stop()


def generate(server: Server, **body: Any) -> dict[str, Any]:
    reply = server.post("/generate", {"max_tokens": 8, **body})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def test_health_checks_answer_while_the_model_loads(server: Server) -> None:
    assert server.seen == {(200, 503), (200, 200)}
    (card,) = httpx.get(f"{server.url}/models").json()["models"]
    assert (card["model"], card["context"], card["dtype"]) == (MODEL, CONTEXT, DTYPE)
    assert {"vllm", "torch", "transformers", "llmarking"} <= set(card["versions"])
    assert re.fullmatch("[0-9a-f]+", card["revision"])


# Text


def test_a_stream_arrives_token_by_token_and_ends_like_the_whole(server: Server) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 24}
    whole = generate(server, **body)
    texts = []
    with httpx.stream("POST", f"{server.url}/generate", json=body | {"stream": True}) as reply:
        for line in reply.iter_lines():
            texts += json.loads(line)["text"]
    assert len(texts) > 12
    for before, after in pairwise(texts):
        assert after.startswith(before.removesuffix("\ufffd"))
    assert texts[-1] == whole["text"][0]
    assert whole["usage"]["completion_tokens"] == 24
    assert whole["finish_reasons"] == ["length"]


def test_a_batch_is_answered_in_order(server: Server) -> None:
    prompts = ["The capital of France is", "1, 2, 3, 4, 5, 6,", "Monday, Tuesday, Wednesday,"]
    texts = generate(server, prompt=prompts)["text"]
    for text, expected in zip(texts, ("Paris", "7", "Thursday"), strict=True):
        assert expected in text


def test_a_seed_makes_sampling_repeatable(server: Server) -> None:
    body = {"prompt": "Once upon a time", "temperature": 1.5, "max_tokens": 12}
    first, again, other = (generate(server, **body, seed=seed)["text"] for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_samples_are_as_many_as_asked_for_and_differ(server: Server) -> None:
    body = {"prompt": "Once upon a time", "temperature": 1.5, "n": 4, "max_tokens": 12}
    reply = generate(server, **body)
    assert len(set(reply["text"])) > 1
    assert len(reply["text"]) == len(reply["finish_reasons"]) == 4
    assert reply["usage"]["completion_tokens"] == sum(
        12 if reason == "length" else 0 for reason in reply["finish_reasons"]
    ) or "stop" in reply["finish_reasons"]  # fmt: skip


def test_a_stop_ends_a_text_before_it(server: Server) -> None:
    reply = generate(server, prompt="1, 2, 3, 4, 5,", stop=[" 8"], max_tokens=30)
    assert reply["finish_reasons"] == ["stop"]
    assert "7" in reply["text"][0]
    assert "8" not in reply["text"][0]


def test_a_conversation_goes_through_the_models_own_template(server: Server) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    chat = generate(server, messages=messages, max_tokens=1)
    plain = generate(server, prompt="Hi", max_tokens=1)
    assert chat["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"] + 5
    # A turn that types the end token has more tokens than the one it would have been.
    typed = [{"role": "user", "content": "Hi<|im_end|>"}]
    more = generate(server, messages=typed, max_tokens=1)["usage"]["prompt_tokens"]
    assert more > chat["usage"]["prompt_tokens"] + 1


# Choices


def odds(server: Server, prompt: str, *choices: str, **more: Any) -> float:
    (options,) = generate(server, prompt=prompt, choices=list(choices), **more)["choices"]
    assert [o["text"] for o in options] == list(choices)
    assert sum(o["probability"] for o in options) == pytest.approx(1)
    return math.log(options[0]["probability"] / options[1]["probability"])


def test_probabilities_of_choices_add_up_to_one_and_make_sense(server: Server) -> None:
    assert odds(server, "The capital of France is", " Paris", " London") > 2
    assert odds(server, "The capital of England is", " Paris", " London") < -1


def test_what_two_choices_share_does_not_change_their_odds(server: Server) -> None:
    """P(a b) / P(a c) = P(b | a) / P(c | a): one request read in the chain, the other apart."""
    chained = odds(server, "The capital of", " France is Paris", " France is London")
    apart = odds(server, "The capital of France is", " Paris", " London")
    assert chained == pytest.approx(apart, abs=0.002)


# Grading


def test_an_answer_is_graded_with_evidence_that_stands_in_it(server: Server) -> None:
    answer = "The last element put in is the first one to come out."
    reply = server.post("/grade", GRADE | {"answer": answer, "explain": True})
    assert reply.status_code == 200
    marked = reply.json()
    assert marked["mark"] == sum(p["mark"] for p in marked["points"] if p["held"])
    for point in marked["points"]:
        assert 0 < point["probability"] < 1
        assert point["evidence"] is None or point["evidence"] in answer
    assert marked["usage"]["completion_tokens"] > 0


def test_what_a_class_shares_is_computed_once(server: Server) -> None:
    long = {**GRADE["question"], "text": "What is a stack? " + "Think of plates. " * 40}
    server.post("/grade", {"question": long, "answer": "plates"})
    before = server.metric("vllm:prefix_cache_hits_total")
    usage = server.post("/grade", {"question": long, "answer": "other plates"}).json()["usage"]
    assert server.metric("vllm:prefix_cache_hits_total") > before
    assert usage["cached_tokens"] > 0.5 * usage["prompt_tokens"]


async def test_two_hundred_texts_and_grades_at_once_are_all_answered(server: Server) -> None:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=200) as client:
        texts = [
            client.post("/generate", json={"prompt": f"Number {i}:", "max_tokens": 2})
            for i in range(200)
        ]
        grades = [
            client.post("/grade", json=GRADE | {"answer": f"It is {i}, last in first out."})
            for i in range(200)
        ]
        replies = await asyncio.gather(*texts, *grades)
    assert [reply.status_code for reply in replies] == [200] * 400
    assert all(len(reply.json()["points"]) == 2 for reply in replies[200:])
    wait_until(server.idle)


# Clients that go away


def test_clients_that_go_leave_no_request_running(server: Server) -> None:
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/generate", {"prompt": "Tell me a story.", "max_tokens": 1800, "stream": True}),
        ("/generate", {"prompt": ["Tell me.", "Go on."], "max_tokens": 1800}),
        ("/grade", GRADE | {"method": "prose", "answer": "last in, first out"}),
        ("/v1/chat/completions",
         {"messages": [{"role": "user", "content": "Go on."}], "max_tokens": 1800}),
        ("/v1/chat/completions",
         {"messages": [{"role": "user", "content": "Go."}], "max_tokens": 1800, "stream": True}),
    ]  # fmt: skip
    clients = []
    for _ in range(3):
        for path, body in bodies:
            client = connect(server.url)
            client.sendall(raw_request(path, body))
            clients.append(client)
    wait_until(lambda: server.metric("vllm:num_requests_running") >= 10)
    for client in clients:
        client.close()
    wait_until(server.idle)
    # None of them can have come to its end so soon.
    assert server.metric("vllm:request_success_total") >= 0
    assert generate(server, prompt="Still there?")["text"]


# OpenAI's client


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


HELLO: list[Any] = [{"role": "user", "content": "Say hello."}]


def test_openais_client_lists_the_model_and_chats(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == MODEL
    reply = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=8, temperature=1, n=2, logprobs=True, top_logprobs=2
    )
    assert len(reply.choices) == 2
    assert reply.choices[0].message.content
    assert reply.usage is not None
    assert reply.usage.completion_tokens <= 16


def test_openais_client_streams(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=12, temperature=0
    )
    pieces = []
    usage = None
    for chunk in client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=12, temperature=0, stream=True,
        stream_options={"include_usage": True},
    ):  # fmt: skip
        usage = chunk.usage or usage
        pieces += [choice.delta.content or "" for choice in chunk.choices]
    assert len(pieces) > 4
    assert "".join(pieces) == whole.choices[0].message.content
    assert usage is not None
    assert usage.completion_tokens == 12


def test_openais_client_needs_no_model_name_that_we_do_not_have(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="gpt-4o", messages=HELLO)


@pytest.mark.parametrize(
    "extra",
    [
        {"guided_regex": "(a+)+b"},
        {"structured_outputs": {"regex": "(a+)+b"}},
        {"chat_template": "{{ 7*7 }}"},
        {"prompt_embeds": "AAAA"},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
        {"n": 10**6},
        {"temperature": -1},
        {"max_tokens": 20_000},
        {"top_logprobs": 5},
        {"stream_options": {"include_usage": True}},
    ],
)
def test_openais_client_hears_what_it_may_not_send(
    extra: dict[str, Any], client: openai.OpenAI
) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO, extra_body=extra)
    assert caught.value.param is None or caught.value.param.split(".")[0] in extra


def test_a_chat_that_is_too_long_is_refused(client: openai.OpenAI) -> None:
    long: list[Any] = [{"role": "user", "content": "word " * 3000}]
    with pytest.raises(openai.UnprocessableEntityError, match="2048"):
        client.chat.completions.create(model=MODEL, messages=long)


def test_the_worked_example_of_a_chat_works(server: Server) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    (example,) = document["components"]["schemas"]["ChatRequest"]["examples"]
    assert server.post("/v1/chat/completions", example).status_code == 200


# Refusals


def test_a_prompt_that_is_too_long_is_refused_with_both_lengths(server: Server) -> None:
    reply = server.post("/generate", {"prompt": "word " * 3000})
    problem = reply.json()
    assert (reply.status_code, problem["limit"]) == (422, CONTEXT - 1)
    assert problem["length"] > 3000


@pytest.mark.parametrize("name", ["none", "../../etc", "/etc/passwd", "a\nb"])
def test_an_adapter_that_is_not_loaded_is_not_found(name: str, server: Server) -> None:
    for path, body in (("/generate", {"prompt": "a"}), ("/grade", GRADE)):
        reply = server.post(path, body | {"adapter": name})
        assert (reply.status_code, reply.json()["field"]) == (404, "adapter")


def test_metrics_are_ours_and_vllms(server: Server) -> None:
    text = httpx.get(f"{server.url}/metrics").text
    for name in ("llmarking_answers_graded_total", "vllm:prefix_cache_queries_total",
                 "vllm:kv_cache_usage_perc", "vllm:time_to_first_token_seconds"):  # fmt: skip
        assert name in text


# Adapters beside the weights


def load(server: Server, name: str) -> httpx.Response:
    return httpx.post(f"{server.url}/adapters", json={"name": name}, headers=AUTH, timeout=60)


def blueness(server: Server, adapter: str | None) -> float:
    """How probable the model finds one word before another: a number for what it is."""
    body = {"prompt": "The sky is", "choices": [" blue", " red"], "adapter": adapter}
    reply = server.post("/generate", {k: v for k, v in body.items() if v is not None})
    assert reply.status_code == 200, reply.text
    return float(reply.json()["choices"][0][0]["probability"])


def test_the_engine_answers_with_the_adapter_that_is_named(server: Server) -> None:
    for name in ("one", "two"):
        assert load(server, name).status_code == 201
    told = httpx.get(f"{server.url}/adapters").json()["adapters"]
    assert [card["name"] for card in told] == ["start", "one", "two"]
    found = sorted(blueness(server, name) for name in (None, "start", "one", "two"))
    # Far above what the same request differs by, and below what adapters do on any processor.
    assert all(b - a > 0.003 for a, b in pairwise(found)), found
    marked = server.post("/grade", GRADE | {"adapter": "one"}).json()
    version = next(card["version"] for card in told if card["name"] == "one")
    assert (marked["adapter"], marked["adapter_version"]) == ("one", version)


async def test_rows_of_one_prompt_are_read_with_the_adapter_that_is_named(server: Server) -> None:
    """P(a b) / P(a c) = P(b | a) / P(c | a), by one prefill and by a request of its own."""
    names = ("start", "one", "two")
    chained = await asyncio.gather(
        *(
            asyncio.to_thread(odds, server, "The", " sky is blue", " sky is red", adapter=name)
            for name in names
        )
    )
    apart = [odds(server, "The sky is", " blue", " red", adapter=name) for name in names]
    assert chained == pytest.approx(apart, abs=0.002)
    low, middle, high = sorted(apart)
    assert min(middle - low, high - middle) > 0.05


async def test_adapters_in_one_batch_do_not_mix(server: Server) -> None:
    """Nor do they touch a request without one, as they do on a CPU where no place stays empty."""
    names = (None, "start", "one", "two")
    alone = [blueness(server, name) for name in names]
    together = await asyncio.gather(
        *(asyncio.to_thread(blueness, server, name) for name in names * 2)
    )
    assert together == pytest.approx(alone * 2, abs=0.002)


def test_a_broken_adapter_harms_nobody(server: Server, shelf: Path) -> None:
    good = shelf / "one"
    weights = (good / "adapter_model.safetensors").read_bytes()
    config = json.loads((good / "adapter_config.json").read_text())
    broken = {
        "cut": (weights[:50_000], config),
        "noise": (b"\x10" + bytes(7) + b"x" * 5000, config),
        "rank": (weights, config | {"r": 64}),
        "foreign": (weights, config | {"base_model_name_or_path": "lab/Other"}),
        "unnamed": (weights.replace(b"q_proj", b"z_proj"), config),
    }
    for name, (content, told) in broken.items():
        (shelf / name).mkdir()
        (shelf / name / "adapter_model.safetensors").write_bytes(content)
        (shelf / name / "adapter_config.json").write_text(json.dumps(told))
        assert load(server, name).status_code == 422, name
    # One that vLLM itself finds fault with: what we look at is all in order.
    odd = shutil.copytree(good, shelf / "odd")
    (odd / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": "much"}))
    reply = load(server, "odd")
    assert reply.status_code == 422
    assert "vLLM can't load odd" in reply.json()["detail"]
    assert blueness(server, "one") > 0
    assert httpx.get(f"{server.url}/health/ready").status_code == 200


async def test_an_adapter_is_exchanged_and_removed_under_load(server: Server, shelf: Path) -> None:
    """Every request ends well, and those that follow are answered by what took the name."""
    done = asyncio.Event()
    mine = shutil.copytree(shelf / "one", shelf / "mine")
    assert load(server, "mine").status_code == 201

    async def keep_asking(client: httpx.AsyncClient, who: int) -> list[int]:
        seen = []
        while not done.is_set():
            body = {"prompt": f"Story {who}{len(seen)}:", "max_tokens": 8, "adapter": "mine"}
            seen.append((await client.post("/generate", json=body)).status_code)
        return seen

    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        asking = [asyncio.create_task(keep_asking(client, who)) for who in range(4)]
        for source in ("two", "one", "two"):
            await asyncio.sleep(1)
            shutil.rmtree(mine)
            shutil.copytree(shelf / source, mine)
            reply = await client.post("/adapters", json={"name": "mine"}, headers=AUTH)
            assert reply.status_code == 200, reply.text
            shutil.rmtree(mine)
            mine.mkdir()
        done.set()
        seen = [status for task in asking for status in await task]
        assert set(seen) == {200}
        assert blueness(server, "mine") == pytest.approx(blueness(server, "two"), abs=0.002)
        removed = await client.delete("/adapters/mine", headers=AUTH)
    assert removed.status_code == 204
    gone = server.post("/generate", {"prompt": "x", "adapter": "mine"})
    assert (gone.status_code, gone.json()["field"]) == (404, "adapter")
    assert blueness(server, None) > 0


# From inside


@pytest.fixture(scope="module")
def probe(test_model: Path) -> Iterator[tuple[Server, dict[str, Any]]]:
    """A server that has told what its engine does, as `engine_probe.py` asks it."""
    process = Server([sys.executable, "-m", "tests.engine_probe", str(test_model), DTYPE])
    told = re.search("^TOLD (.*)$", process.printed, re.MULTILINE)
    assert told, process.printed
    yield process, json.loads(told[1])
    process.stop()


def test_readings_of_one_prompt_are_those_of_separate_prompts(
    probe: tuple[Server, dict[str, Any]],
) -> None:
    _, told = probe
    assert len(told["together"]) == len(told["apart"]) == 3
    for together, apart in zip(told["together"], told["apart"], strict=True):
        assert together == pytest.approx(apart, abs=0.002)


def test_one_prefill_reads_what_a_request_for_each_point_reads(
    probe: tuple[Server, dict[str, Any]],
) -> None:
    """Also in several steps, when the cache has it all, and beside others that want scores."""
    ways = probe[1]["ways"]
    assert ways["way"]
    counts = [1, 2, 3, 4] * 3
    for name in ("session", "rows", "again", "mixed"):
        assert [len(rows) for rows in ways[name]] == counts
        for found, chained in zip(ways[name], ways["chain"], strict=True):
            for row, expected in zip(found, chained, strict=True):
                assert row == pytest.approx(expected, abs=0.002), name
    # The rows of a prompt are further apart than that.
    (first, second), *_ = ways["chain"][1::4]
    assert abs(first[0] - second[0]) > 0.2
    for alone, beside in zip(ways["prompts"], ways["mixed_prompts"], strict=True):
        assert beside == pytest.approx(alone, abs=0.002)


def test_readings_take_nothing_from_texts_in_the_same_batch(
    probe: tuple[Server, dict[str, Any]],
) -> None:
    _, told = probe
    beginning = told["alone"]["text"][:20]
    assert beginning.strip()
    # Batches of another size round differently, so late tokens may differ.
    assert [text["text"][:20] for text in told["texts"]] == [beginning] * 6
    assert all(len(rows) == 3 for rows in told["readings"])
    assert told["running"] == 0


def test_a_schema_is_followed(probe: tuple[Server, dict[str, Any]]) -> None:
    _, told = probe
    for reply in told["schema"]:
        assert reply["text"].lstrip().startswith("{")
        beginning = re.split('": *"', reply["text"], maxsplit=1)[1]
        assert beginning.startswith(("The answer says that ", "答案说明了"))
        if reply["reason"] == "stop":
            assert set(json.loads(reply["text"])) == {"reason"}
    assert told["choice"]["text"] in ("London", "Paris")


def test_samples_are_counted_together(probe: tuple[Server, dict[str, Any]]) -> None:
    _, told = probe
    assert len(told["samples"]) == 3
    assert told["sample_tokens"] == 15


# The end


def test_a_signal_lets_a_text_finish(probe: tuple[Server, dict[str, Any]]) -> None:
    server, _ = probe
    body = {"prompt": "Once upon a time", "max_tokens": 200, "stream": True}
    with httpx.stream("POST", f"{server.url}/generate", json=body, timeout=120) as reply:
        lines = reply.iter_lines()
        first = json.loads(next(lines))["text"][0]
        server.send(signal.SIGTERM)
        wait_until(lambda: refused(server.url))
        *_, last = lines
    assert len(json.loads(last)["text"][0]) > len(first) + 200
    assert server.end() == 0
    assert "Traceback" not in server.printed


def test_the_death_of_vllms_process_ends_the_server_with_one_and_a_message(server: Server) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 1500, "stream": True}
    with httpx.stream("POST", f"{server.url}/generate", json=body, timeout=120) as reply:
        lines = reply.iter_lines()
        next(lines)
        server.engine_core().kill()
        *_, last = lines
    assert json.loads(last)["error"]["status"] == 503
    assert server.end() == 1
    assert "stopped because the engine failed: vLLM's engine process has died" in server.printed
