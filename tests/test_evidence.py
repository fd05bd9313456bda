"""A quotation is evidence only where it stands in the answer."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, strategies as st

from llmarking.grading import evidence

ANSWER = "A stack is LIFO.  It uses\npush() and pop(); the café's “top” is O(1)…"


@pytest.mark.parametrize(
    ("quote", "found"),
    [
        ("A stack is LIFO.", "A stack is LIFO"),
        ("It uses push()", "It uses\npush()"),
        ("LIFO. It   uses", "LIFO.  It uses"),
        ("“It uses push() and pop()”", "It uses\npush() and pop()"),
        ('"push() and pop()..."', "push() and pop()"),
        ("…and pop()", "and pop()"),
        ("it uses push()", "It uses\npush()"),
        ("Push() and", "push() and"),
        ("café", "café"),
        ("cafe\u0301", "café"),
        ("O(1)", "O(1)"),
    ],
)
def test_a_quote_is_found_as_it_stands_in_the_answer(quote: str, found: str) -> None:
    assert evidence.locate(quote, ANSWER) == found
    assert found in ANSWER


@pytest.mark.parametrize(
    "quote",
    [
        "",
        "   ",
        "...",
        "“”",
        "x",
        "(); ",
        "A queue is FIFO",
        "a Stack is lifo",
        "A stack is LIFO. It uses pop()",
        "A stack … uses push()",
        "cafe",
        "the student says that a stack is LIFO",
    ],
)
def test_what_the_answer_does_not_say_is_no_evidence(quote: str) -> None:
    assert evidence.locate(quote, ANSWER) is None


def test_an_accent_typed_as_two_characters_is_the_same_letter() -> None:
    answer = unicodedata.normalize("NFD", "Die größte Übung")
    found = evidence.locate("größte Übung", answer)
    assert found == unicodedata.normalize("NFD", "größte Übung")


def test_two_characters_of_chinese_are_enough() -> None:
    assert evidence.locate("哈希", "用哈希表存储") == "哈希"


WORDS = st.text("ab é中文.,\"'… \n\t", min_size=1, max_size=12)


@given(WORDS, st.text("xyz中é", min_size=evidence.MIN_LETTERS), WORDS)
def test_every_run_of_words_of_an_answer_is_found_in_it(before: str, word: str, after: str) -> None:
    answer = f"{before} {word} {after}"
    quote = answer[len(before) // 2 : len(answer) - len(after) // 2]
    found = evidence.locate(quote, answer)
    assert found is not None
    assert found in answer
    assert word in found
    assert " ".join(found.split()) in " ".join(quote.split())


@given(st.text(max_size=60), st.text(max_size=200))
def test_what_is_found_always_stands_in_the_answer(quote: str, answer: str) -> None:
    found = evidence.locate(quote, answer)
    assert found is None or found in answer


def test_a_pile_of_accents_does_not_take_quadratic_time() -> None:
    """Composing them all at once would take minutes; the test hangs if that comes back."""
    answer = "a" + "\u0301\u0316" * 200_000 + " end of it"
    assert evidence.locate("end of it", answer) == "end of it"
