"""vLLM's own OpenAI-compatible chat completions, on the engine that grades."""

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
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.v1.engine.exceptions import EngineDeadError

from llmarking.engines.vllm_versions import REFUSALS, ErrorResponse
from llmarking.errors import EngineDead, InputError
from llmarking.protocol.bodies import ChatRequest


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

    def check(self, body: ChatRequest) -> ChatCompletionRequest:
        """A chat completion request as vLLM takes it.

        Raises:
            InputError: vLLM finds a fault, for instance two fields that don't go together.
        """
        try:
            return ChatCompletionRequest(**{"n": 1, **body.model_dump(exclude_none=True)})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{where}: {first['msg']}", field=where or None) from None
        except REFUSALS as error:
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
        except REFUSALS as error:
            raise _refusal(error) from None
        except EngineDeadError as error:
            raise EngineDead("vLLM's engine process has died; restart the server") from error
        if isinstance(result, ErrorResponse):
            return int(result.error.code), result.model_dump()
        if isinstance(result, ChatCompletionResponse):
            return 200, result.model_dump(exclude_none=True)
        return 200, result


def _refusal(error: Exception) -> InputError:
    """vLLM's own words about what is wrong, without the value, which may be a student's text."""
    parameter = getattr(error, "parameter", None)
    return InputError(str(error.args[0]) if error.args else "vLLM refuses it", field=parameter)
