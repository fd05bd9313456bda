"""Text to token ids so that a student's text stays text.

A Hugging Face tokenizer matches its added tokens anywhere in its input: `<|im_end|>` typed by a
student becomes the control token that ends the student's turn. Here text of others goes through a
second tokenizer that has no added tokens at all, and what comes out is checked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from tokenizers import Tokenizer as Backend

from llmarking.domain import Message
from llmarking.errors import InputError


class HubTokenizer:
    """The tokenizer of a model folder, with a plain twin for untrusted text.

    Args:
        tokenizer: a transformers fast tokenizer, already loaded.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InputError(
                f"{type(tokenizer).__name__} has no tokenizer.json; convert it once with "
                "transformers' convert_slow_tokenizer and pass the folder with -m"
            )
        self._tokenizer = tokenizer
        description = json.loads(backend.to_str())
        # Some files ask for padding or for cutting at a length; nothing may be cut without saying
        # so.
        description |= {"truncation": None, "padding": None}
        self._backend: Backend = Backend.from_str(json.dumps(description))
        self._control = frozenset(
            int(token["id"]) for token in description["added_tokens"] if _is_control(token)
        )
        # The post-processor adds control tokens around a text; between two pieces they must not
        # appear.
        description |= {"added_tokens": [], "post_processor": None}
        self._plain: Backend = Backend.from_str(json.dumps(description))

    @classmethod
    def from_folder(cls, folder: Path | str, *, trust_code: bool = False) -> HubTokenizer:
        """Load the tokenizer of a model folder; imports transformers.

        Args:
            trust_code: whether code that lies in the folder may run, as some tokenizers need.

        Raises:
            InputError: the folder's tokenizer is code, which is not trusted.
        """
        from transformers import AutoTokenizer

        try:
            return cls(
                AutoTokenizer.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=trust_code
                )
            )
        except ValueError as error:
            if trust_code or "trust_remote_code" not in str(error):
                raise
            raise InputError(
                f"the tokenizer in {Path(folder).name} is code of the model's publisher; read it, "
                "then start the server with --trust-remote-code"
            ) from error

    @property
    def control_ids(self) -> frozenset[int]:
        return self._control

    def encode(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def encode_plain(self, text: str) -> list[int]:
        ids = list(self._plain.encode(_encodable(text), add_special_tokens=False).ids)
        if self._control.isdisjoint(ids):
            return ids
        # Some vocabularies hold their control tokens as ordinary words too: cut each of them apart.
        safe: list[int] = []
        for token_id in ids:
            if token_id not in self._control:
                safe.append(token_id)
                continue
            for character in self._backend.id_to_token(token_id) or "":
                pieces = self._plain.encode(character, add_special_tokens=False).ids
                safe += [i for i in pieces if i not in self._control]
        return safe

    def encode_prompt(self, text: str) -> list[int]:
        return list(self._backend.encode(_encodable(text), add_special_tokens=True).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._backend.decode(list(ids), skip_special_tokens=False))

    def render_chat(self, messages: Sequence[Message]) -> str:
        """Apply the model's chat template; where it knows no system role, the first user turn takes
        it.

        Raises:
            InputError: the template refuses the conversation, for instance two user turns in a row.
        """
        turns: list[dict[str, Any]] = [dict(message) for message in messages]
        if not self._takes_system and turns and turns[0]["role"] == "system":
            system = turns.pop(0)["content"]
            if turns and turns[0]["role"] == "user":
                turns[0]["content"] = f"{system}\n\n{turns[0]['content']}"
            else:
                turns.insert(0, {"role": "user", "content": system})
        return self._apply(turns)

    @cached_property
    def _takes_system(self) -> bool:
        """Whether a system turn survives the template: some refuse it, some drop it silently."""
        probe = "system-role-probe"
        try:
            text = self._apply(
                [{"role": "system", "content": probe}, {"role": "user", "content": "hello"}]
            )
        except InputError:
            return False
        return probe in text

    def _apply(self, turns: list[dict[str, Any]]) -> str:
        if not getattr(self._tokenizer, "chat_template", None):
            return "\n\n".join(str(turn["content"]) for turn in turns) + "\n\n"
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turns,
                    tokenize=False,
                    add_generation_prompt=True,
                    # Models that think first would otherwise do so before a verdict.
                    enable_thinking=False,
                )
            )
        except jinja2.TemplateError as error:
            raise InputError(
                f"the model's chat template refuses this conversation: {error}", field="messages"
            ) from error


def _encodable(text: str) -> str:
    """The text with a question mark for every lone surrogate, which is no character."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _is_control(token: dict[str, Any]) -> bool:
    """Whether an added token means something to the model.

    Blanks and single letters are added to vocabularies too (Gemma's line breaks, DeepSeek's
    accented letters): they are text, and taking them out would change what a student wrote.
    """
    content = token["content"]
    return bool(token["special"]) or (
        len(content) > 1 and not content.isspace() and set(content) != {"▁"}
    )
