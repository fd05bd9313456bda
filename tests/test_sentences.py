"""Sentences that know their names: the same text as ever, and all that another language needs."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from llmarking.errors import DataError, InputError, Overloaded
from llmarking.sentences import Sentence, as_json, counted, from_json, of_pydantic, sentence

SAID = sentence("too_long", "has {size:,} characters; {what} may have 5", size=1000, what="it")


def test_a_sentence_is_its_english_text() -> None:
    assert SAID == "has 1,000 characters; it may have 5"
    assert (SAID.code, SAID.values) == ("too_long", {"size": 1000, "what": "it"})
    # What is filled in is never taken for a place.
    assert sentence("cell", "{cell} is none", cell="{0} {x}") == "{0} {x} is none"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda said: pickle.loads(pickle.dumps(said))])
def test_copies_keep_the_name(copied: object) -> None:
    assert callable(copied)
    again = copied(SAID)
    assert (again, again.code, again.values) == (SAID, SAID.code, SAID.values)
    fault = copied(DataError(SAID, file="a.csv", line=2))
    assert (str(fault), fault.message.code) == (f"a.csv, line 2: {SAID}", "too_long")


def test_a_word_goes_with_its_number() -> None:
    said = [counted(n, "mark", "marks") for n in (0, 1, 1.0, 2.5, 12_000)]
    assert said == ["0 marks", "1 mark", "1 mark", "2.5 marks", "12,000 marks"]


def test_errors_keep_the_sentence_they_were_raised_with() -> None:
    fault = DataError(SAID, file="a.csv", line=2, column="x")
    assert str(fault) == f"a.csv, line 2, column x: {SAID}"
    assert fault.message is SAID
    assert InputError(SAID).message is SAID
    assert Overloaded(3).message == str(Overloaded(3)) == "the server is busy; try again in 3 s"
    assert InputError("plain").message == "plain"


def test_it_travels_as_json_with_the_sentences_in_it() -> None:
    outer = sentence("place", "{at}: {why}, {points}", at="q[0]", why=SAID, points=[1, 2])
    read = from_json(str(outer), json.loads(json.dumps(as_json(outer))))
    assert isinstance(read, Sentence)
    assert (read, read.code) == ("q[0]: " + SAID + ", [1, 2]", "place")
    inner = read.values["why"]
    assert isinstance(inner, Sentence)
    assert (inner, inner.code, inner.values) == (SAID, SAID.code, SAID.values)


@pytest.mark.parametrize("data", [{}, {"code": 3, "values": {}}, {"code": "a", "values": []}])
def test_what_names_no_sentence_is_a_text(data: dict[str, object]) -> None:
    read = from_json("text", data)
    assert read == "text"
    assert not isinstance(read, Sentence)


def test_nesting_ends() -> None:
    data: dict[str, object] = {"code": "a", "values": {}}
    for _ in range(500):
        data = {"code": "a", "values": {"x": data | {"text": "deep"}}}
    value: object = from_json("text", data)
    depth = 0
    while isinstance(value, Sentence) and value.values:
        value, depth = value.values["x"], depth + 1
    assert depth < 10


def test_what_pydantic_says_is_named_by_its_type() -> None:
    fault = {"type": "too_short", "msg": "too few", "ctx": {"min_length": 1, "error": object()}}
    said = of_pydantic(fault)
    assert (said, said.code, said.values) == ("too few", "value_too_short", {"min_length": 1})
    assert of_pydantic({"type": "value_error", "msg": "Value error, so"}) == "so"
