"""vLLM's own OpenAI-compatible chat completions, on the engine that grades.

Only what a chat needs gets through: schemas, grammars, templates, media and tools that a caller sends are the
source of most of vLLM's advisories, so a request that carries any is refused before vLLM sees it.
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
from vllm.renderers.online_renderer import OnlineRenderer

from llmarking.errors import InputError

ALLOWED = frozenset(
    {
        "model", "messages", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens",
        "temperature", "top_p", "top_k", "min_p", "stop", "seed", "presence_penalty",
        "frequency_penalty", "repetition_penalty", "logprobs", "top_logprobs", "user",
    }
)  # fmt: skip
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

    async def chat(self, body: dict[str, Any]) -> tuple[int, dict[str, Any] | AsyncIterator[str]]:
        """Answer a chat completion request: a status and the body, or the events of a stream.

        Raises:
            InputError: the request is malformed or has a field that is not allowed.
        """
        unknown = sorted(set(body) - ALLOWED)
        if unknown:
            raise InputError(f"{unknown[0]} can't be set on this server", field=unknown[0])
        for message in body.get("messages") or ():
            if not isinstance(message, dict) or not isinstance(message.get("content"), str):
                raise InputError("every message needs a content that is plain text", field="messages")
        n = body.get("n") or 1
        if not isinstance(n, int) or not 1 <= n <= MAX_SAMPLES:
            raise InputError(f"n must be between 1 and {MAX_SAMPLES}", field="n")
        try:
            request = ChatCompletionRequest(**body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{where}: {first['msg']}", field=where or None) from None
        except ValueError as error:
            raise InputError(str(error)) from None
        result = await self._chat.create_chat_completion(request, None)
        if isinstance(result, ErrorResponse):
            return int(result.error.code), result.model_dump()
        if isinstance(result, ChatCompletionResponse):
            return 200, result.model_dump(exclude_none=True)
        return 200, result
