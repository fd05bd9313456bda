"""The one HTTP client of an LLMarking server: `Client`, and `AsyncClient` for asyncio.

The two only move bytes. What can be asked and how answers are read is in `calls/`, and when a
request is tried again and what a failure means, in `calls/attempts.py`.

    with Client() as client:
        client.wait_ready()
        grade = client.grade(question, "It keeps values under keys.", explain=True)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import aclosing
from typing import Self, TypeVar, Unpack

import httpx

from llmarking.calls import call as calls
from llmarking.calls.attempts import DEFAULT_URL, Attempts, Deadline, Retry, Site, Unreadable
from llmarking.calls.call import (
    AnyQuestion,
    Call,
    GenerateOptions,
    GradeEvent,
    GradeOptions,
    PointReason,
)
from llmarking.calls.courses import AsyncCourseMethods, CourseMethods
from llmarking.calls.jobs import AsyncJobMethods, JobMethods
from llmarking.calls.review import AsyncReviewMethods, ReviewMethods
from llmarking.domain import Message
from llmarking.errors import ServerUnreachable
from llmarking.protocol.bodies import GenerateResponse, GradeResponse, ModelCard

__all__ = [
    "DEFAULT_URL",
    "AsyncClient",
    "Client",
    "GenerateOptions",
    "GradeEvent",
    "GradeOptions",
    "PointReason",
    "Retry",
]

T = TypeVar("T")


class Client(JobMethods, CourseMethods, ReviewMethods):
    """Blocking client; safe to share between threads.

    Args:
        url: where the server is; else `LLMARKING_URL`, else this machine's port 8000.
        api_key: else `LLMARKING_API_KEY`.
        timeout: seconds the server may be silent while it works; short questions get less.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 600.0,
        retry: Retry | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._site = Site.of(url, api_key, timeout, retry)
        self._http = httpx.Client(**self._site.options())
        self._sleep = sleep

    @property
    def url(self) -> str:
        """The address this client talks to."""
        return self._site.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection; what the server is doing for this client is aborted."""
        self._http.close()

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        messages: Sequence[Message] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> GenerateResponse:
        """Complete a prompt, a batch of them, or a conversation."""
        return self._one(calls.generate(prompt, messages, options))

    def stream_generate(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generator[str, None, None]:
        """Yield the text so far each time it grows; closing the generator stops the server."""
        return self._run(calls.stream_generate(prompt, messages, options))

    def chat(self, messages: Sequence[Message], **options: Unpack[GenerateOptions]) -> str:
        """Return what the assistant says next."""
        return self._one(calls.generate(None, messages, options)).text[0]

    def grade(
        self, question: AnyQuestion, answer: str, **options: Unpack[GradeOptions]
    ) -> GradeResponse:
        """Mark one answer."""
        return self._one(calls.grade(question, answer, options))

    def stream_grade(
        self, question: AnyQuestion, answer: str, **options: Unpack[GradeOptions]
    ) -> Generator[GradeEvent, None, None]:
        """Mark one answer, telling about each point once it is decided; the grade comes last."""
        return self._run(calls.stream_grade(question, answer, options))

    def models(self) -> list[ModelCard]:
        """What the server runs."""
        return self._one(calls.MODELS)

    def metrics(self) -> str:
        """The server's metrics in Prometheus' text format."""
        return self._one(calls.METRICS)

    def ready(self) -> bool:
        """Whether the server answers and can work."""
        return self._unready() is None

    def wait_ready(self, timeout: float = 600.0) -> None:
        """Return as soon as the server can work.

        Raises:
            ServerUnreachable: it still could not after `timeout` seconds, and why.
        """
        deadline = Deadline(timeout)
        while (why := self._unready()) is not None:
            self._sleep(deadline.next_pause(why))

    def _unready(self) -> ServerUnreachable | None:
        try:
            self._one(calls.READY)
        except ServerUnreachable as error:
            return error
        return None

    def _one(self, call: Call[T]) -> T:
        (value,) = self._run(call)
        return value

    def _run(self, call: Call[T]) -> Generator[T, None, None]:
        attempts = Attempts(self._site, stream=call.stream or call.once, patient=call.patient)
        while True:
            began = False
            try:
                with self._http.stream(**call.request(self._site.timeout)) as response:
                    if response.is_success:
                        began, decoder = True, call.decoder()
                        for data in response.iter_bytes():
                            yield from decoder.feed(data)
                        yield from decoder.finish()
                        return
                    response.read()
                    pause = attempts.refused(response)
            except httpx.RequestError as error:
                pause = attempts.failed(error, began=began)
            except Unreadable as error:
                attempts.unreadable(error)
            self._sleep(pause)


class AsyncClient(AsyncJobMethods, AsyncCourseMethods, AsyncReviewMethods):
    """`Client` for asyncio: the same methods and arguments.

    Use `contextlib.aclosing` around a stream that may be left before its end: it stops the server.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 600.0,
        retry: Retry | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._site = Site.of(url, api_key, timeout, retry)
        self._http = httpx.AsyncClient(**self._site.options())
        self._sleep = sleep

    @property
    def url(self) -> str:
        """The address this client talks to."""
        return self._site.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; what the server is doing for this client is aborted."""
        await self._http.aclose()

    async def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        messages: Sequence[Message] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> GenerateResponse:
        """See `Client.generate`."""
        return await self._one(calls.generate(prompt, messages, options))

    def stream_generate(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> AsyncGenerator[str, None]:
        """See `Client.stream_generate`."""
        return self._run(calls.stream_generate(prompt, messages, options))

    async def chat(self, messages: Sequence[Message], **options: Unpack[GenerateOptions]) -> str:
        """See `Client.chat`."""
        return (await self._one(calls.generate(None, messages, options))).text[0]

    async def grade(
        self, question: AnyQuestion, answer: str, **options: Unpack[GradeOptions]
    ) -> GradeResponse:
        """See `Client.grade`."""
        return await self._one(calls.grade(question, answer, options))

    def stream_grade(
        self, question: AnyQuestion, answer: str, **options: Unpack[GradeOptions]
    ) -> AsyncGenerator[GradeEvent, None]:
        """See `Client.stream_grade`."""
        return self._run(calls.stream_grade(question, answer, options))

    async def models(self) -> list[ModelCard]:
        """See `Client.models`."""
        return await self._one(calls.MODELS)

    async def metrics(self) -> str:
        """See `Client.metrics`."""
        return await self._one(calls.METRICS)

    async def ready(self) -> bool:
        """See `Client.ready`."""
        return await self._unready() is None

    async def wait_ready(self, timeout: float = 600.0) -> None:  # noqa: ASYNC109
        """See `Client.wait_ready`."""
        deadline = Deadline(timeout)
        while (why := await self._unready()) is not None:
            await self._sleep(deadline.next_pause(why))

    async def _unready(self) -> ServerUnreachable | None:
        try:
            await self._one(calls.READY)
        except ServerUnreachable as error:
            return error
        return None

    async def _one(self, call: Call[T]) -> T:
        async with aclosing(self._run(call)) as values:
            (value,) = [value async for value in values]
        return value

    async def _run(self, call: Call[T]) -> AsyncGenerator[T, None]:
        attempts = Attempts(self._site, stream=call.stream or call.once, patient=call.patient)
        while True:
            began = False
            try:
                async with self._http.stream(**call.request(self._site.timeout)) as response:
                    if response.is_success:
                        began, decoder = True, call.decoder()
                        async for data in response.aiter_bytes():
                            for value in decoder.feed(data):
                                yield value
                        for value in decoder.finish():
                            yield value
                        return
                    await response.aread()
                    pause = attempts.refused(response)
            except httpx.RequestError as error:
                pause = attempts.failed(error, began=began)
            except Unreadable as error:
                attempts.unreadable(error)
            await self._sleep(pause)
