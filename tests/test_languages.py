"""The language that an answer is replied to in."""

from __future__ import annotations

import pytest

from llmarking.domain import Point, Question
from llmarking.screening.languages import function_words, language


def question(text: str) -> Question:
    return Question("q", text, 1, text, (Point(1, 1, (text,)),))


ENGLISH = question("What is it that moves the water, and which of the two is it for?")
CHINESE = question("水为什么从细胞里流出来？")
GERMAN = question("Warum wird das Wasser aus der Zelle gezogen und was ist der Grund?")


@pytest.mark.parametrize(
    ("answer", "asked", "spoken"),
    [
        ("It is because of the salt that the water moves.", ENGLISH, "English"),
        ("Das Wasser ist nicht mit der Zelle, weil es wird gezogen.", ENGLISH, "German"),
        ("因为盐水浓度更高", ENGLISH, "Chinese"),
        ("Потому что солёная вода", ENGLISH, "Russian"),
        # A sign or a word is in no language of its own.
        ("Δψ", ENGLISH, "English"),
        ("λ, μ", ENGLISH, "English"),
        ("π", GERMAN, "German"),
        ("Osmose", GERMAN, "German"),
        ("42", CHINESE, "Chinese"),
        ("LIFO", CHINESE, "Chinese"),
        ("", CHINESE, "Chinese"),
        ("水の浓度更高，所以水流出来了", CHINESE, "Chinese"),
        ("水が細胞から流れ出るからです", CHINESE, "Japanese"),
    ],
)
def test_the_language_of_an_answer(answer: str, asked: Question, spoken: str) -> None:
    assert language(answer, asked) == spoken


def test_function_words_are_a_languages_own() -> None:
    assert "weil" in function_words("German")
    assert "weil" not in function_words("English")
    assert "the" in function_words("English")
    assert "water" not in function_words("English")
