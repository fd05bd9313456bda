"""What a client may send: every bound, every unknown field, and what the refusal says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from conftest import Address, serving
from pydantic import ValidationError
from test_server import CHAT, GRADE, QUESTION

from llmarking.domain import Sampling
from llmarking.engines.scripted import ScriptedEngine
from llmarking.protocol.bodies import ChatRequest, GenerateRequest, GradeRequest, WireQuestion
from llmarking.settings import ServerSettings

LONG = " ".join(f"word{i}" for i in range(300))
POINTS = [{"id": 1, "verdict": True}, {"id": 2, "verdict": False}]


def question(**changes: Any) -> dict[str, Any]:
    return GRADE | {"question": QUESTION | changes}


def test_defaults_are_greedy_and_bounded() -> None:
    assert GenerateRequest(prompt="a").sampling() == Sampling()
    body = GradeRequest.model_validate(GRADE)
    assert (body.method, body.shots, body.explain, body.risk) == ("verdict", 0, False, None)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "a", "n": 64, "temperature": 2, "top_p": 1, "top_k": 100_000},
        {"prompt": "a", "max_tokens": 32_768, "seed": 2**63 - 1, "stop": ["x"] * 16},
        {"prompt": ["a"] * 256},
        {"prompt": ["a"] * 4, "n": 64, "temperature": 0.1},
        {"prompt": "a", "choices": [str(i) for i in range(32)]},
        {"messages": [{"role": "system", "content": ""}] * 1024},
        {"prompt": "a", "temperature": 1, "top_p": 0.5},
        {"prompt": "x" * 200_000},
    ],
)
def test_what_is_within_the_bounds_is_taken(body: dict[str, Any]) -> None:
    GenerateRequest.model_validate(body)


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("", {}),
        ("", {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}),
        ("prompt", {"prompt": 5}),
        ("prompt", {"prompt": []}),
        ("prompt", {"prompt": ["a"] * 257}),
        ("prompt", {"prompt": ["a", 5]}),
        ("prompt", {"prompt": [1, 2, 3]}),
        ("prompt", {"prompt": "x" * 200_001}),
        ("messages", {"messages": []}),
        ("messages.0.role", {"messages": [{"role": "tool", "content": "b"}]}),
        ("messages.0.content", {"messages": [{"role": "user", "content": None}]}),
        ("messages.0.content", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
        ("messages.0.name", {"messages": [{"role": "user", "content": "b", "name": "x"}]}),
        ("n", {"prompt": "a", "n": 0}),
        ("n", {"prompt": "a", "n": 65}),
        ("n", {"prompt": "a", "n": 10**6}),
        ("n", {"prompt": "a", "n": 10**30}),
        ("n", {"prompt": "a", "n": "2"}),
        ("n", {"prompt": "a", "n": 1.5}),
        ("n", {"prompt": "a", "n": True}),
        ("", {"prompt": "a", "n": 2}),
        ("", {"prompt": ["a"] * 5, "n": 64, "temperature": 1}),
        ("max_tokens", {"prompt": "a", "max_tokens": 0}),
        ("max_tokens", {"prompt": "a", "max_tokens": 32_769}),
        ("max_tokens", {"prompt": "a", "max_tokens": -1}),
        ("temperature", {"prompt": "a", "temperature": -0.1}),
        ("temperature", {"prompt": "a", "temperature": 2.1}),
        ("temperature", {"prompt": "a", "temperature": "hot"}),
        ("temperature", {"prompt": "a", "temperature": float("nan")}),
        ("top_p", {"prompt": "a", "top_p": 0}),
        ("top_p", {"prompt": "a", "top_p": 1.01}),
        ("top_p", {"prompt": "a", "top_p": float("inf")}),
        ("top_k", {"prompt": "a", "top_k": -1}),
        ("top_k", {"prompt": "a", "top_k": 100_001}),
        ("seed", {"prompt": "a", "seed": -1}),
        ("seed", {"prompt": "a", "seed": 2**63}),
        ("stop", {"prompt": "a", "stop": ["x"] * 17}),
        ("stop.0", {"prompt": "a", "stop": [""]}),
        ("stop.0", {"prompt": "a", "stop": ["x" * 257]}),
        ("stop", {"prompt": "a", "stop": "x"}),
        ("stream", {"prompt": "a", "stream": "yes"}),
        ("choices", {"prompt": "a", "choices": ["only"]}),
        ("choices", {"prompt": "a", "choices": [str(i) for i in range(33)]}),
        ("choices.1", {"prompt": "a", "choices": ["a", ""]}),
        ("", {"prompt": "a", "choices": ["a", "a"]}),
        ("", {"prompt": "a", "choices": ["a", "b"], "stream": True}),
        ("", {"prompt": "a", "choices": ["a", "b"], "n": 2, "temperature": 1}),
        ("adapter", {"prompt": "a", "adapter": "x" * 201}),
    ],
)
def test_what_is_not_is_refused_by_the_name_of_its_field(field: str, body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        GenerateRequest.model_validate(body)
    places = [".".join(map(str, fault["loc"])) for fault in caught.value.errors()]
    assert any(place.startswith(field) for place in places), places


FORBIDDEN = [
    "guided_regex", "guided_json", "guided_choice", "guided_grammar", "structured_outputs",
    "response_format", "chat_template", "chat_template_kwargs", "prompt_embeds", "prompt_token_ids",
    "logits_processors", "extra_args", "vllm_xargs", "use_beam_search", "best_of", "tools",
    "mm_processor_kwargs", "lora_path", "regex", "schema", "__class__",
]  # fmt: skip


@pytest.mark.parametrize("field", [*FORBIDDEN, "tool_choice", "functions", "echo", "prompt"])
def test_chat_completions_take_none_of_them_either(field: str, shared_server: Address) -> None:
    reply = httpx.post(f"{shared_server}/v1/chat/completions", json=CHAT | {field: "x"})
    assert reply.status_code == 422
    assert reply.headers["content-type"] == "application/json"
    error = reply.json()["error"]
    assert (error["param"], error["code"]) == (field, 422)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("messages", {"messages": []}),
        ("messages", {"messages": 5}),
        (
            "messages.0.content",
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        ),
        ("messages.0.role", {"messages": [{"role": "tool", "content": "x"}]}),
        (
            "messages.0.tool_calls",
            {"messages": [{"role": "user", "content": "x", "tool_calls": 5}]},
        ),
        ("n", CHAT | {"n": 17}),
        ("n", CHAT | {"n": 10**9}),
        ("n", CHAT | {"n": -1}),
        ("max_tokens", CHAT | {"max_tokens": 10**7}),
        ("temperature", CHAT | {"temperature": -1}),
        ("top_logprobs", CHAT | {"top_logprobs": 500}),
        ("stop", CHAT | {"stop": ["x"] * 10**5}),
        ("stop", CHAT | {"stop": ""}),
        ("stream", CHAT | {"stream": "yes"}),
        ("stream_options.include_usage", CHAT | {"stream_options": {"include_usage": "no"}}),
    ],
)
def test_a_faulty_chat_is_refused_by_the_name_of_its_field(
    field: str, body: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate(body)
    places = [".".join(map(str, fault["loc"])) for fault in caught.value.errors()]
    assert any(place.startswith(field) for place in places), places


@pytest.mark.parametrize("field", FORBIDDEN)
def test_no_grammar_template_or_embedding_can_be_sent(field: str, shared_server: Address) -> None:
    for path, body in (("/generate", {"prompt": "a"}), ("/grade", GRADE)):
        reply = httpx.post(f"{shared_server}{path}", json=body | {field: "x"})
        assert reply.status_code == 422
        assert reply.json()["field"] == field
        assert reply.json()["detail"] == f"{field}: Extra inputs are not permitted"


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("question", {"answer": "a"}),
        ("answer", {"question": QUESTION}),
        ("answer", GRADE | {"answer": None}),
        ("answer", GRADE | {"answer": "x" * 200_001}),
        ("method", GRADE | {"method": "guess"}),
        ("shots", GRADE | {"shots": -1}),
        ("shots", GRADE | {"shots": 17}),
        ("shots", GRADE | {"shots": "1"}),
        ("explain", GRADE | {"explain": 1}),
        ("risk", GRADE | {"risk": 0}),
        ("risk", GRADE | {"risk": 0.5}),
        ("risk", GRADE | {"risk": float("nan")}),
        ("adapter", GRADE | {"adapter": "../" * 100}),
        ("question.text", question(text=None)),
        ("question.full_mark", question(full_mark=0)),
        ("question.full_mark", question(full_mark=10_001)),
        ("question.full_mark", question(full_mark="3")),
        ("question.surplus", question(surplus=1)),
        ("question.examples", question(examples=[{"answer": "a", "points": POINTS}] * 17)),
        ("question.examples.0.points", question(examples=[{"answer": "a", "points": []}])),
        ("question.examples.0.points.0.id",
         question(examples=[{"answer": "a", "points": [{"id": 0, "verdict": True}]}])),
        ("question.examples.0.points.0.verdict",
         question(examples=[{"answer": "a", "points": [{"id": 1, "verdict": "True"}]}])),
    ],
)  # fmt: skip
def test_a_faulty_question_or_answer_is_refused_by_the_name_of_its_field(
    field: str, body: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError) as caught:
        GradeRequest.model_validate(body)
    places = [".".join(map(str, fault["loc"])) for fault in caught.value.errors()]
    assert field in places


def test_a_question_is_parsed_with_its_examples() -> None:
    parsed = WireQuestion.model_validate(QUESTION).question()
    assert [(p.id, p.mark, p.text) for p in parsed.points] == [
        (1, 2.0, "last in, first out"),
        (2, 1.0, "in O(1)"),
    ]
    assert parsed.full_mark == 3
    assert parsed.reference == "It is last in, first out, in O(1)."
    assert parsed.examples[0].verdicts == {1: True, 2: False}
    assert parsed.examples[0].reasons == {}


@pytest.mark.parametrize(
    ("points", "ids"),
    [
        ([POINTS[0]], "[1]"),
        ([*POINTS, {"id": 3, "verdict": True}], "[1, 2, 3]"),
        ([POINTS[0], POINTS[0]], "[1, 1]"),
        ([*POINTS, POINTS[1]], "[1, 2, 2]"),
    ],
)
def test_an_example_needs_a_verdict_on_each_point_and_no_more(
    points: list[dict[str, Any]], ids: str, shared_server: Address
) -> None:
    good = {"answer": "a", "points": POINTS}
    body = question(examples=[good, {"answer": "b", "points": points}])
    reply = httpx.post(f"{shared_server}/grade", json=body)
    assert (reply.status_code, reply.json()["field"]) == (422, "question.examples")
    assert f"example 2 has verdicts for points {ids}" in reply.json()["detail"]


# Refusals over HTTP


def test_a_fault_of_the_markup_names_point_and_column(shared_server: Address) -> None:
    body = question(reference="It is <Point1:2>last in, first out<Point2:2>.")
    reply = httpx.post(f"{shared_server}/grade", json=body)
    assert reply.status_code == 422
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert set(problem) == {
        "type", "title", "status", "detail", "instance", "field", "point", "column", "code",
        "values",
    }  # fmt: skip
    assert (problem["point"], problem["column"], problem["field"]) == ("Point1", 7, "reference")
    # For clients that say it in another language.
    assert problem["code"] == "rubric_crossed"
    assert problem["values"] == {"name": "Point1", "at": 7, "other": "Point2", "there": 35}
    assert (problem["title"], problem["instance"]) == ("Unprocessable Content", "/grade")


def test_several_faults_are_all_listed(shared_server: Address) -> None:
    reply = httpx.post(f"{shared_server}/generate", json={"prompt": "a", "n": 0, "top_p": 2})
    problem = reply.json()
    assert [fault["field"] for fault in problem["errors"]] == ["n", "top_p"]
    assert problem["detail"].startswith("n: ")
    assert problem["detail"].endswith("(and 1 more)")
    assert problem["field"] == "n"


def test_a_fault_of_no_one_field_has_none(shared_server: Address) -> None:
    problem = httpx.post(f"{shared_server}/generate", json={}).json()
    assert problem["detail"] == "give either prompt or messages"
    assert "field" not in problem


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", 422, "Field required"),
        (b"{", 422, "the body is not JSON"),
        (b'{"prompt": "a",}', 422, "at character"),
        (b"prompt=a", 422, "the body is not JSON"),
        (b'"text"', 422, "valid dictionary"),
        (b"[]", 422, "valid dictionary"),
        (b"null", 422, "Field required"),
        (b'{"prompt": "\xff\xfe"}', 400, "parsing the body"),
        ('{"prompt": "café"}'.encode("latin-1"), 400, "parsing the body"),
        (b"[" * 200_000, 400, "parsing the body"),
        (b'{"n": ' + b"9" * 5000 + b', "prompt": "a"}', 400, "parsing the body"),
        (b'{"prompt": "a", "temperature": NaN}', 422, "temperature"),
        (b'{"prompt": "a", "temperature": Infinity}', 422, "temperature"),
        (b'{"prompt": "\\ud800"}', 422, "prompt"),
        (b'{"prompt": "a", "\\ud800": 1}', 422, "unicode string"),
        (b'{"prompt": "a", "' + b"x" * 100_000 + b'": 1}', 422, "not permitted"),
    ],
)
def test_what_is_no_json_of_ours_is_a_problem_and_never_a_500(
    content: bytes, status: int, words: str, shared_server: Address
) -> None:
    headers = {"Content-Type": "application/json"}
    reply = httpx.post(f"{shared_server}/generate", content=content, headers=headers)
    assert (reply.status_code, reply.headers["content-type"]) == (
        status,
        "application/problem+json",
    )
    assert words in reply.json()["detail"]
    assert len(reply.content) < 2000


def test_json_in_another_encoding_that_json_allows_is_read(shared_server: Address) -> None:
    headers = {"Content-Type": "application/json"}
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        content = json.dumps({"prompt": "café"}, ensure_ascii=False).encode(encoding)
        reply = httpx.post(f"{shared_server}/generate", content=content, headers=headers)
        assert reply.status_code in (200, 400)
        assert reply.status_code == 400 or reply.json()["text"] == ["café"]


# Too long


@pytest.fixture(scope="module")
def tight() -> Iterator[Address]:
    with serving(ScriptedEngine(context=1000), ServerSettings()) as address:
        yield address


@pytest.mark.parametrize(
    ("path", "body", "field", "length"),
    [
        ("/generate", {"prompt": "x" * 1000}, "prompt", 1000),
        ("/generate", {"prompt": ["a", "x" * 1500]}, "prompt.1", 1500),
        ("/generate", {"prompt": "x" * 1000, "stream": True}, "prompt", 1000),
        ("/generate", {"prompt": "x" * 999, "choices": ["Yes", "No"]}, "choices", 1002),
        ("/generate", {"messages": [{"role": "user", "content": "x" * 2000}]}, "messages", None),
        ("/grade", GRADE | {"answer": LONG}, "answer", None),
        ("/grade", GRADE | {"answer": LONG, "stream": True}, "answer", None),
        ("/grade", GRADE | {"answer": LONG, "method": "prose"}, "answer", None),
    ],
)
def test_what_does_not_fit_the_context_is_refused_with_both_lengths(
    path: str, body: dict[str, Any], field: str, length: int | None, tight: Address
) -> None:
    reply = httpx.post(f"{tight}{path}", json=body)
    assert reply.status_code == 422
    problem = reply.json()
    assert problem["field"] == field
    assert problem["length"] > problem["limit"]
    assert length in (None, problem["length"])
    assert f"{problem['length']} tokens long" in problem["detail"]
    assert f"at most {problem['limit']}" in problem["detail"]


def test_what_just_fits_is_answered(tight: Address) -> None:
    reply = httpx.post(f"{tight}/generate", json={"prompt": "x" * 999, "max_tokens": 512})
    assert (reply.status_code, reply.json()["finish_reasons"]) == (200, ["stop"])
    body = {"prompt": "x" * 997, "choices": ["Yes", "No"]}
    assert httpx.post(f"{tight}/generate", json=body).status_code == 200


def test_an_empty_prompt_is_refused(shared_server: Address) -> None:
    for prompt in ("", ["a", ""]):
        reply = httpx.post(f"{shared_server}/generate", json={"prompt": prompt})
        assert (reply.status_code, reply.json()["field"]) == (422, "prompt")


def test_more_examples_than_the_question_has_are_refused(shared_server: Address) -> None:
    reply = httpx.post(f"{shared_server}/grade", json=GRADE | {"shots": 2})
    assert (reply.status_code, reply.json()["field"]) == (422, "shots")


# The same question again


def test_a_question_that_comes_with_every_answer_is_understood_once() -> None:
    sent = {"text": "Q", "reference": "<Point1:1>a<Point1:1>", "full_mark": 1}
    first, again = (WireQuestion.model_validate(sent).question() for _ in range(2))
    assert first is again
    other = WireQuestion.model_validate(sent | {"text": "R"}).question()
    assert (other.text, other.points) == ("R", first.points)


def test_examples_are_those_of_the_request_and_not_remembered() -> None:
    sent = {"text": "Q", "reference": "<Point1:1>a<Point1:1>"}
    example = {"answer": "yes", "points": [{"id": 1, "verdict": True}]}
    with_one = WireQuestion.model_validate(sent | {"examples": [example]}).question()
    assert [e.answer for e in with_one.examples] == ["yes"]
    assert WireQuestion.model_validate(sent).question().examples == ()
