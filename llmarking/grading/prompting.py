"""Prompts as token ids: templates from `prompts/`, with the text of others joined in as plain text.

A template is rendered with a private mark in the place of every text that we did not write, through
the model's chat template, and only then cut at the marks: our pieces are tokenized with their
control tokens, the others without. What a class shares comes first and is tokenized once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import jinja2
from jinja2 import meta

from llmarking.domain import GradedExample, Message, Point, Question
from llmarking.engines.engine import Tokenizer
from llmarking.errors import PromptError

PROMPTS = Path(__file__).resolve().parents[2] / "prompts"
Method = Literal["verdict", "prose", "explain"]
# A model that was not trained to mark needs to see what a point says beside its verdict.
PLAIN_VERDICT = "v1"

# Private-use characters: no template holds them (checked when it is read), and other people's text
# is never searched for them.
_OPEN, _CLOSE = "\ue000", "\ue001"
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")


def shot_name(shots: int) -> str:
    """The part of a template's file name that says how many graded examples it shows."""
    return {0: "zeroshot", 1: "oneshot"}.get(shots, "fewshot")


class _Loader(jinja2.FileSystemLoader):
    def get_source(self, environment: jinja2.Environment, template: str) -> Any:
        source, filename, fresh = super().get_source(environment, template)
        if _OPEN in source or _CLOSE in source:
            raise PromptError(f"{filename}: U+E000 and U+E001 are reserved; take them out")
        return source, filename, fresh


@lru_cache(maxsize=8)
def _environment(folder: Path) -> jinja2.Environment:
    return jinja2.Environment(
        loader=_Loader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        # Files don't change under a server, which has taken their digests; and a look at the file
        # for every answer gives the interpreter away to another thread each time.
        auto_reload=False,
    )


Block = Callable[[jinja2.runtime.Context], Iterator[str]]


@lru_cache(maxsize=64)
def _blocks(folder: Path, name: str) -> Mapping[str, list[Block]]:
    """A template's blocks by name, each followed by those of the same name that it extends."""
    environment = _environment(folder)
    template = environment.get_template(name)
    blocks = {block: [render] for block, render in template.blocks.items()}
    source, _, _ = _Loader(folder).get_source(environment, name)
    for parent in meta.find_referenced_templates(environment.parse(source)):
        for block, renders in _blocks(folder, str(parent)).items():
            blocks.setdefault(block, []).extend(renders)
    return blocks


class Template:
    """One versioned template file with the blocks `system` and `user`, and others by name.

    Raises:
        PromptError: there is no such file, or it lacks a block.
    """

    def __init__(self, method: Method, shots: int, version: str, folder: Path = PROMPTS) -> None:
        self.name = f"{method}/{shot_name(shots)}.{version}"
        self.version = version
        try:
            self._template = _environment(folder).get_template(self.name + ".jinja")
            self._blocks = _blocks(folder, self.name + ".jinja")
        except jinja2.TemplateNotFound:
            known = ", ".join(versions(method, folder)) or "none"
            raise PromptError(
                f"there is no template prompts/{self.name}.jinja; versions of {method}: {known}"
            ) from None
        except jinja2.TemplateSyntaxError as error:
            raise PromptError(f"{error.filename}, line {error.lineno}: {error.message}") from error

    def block(self, name: str, variables: Mapping[str, Any]) -> str:
        """Render one block.

        Raises:
            PromptError: a variable of the template is missing.
        """
        if name not in self._blocks:
            raise PromptError(f"prompts/{self.name}.jinja has no block {name!r}")
        context = self._template.new_context(dict(variables))
        context.blocks = {block: list(renders) for block, renders in self._blocks.items()}
        try:
            return "".join(self._blocks[name][0](context)).strip("\n")
        except jinja2.UndefinedError as error:
            raise PromptError(
                f"prompts/{self.name}.jinja, block {name!r}: {error.message}"
            ) from error


def versions(method: Method, folder: Path = PROMPTS) -> list[str]:
    """Versions of a method's zero-shot template, oldest first."""
    found = {path.name.split(".")[1] for path in (folder / method).glob("zeroshot.*.jinja")}
    return sorted(found, key=lambda v: [int(n) for n in re.findall(r"\d+", v)])


def digests(folder: Path = PROMPTS) -> dict[str, str]:
    """SHA-256 of every template by its name, over its file and those that it extends."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.jinja"))
    return {
        name.removesuffix(".jinja"): hashlib.sha256(
            b"\0".join(source.encode() for source in _sources(folder, name))
        ).hexdigest()
        for name in names
    }


def _sources(folder: Path, name: str) -> Iterator[str]:
    environment = _environment(folder)
    source, _, _ = _Loader(folder).get_source(environment, name)
    yield source
    for parent in meta.find_referenced_templates(environment.parse(source)):
        yield from _sources(folder, str(parent))


class Slots:
    """Stands in for text of others while a template is rendered."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def hold(self, text: str) -> str:
        """A mark to put into the template in place of `text`."""
        self._texts.append(text)
        return f"{_OPEN}{len(self._texts) - 1}{_CLOSE}"

    def encode(self, rendered: str, tokenizer: Tokenizer) -> list[int]:
        """Token ids of a rendered text, the held texts in their places as plain text."""
        ids: list[int] = []
        for index, piece in enumerate(_MARK.split(rendered)):
            if index % 2:
                ids += tokenizer.encode_plain(self._texts[int(piece)])
            elif piece:
                ids += tokenizer.encode(piece)
        return ids

    def fill(self, rendered: str) -> str:
        """The rendered text with the held texts put in, for methods that send text."""
        return _MARK.sub(lambda match: self._texts[int(match[1])], rendered)


@dataclass(frozen=True, slots=True)
class VerdictPrompt:
    """What is asked about one answer, as token ids.

    The model sees head + answer + closing, then each of `tails` in turn; its choice between the two
    `token_ids` (true, false) is read at the end of every tail.
    """

    head: tuple[int, ...]
    answer: tuple[int, ...]
    closing: tuple[int, ...]
    tails: tuple[tuple[int, ...], ...]
    token_ids: tuple[int, int]

    @property
    def ids(self) -> list[int]:
        """The prompt up to the first tail."""
        return [*self.head, *self.answer, *self.closing]

    @property
    def length(self) -> int:
        """Tokens of prompt and tails."""
        return (
            len(self.head)
            + len(self.answer)
            + len(self.closing)
            + sum(len(tail) for tail in self.tails)
        )


@dataclass(frozen=True, slots=True)
class ClassPrompt:
    """The part of a verdict prompt that all answers to a question share."""

    head: tuple[int, ...]
    closing: tuple[int, ...]
    tails: tuple[tuple[int, ...], ...]
    token_ids: tuple[int, int]
    version: str

    def with_answer(self, answer: str, tokenizer: Tokenizer) -> VerdictPrompt:
        """Put one answer in; only the answer is tokenized."""
        ids = tuple(tokenizer.encode_plain(answer))
        return VerdictPrompt(self.head, ids, self.closing, self.tails, self.token_ids)


def choice_ids(tokenizer: Tokenizer, true: str, false: str) -> tuple[list[int], int, int]:
    """Where two words part: their common leading ids, then the first id of each that differs.

    Raises:
        PromptError: one word is the beginning of the other in this tokenizer.
    """
    a, b = tokenizer.encode(true), tokenizer.encode(false)
    common = 0
    while common < min(len(a), len(b)) and a[common] == b[common]:
        common += 1
    if common == min(len(a), len(b)):
        raise PromptError(f"{true!r} and {false!r} do not differ in this model's tokens")
    return a[:common], a[common], b[common]


def class_prompt(
    question: Question, examples: Sequence[GradedExample], template: Template, tokenizer: Tokenizer
) -> ClassPrompt:
    """Render and tokenize what is shared by all answers to a question.

    Args:
        examples: graded answers shown to the model, in this order.
    """
    slots = Slots()
    answer_mark = slots.hold("")
    variables = {
        "question": slots.hold(question.text),
        "reference": slots.hold(question.reference),
        "points": [_point(point, slots) for point in question.points],
        "examples": [_example(example, question.points, slots) for example in examples],
        "answer": answer_mark,
    }
    messages: list[Message] = [
        {"role": "system", "content": template.block("system", variables)},
        {"role": "user", "content": template.block("user", variables)},
    ]
    before, found, after = tokenizer.render_chat(messages).partition(answer_mark)
    if not found or answer_mark in after:
        raise PromptError(f"prompts/{template.name}.jinja must use {{{{ answer }}}} exactly once")
    lead, true, false = choice_ids(
        tokenizer, template.block("true", variables), template.block("false", variables)
    )
    tails = []
    for point in variables["points"]:
        text = template.block("tail", {**variables, "point": point})
        tails.append((*slots.encode(text, tokenizer), *lead))
    return ClassPrompt(
        head=tuple(slots.encode(before, tokenizer)),
        closing=tuple(slots.encode(after, tokenizer)),
        tails=tuple(tails),
        token_ids=(true, false),
        version=template.name,
    )


def chat_ids(
    template: Template, variables: Mapping[str, Any], slots: Slots, tokenizer: Tokenizer
) -> list[int]:
    """A template's system and user block as one conversation, in token ids."""
    messages: list[Message] = [
        {"role": "system", "content": template.block("system", variables)},
        {"role": "user", "content": template.block("user", variables)},
    ]
    return slots.encode(tokenizer.render_chat(messages), tokenizer)


def conversation_ids(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """A conversation in token ids; what its turns say is text, so no turn can end itself."""
    slots = Slots()
    held: list[Message] = [
        {"role": m["role"], "content": slots.hold(m["content"])} for m in messages
    ]
    return slots.encode(tokenizer.render_chat(held), tokenizer)


def _point(point: Point, slots: Slots) -> dict[str, Any]:
    return {"id": point.id, "mark": f"{point.mark:g}", "text": slots.hold(point.text)}


def _example(example: GradedExample, points: Sequence[Point], slots: Slots) -> dict[str, Any]:
    return {
        "answer": slots.hold(example.answer),
        "points": [
            {
                "id": p.id,
                "mark": f"{p.mark:g}",
                "verdict": example.verdicts[p.id],
                "reason": slots.hold(example.reasons.get(p.id, "")),
            }
            for p in points
        ],
    }
