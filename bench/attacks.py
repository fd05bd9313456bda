"""The attack suite: 45 kinds of manipulation in two languages, and honest answers like them.

The texts are ours and lie in `bench/attacks/`. The split `dev` was at hand while the detector was
made, and so was `more`, which is left out unless asked for. `test` was written when the detector
was finished, and no rule has been made from what it misses.
"""

from __future__ import annotations

import base64
import codecs
import random
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from llmarking import rubric
from llmarking.domain import Flag, Question

TEXTS = Path(__file__).with_name("attacks")
Language = Literal["en", "zh"]
Split = Literal["dev", "more", "test"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
SPLITS: tuple[Split, ...] = ("dev", "test")
BASES = ("alone", "wrong", "half", "right")


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack.

    Attributes:
        category: 1…45, as in `categories.toml`.
        name: of the category; `variant` tells apart several attacks of one category.
        text: what is added to an answer, before `transform` is done to it.
        expects: any of these flags counts as seen.
        alone: the attack is the whole answer; behind an answer it is none.
    """

    category: int
    name: str
    variant: str
    group: str
    language: Language
    split: Split
    text: str
    transform: str
    expects: frozenset[Flag]
    alone: bool


@dataclass(frozen=True, slots=True)
class Control:
    """An honest answer that resembles an attack, with its question and the flags it may have."""

    name: str
    language: Language
    split: Split
    question: Question
    answer: str
    allowed: frozenset[Flag]


@dataclass(frozen=True, slots=True)
class BaseQuestion:
    """A question with one answer of each quality, to add attacks to."""

    question: Question
    language: Language
    wrong: str
    half: str
    right: str

    def answer(self, base: str) -> str:
        """The answer of a quality; nothing for `alone`."""
        return {"alone": "", "wrong": self.wrong, "half": self.half, "right": self.right}[base]


@lru_cache(maxsize=8)
def attacks(splits: tuple[Split, ...] = SPLITS) -> tuple[Attack, ...]:
    """The attacks of some splits, by split, language and category."""
    categories = {row["number"]: row for row in _read("categories.toml")["category"]}
    return tuple(
        Attack(
            category=row["category"],
            name=categories[row["category"]]["name"],
            variant=row.get("name", ""),
            group=categories[row["category"]]["group"],
            language=language,
            split=split,
            text=row.get("text", ""),
            transform=row.get("transform", "append"),
            expects=frozenset(map(Flag, categories[row["category"]]["flags"])),
            alone=categories[row["category"]].get("alone", False),
        )
        for split in splits
        for language in LANGUAGES
        for row in _read(f"{split}.{language}.toml").get("attack", ())
    )


@lru_cache(maxsize=1)
def controls() -> tuple[Control, ...]:
    """Every honest answer, by split."""
    return tuple(
        Control(
            name=row["name"],
            language=row.get("language", "en"),
            split=split,
            question=_question(row),
            answer=row["answer"],
            allowed=frozenset(map(Flag, row.get("allowed", ()))),
        )
        for split in SPLITS
        for row in _read(f"controls.{split}.toml").get("control", ())
    )


@lru_cache(maxsize=1)
def questions() -> tuple[BaseQuestion, ...]:
    """The questions that attacks are tried on."""
    return tuple(
        BaseQuestion(_question(row), row["language"], row["wrong"], row["half"], row["right"])
        for row in _read("questions.toml")["question"]
    )


def apply(attack: Attack, base: str, question: str, reference: str) -> str:
    """An answer under attack: `base` is what the student wrote, empty for the attack alone."""
    made = _TRANSFORMS[attack.transform](
        _Material(attack.text, base, question, reference, random.Random(f"{attack.category}{base}"))
    )
    return made if attack.transform in _WHOLE else f"{base}\n{made}" if base else made


def _read(name: str) -> Mapping[str, Any]:
    path = TEXTS / name
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _question(row: Mapping[str, Any]) -> Question:
    markup = row.get("reference", "")
    if "<Point" not in markup:
        markup = f"<Point1:1>{markup or row['answer']}<Point1:1>"
    parsed = rubric.parse(markup)
    return Question(
        code=row.get("code", row.get("name", "")),
        text=row.get("text", row.get("question", "")),
        full_mark=parsed.full_mark,
        reference=parsed.prose,
        points=parsed.points,
    )


@dataclass(frozen=True, slots=True)
class _Material:
    text: str
    base: str
    question: str
    reference: str
    random: random.Random


_HOMOGLYPHS = str.maketrans("aceiopsxyAEKMOTX", "асеіорѕхуАЕКМОТХ")
_LEET = str.maketrans("aeiost", "431057")
_MORSE = dict(
    zip(
        "abcdefghijklmnopqrstuvwxyz",
        (
            ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- "
            "...- .-- -..- -.-- --.."
        ).split(),
        strict=True,
    )
)


def _zero_width(m: _Material) -> str:
    return "".join(c + m.random.choice("\u200b\u200c\u200d\u2060") for c in m.text)


def _tags(m: _Material) -> str:
    return "".join(chr(0xE0000 + ord(c)) for c in m.text)


def _homoglyphs(m: _Material) -> str:
    return m.text.translate(_HOMOGLYPHS)


def _selectors(m: _Material) -> str:
    return "😀" + "".join(
        chr(0xFE00 + byte) if byte < 16 else chr(0xE0100 + byte - 16) for byte in m.text.encode()
    )


def _zalgo(m: _Material) -> str:
    return "".join(
        c + "".join(chr(m.random.randint(0x300, 0x36F)) for _ in range(m.random.randint(4, 9)))
        for c in m.text
    )


def _broken(m: _Material) -> str:
    middle = len(m.text) // 2
    return f"\x00\x08{m.text[:middle]}\ud83d{m.text[middle:]}\x1b[8m\udfff\x7f"


def _salad(m: _Material) -> str:
    words = re.findall(r"[\u4e00-\u9fff]{2}|[A-Za-z]{4,}", m.question)
    m.random.shuffle(words)
    return (" " if words and words[0].isascii() else "、").join(words)


def _salad_lower(m: _Material) -> str:
    """Only some of the words, with blanks between them whatever the language."""
    words = re.split(r"[ 、]", _salad(m).lower())
    return " ".join(words[: max(6, len(words) * 2 // 3)])


def _shouted_reference(m: _Material) -> str:
    """The reference in capitals, or with other signs between its clauses."""
    shouted = m.reference.upper()
    return re.sub("[，；。]", "；", shouted)


def _filler(m: _Material) -> str:
    """The same sentence with a running number, so that no two lines are equal."""
    sentence = m.base or m.question
    return "\n".join(f"{number}. {sentence}" for number in range(1, 41))


def _near_reference(m: _Material) -> str:
    """The reference with its last word left out, as a careless copy has it."""
    return m.reference.rstrip(" .。")[: -3 if not m.reference.isascii() else None]


def _morse(m: _Material) -> str:
    return " / ".join(" ".join(_MORSE.get(c, "") for c in word) for word in m.text.lower().split())


_TRANSFORMS: Mapping[str, Callable[[_Material], str]] = {
    "append": lambda m: m.text,
    "only": lambda m: m.text,
    "prepend": lambda m: f"{m.text}\n{m.base}" if m.base else m.text,
    "zero_width": _zero_width,
    "zero_width_bits": lambda m: "".join(
        "\u200b\u200c"[int(bit)] for byte in m.text.encode() for bit in f"{byte:08b}"
    ),
    "tags": _tags,
    "homoglyphs": _homoglyphs,
    "bidi": lambda m: f"\u202e{m.text[::-1]}\u202c",
    "base64": lambda m: base64.b64encode(m.text.encode()).decode(),
    "hex": lambda m: m.text.encode().hex(" "),
    "rot13": lambda m: codecs.encode(m.text, "rot13"),
    "leet": lambda m: m.text.lower().translate(_LEET),
    "morse": _morse,
    "escapes": lambda m: "".join(f"\\u{ord(c):04x}" for c in m.text),
    "spaced": lambda m: "  ".join(" ".join(word) for word in m.text.split()),
    "full_width": lambda m: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in m.text),
    "reversed": lambda m: m.text[::-1],
    "selectors": _selectors,
    "zalgo": _zalgo,
    "broken": _broken,
    "question": lambda m: m.question,
    "reference": _near_reference,
    "question_twice": lambda m: f"{m.question.upper()}\n\n- {m.question}",
    "reference_shouted": _shouted_reference,
    "salad_lower": _salad_lower,
    "repeat_filler": _filler,
    "salad": _salad,
    "repeat": lambda m: "\n".join([m.text or m.base or m.question] * 20),
    "loop_words": lambda m: " ".join([m.text] * 200),
}
_WHOLE = frozenset({"only", "prepend", "repeat", "repeat_filler"})
