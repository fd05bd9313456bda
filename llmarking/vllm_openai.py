"""vLLM's own OpenAI-compatible chat completions, on the engine that grades.

Only what a chat needs gets through: schemas, grammars, templates, media and tools that a caller
sends are the source of most of vLLM's advisories, so a request that carries any is refused before
vLLM sees it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from pydantic import ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionRequest,
    ChatCompletionResponse,
)
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.models.protocol import BaseModelPath
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMClientError
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.v1.engine.exceptions import EngineDeadError

from llmarking.errors import EngineDead, InputError

ALLOWED = frozenset(
    {
        "model", "messages", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens",
        "temperature", "top_p", "top_k", "min_p", "stop", "seed", "presence_penalty",
        "frequency_penalty", "repetition_penalty", "logprobs", "top_logprobs", "user",
    }
)  # fmt: skip
ROLES = ("system", "user", "assistant")
MAX_SAMPLES = 16


class OpenAIServing:
    """Chat completions and the model list, as plain objects for the server to send."""

    def __init__(self, engine: Any, name: str, folder: str) -> None:
        self._models = OpenAIServingModels(engine, [BaseModelPath(name=name, model_path=folder)])
        self._chat = OpenAIServingChat(
            engine,
            self._models,
            "assistant",
            online_renderer=OnlineRenderer(
                engine.model_config,
                engine.renderer,
                request_logger=None,
                chat_template=None,
                chat_template_content_format="auto",
            ),
            request_logger=None,
            chat_template=None,
            chat_template_content_format="auto",
        )

    async def models(self) -> dict[str, Any]:
        """The `/v1/models` object; the folder the weights lie in is not shown."""
        listing: dict[str, Any] = (await self._models.show_available_models()).model_dump()
        for card in listing["data"]:
            card["root"] = card["id"]
        return listing

    def check(self, body: dict[str, Any]) -> ChatCompletionRequest:
        """A chat completion request as vLLM takes it.

        Raises:
            InputError: it is malformed or has a field that is not allowed.
        """
        unknown = sorted(set(body) - ALLOWED)
        if unknown:
            raise InputError(f"{unknown[0]} can't be set on this server", field=unknown[0])
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise InputError("messages must be a list with at least one message", field="messages")
        for number, message in enumerate(messages):
            _check_message(message, f"messages.{number}")
        n = body.get("n")
        if n is not None and (not isinstance(n, int) or not 1 <= n <= MAX_SAMPLES):
            raise InputError(f"n must be between 1 and {MAX_SAMPLES}", field="n")
        try:
            return ChatCompletionRequest(**{**body, "n": n or 1})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{where}: {first['msg']}", field=where or None) from None
        except VLLMClientError as error:
            raise _refusal(error) from None

    async def chat(
        self, request: ChatCompletionRequest
    ) -> tuple[int, dict[str, Any] | AsyncIterator[str]]:
        """Answer a request: a status and the body, or the events of a stream.

        Raises:
            InputError: vLLM refuses it, for instance because it is too long.
            EngineDead: there is no engine any more.
        """
        try:
            result = await self._chat.create_chat_completion(request, None)
        except VLLMClientError as error:
            raise _refusal(error) from None
        except EngineDeadError as error:
            raise EngineDead("vLLM's engine process has died; restart the server") from error
        if isinstance(result, ErrorResponse):
            return int(result.error.code), result.model_dump()
        if isinstance(result, ChatCompletionResponse):
            return 200, result.model_dump(exclude_none=True)
        return 200, result


def _check_message(message: Any, field: str) -> None:
    if not isinstance(message, dict) or not isinstance(message.get("content"), str):
        raise InputError(f"{field} needs a content that is plain text", field=field)
    if message.get("role") not in ROLES:
        raise InputError(f"{field}: a role is one of {', '.join(ROLES)}", field=f"{field}.role")
    for name in message.keys() - {"role", "content", "name"}:
        raise InputError(f"{field}.{name} can't be set on this server", field=f"{field}.{name}")


def _refusal(error: VLLMClientError) -> InputError:
    """vLLM's own words about what is wrong, without the value, which may be a student's text."""
    parameter = getattr(error, "parameter", None)
    return InputError(str(error.args[0]) if error.args else "vLLM refuses it", field=parameter)
