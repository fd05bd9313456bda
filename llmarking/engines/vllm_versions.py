"""Names that differ between the vLLM releases we run on, 0.25 and 0.32, in one place."""

from __future__ import annotations

from vllm import exceptions

try:
    from vllm.entrypoints.serve.engine.protocol import ErrorResponse
except ImportError:
    from vllm.entrypoints.openai.engine.protocol import (  # type: ignore[import-not-found]
        ErrorResponse,
    )

# What vLLM raises when a request is at fault. 0.25 has no common base and uses ValueError as well.
REFUSALS: tuple[type[Exception], ...] = (
    (exceptions.VLLMClientError,)
    if hasattr(exceptions, "VLLMClientError")
    else (exceptions.VLLMNotFoundError, ValueError)
)

__all__ = ["REFUSALS", "ErrorResponse"]
