"""Places of values in JSON, however it is laid out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from llmarking.json_places import place, steps

TEXT = """\
{
  "a": [1, {"b": "x,]}\\"\\n", "c": [[], 2]},
    true],
  "a b": 3, "a": ["last"]
}"""


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ([], (1, 1)),
        (["a b"], (4, 10)),
        (["a"], (4, 18)),  # a key that stands twice: the last counts
        (["a", 0], (4, 19)),
        (["a", 1], (4, 18)),  # there is no such element
        (["missing"], (1, 1)),
        (["a b", "x", 3], (4, 10)),
    ],
)
def test_places(path: list[str | int], where: tuple[int, int]) -> None:
    assert place(TEXT, path) == where


def test_steps() -> None:
    assert steps("questions[3].answers[0].id") == ["questions", 3, "answers", 0, "id"]


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


def walk(value: Any, path: tuple[str | int, ...] = ()) -> Any:
    yield path, value
    pairs = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for step, inner in pairs:
        yield from walk(inner, (*path, step))


@given(VALUES, st.sampled_from([None, 1, 3]), st.booleans())
def test_every_value_is_where_it_is_said_to_be(
    value: Any, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    lines = text.split("\n")
    for path, expected in walk(value):
        line, column = place(text, path)
        rest = "\n".join([lines[line - 1][column - 1 :], *lines[line:]])
        assert json.JSONDecoder().raw_decode(rest)[0] == expected
