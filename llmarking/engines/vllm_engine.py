"""The engine that runs models: vLLM's AsyncLLM. Only this and its `vllm_*` neighbours import vllm.

vLLM's environment is read when it is first imported, so it is imported when the engine starts and
not before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from dataclasses import replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import psutil

from llmarking.domain import Completion, Generation, Reading, Sampling
from llmarking.engines.engine import EngineInfo, in_background
from llmarking.engines.pulse import Pulse
from llmarking.engines.tokenizing import HubTokenizer
from llmarking.engines.vllm_adapters import VLLMAdapters
from llmarking.engines.vllm_arguments import engine_arguments, lora_arguments, prepare_environment
from llmarking.engines.vllm_reading import Way, choose_way, read_chain, way_asked_for
from llmarking.errors import EngineDead, EngineError, InputError
from llmarking.models.adapters import Adapter

log = logging.getLogger("llmarking.engine")


def shut_down(engine: Any) -> None:
    """End vLLM's own engine, once."""
    # Killed before it has cleaned up, vLLM's process leaves shared memory behind.
    engine.shutdown(timeout=20)
    # Python calls it again at its own end, when vLLM's modules are gone, and complains.
    engine.shutdown = lambda *_: None


class VLLMEngine:
    """One model behind vLLM's asynchronous engine.

    Args:
        folder: weights and tokenizer.
        name: what the model is called in answers and on `/v1/models`.
        extra: vLLM engine flags passed on by the operator.
        bases: what else the model is called, by those who train adapters for it.
        adapters: LoRA adapters to start with.
        lora: whether further ones may be added later.
        merged: an adapter whose weights are in the folder's already.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        context: int,
        revision: str = "",
        extra: Sequence[str] = (),
        gpu: bool = False,
        tensor_parallel: int = 1,
        bases: Sequence[str] = (),
        adapters: Sequence[Adapter] = (),
        lora: bool = False,
        merged: Adapter | None = None,
    ) -> None:
        self._folder = folder
        self._name = name
        self._context = context
        self._revision = revision
        self._extra = tuple(extra)
        self._gpu = gpu
        self._tensor_parallel = tensor_parallel
        self._first_adapters = tuple(adapters)
        self._lora = lora
        self._adapters = VLLMAdapters((*bases, name), folder, merged)
        self._engine: Any = None
        self._loading: asyncio.Future[Any] | None = None
        self._openai: Any = None
        self._tokenizer: HubTokenizer | None = None
        self._info = EngineInfo(model=name, context=context, revision=revision)
        self._pulse = Pulse()
        self._read: Way = read_chain

    @property
    def info(self) -> EngineInfo:
        return replace(self._info, adapters=self._adapters.known)

    @property
    def tokenizer(self) -> HubTokenizer:
        if self._tokenizer is None:
            raise EngineError("the engine has not been started")
        return self._tokenizer

    async def start(self) -> None:
        # A minute of solid work: in a thread, so that the health checks answer meanwhile.
        self._loading = asyncio.ensure_future(asyncio.to_thread(self._load))
        self._engine = await asyncio.shield(self._loading)
        self._read = await choose_way(self._engine)
        for adapter in self._first_adapters:
            await self.add_adapter(adapter)
        # Ready means that a token has come out. This also starts the task that hears of a death.
        async for _ in self.generate(
            self.tokenizer.encode("Hello"), Sampling(max_tokens=1), request_id="warm-up"
        ):
            pass

    def _load(self) -> Any:
        # Ctrl-C reaches every process of a terminal. Those that vLLM starts inherit what this
        # thread blocks, and go on until we have drained. Starting the tracker would unblock it.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        prepare_environment(gpu=self._gpu)
        way_asked_for()
        import torch
        import transformers
        import vllm
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        lora: list[str] = []
        if self._lora or self._first_adapters:
            lora = lora_arguments(
                [a.rank for a in self._first_adapters], more=self._lora, gpu=self._gpu
            )
        arguments = engine_arguments(
            self._folder,
            self._name,
            [*lora, *self._extra],
            gpu=self._gpu,
            context=self._context,
            tensor_parallel=self._tensor_parallel,
        )
        self._tokenizer = HubTokenizer.from_folder(
            self._folder, trust_code=arguments.trust_remote_code
        )
        # vLLM has batch sizes for what it calls a server on each kind of GPU; without this it takes
        # its smallest.
        engine = AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.OPENAI_API_SERVER)
        config = engine.vllm_config
        self._info = EngineInfo(
            model=self._name,
            context=int(config.model_config.max_model_len),
            revision=self._revision,
            dtype=str(config.model_config.dtype).removeprefix("torch."),
            max_lora_rank=self._adapters.attach(engine, gpu=self._gpu),
            versions={
                "vllm": vllm.__version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        )
        return engine

    async def stop(self) -> None:
        if self._loading is None:
            return
        if not self._loading.done():
            # vLLM waits for the processes it has started; with them gone it gives up.
            for child in psutil.Process().children(recursive=True):
                child.terminate()
        with contextlib.suppress(Exception):
            shut_down(await self._loading)
        self._engine = self._openai = None

    async def check_health(self) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        if self._engine is None:
            raise EngineDead("the engine is not running")
        try:
            await self._engine.check_health()
        except EngineDeadError as error:
            raise EngineDead("vLLM's engine process has died; restart the server") from error

    async def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        request_id: str,
        adapter: str | None = None,
        schema: dict[str, Any] | None = None,
        choices: Sequence[str] | None = None,
    ) -> AsyncIterator[Generation]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        structured = None
        if schema is not None:
            structured = StructuredOutputsParams(json=schema)
        elif choices is not None:
            structured = StructuredOutputsParams(choice=list(choices))
        params = SamplingParams(
            n=sampling.n,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            stop=list(sampling.stop),
            seed=sampling.seed,
            structured_outputs=structured,
            output_kind=RequestOutputKind.CUMULATIVE,
        )
        # With several samples vLLM tells of each by itself.
        texts: dict[int, Completion] = {}
        tokens: dict[int, int] = {}
        with self._adapters.using(self.info.adapter(adapter)) as lora:
            running = self._run(prompt, params, request_id, lora)
            # Closed here and not by the garbage collector: the adapter must outlive the request.
            async with contextlib.aclosing(running) as outputs:
                async for output in outputs:
                    for sample in output.outputs:
                        texts[sample.index] = Completion(sample.text, sample.finish_reason)
                        tokens[sample.index] = len(sample.token_ids)
                    if len(texts) < sampling.n:
                        continue
                    yield Generation(
                        completions=tuple(texts[i] for i in sorted(texts)),
                        prompt_tokens=len(prompt),
                        cached_tokens=output.num_cached_tokens or 0,
                        completion_tokens=sum(tokens.values()),
                    )

    async def read(
        self,
        prompt: Sequence[int],
        tails: Sequence[Sequence[int]],
        token_ids: Sequence[int],
        *,
        request_id: str,
        adapter: str | None = None,
    ) -> Reading:
        used = self.info.adapter(adapter)
        # One adapter for the whole of it, whatever takes its name in between.
        with self._adapters.using(used) as lora:

            def run(prompt: Any, params: Any, name: str) -> AsyncIterator[Any]:
                return self._run(prompt, params, name, lora)

            reading = await self._read(run, [*prompt, *tails[0]], tails[1:], token_ids, request_id)
        return replace(reading, adapter=used.version if used else None)

    async def add_adapter(self, adapter: Adapter) -> None:
        if self._engine is None:
            raise EngineDead("the engine is not running")
        await self._adapters.add(adapter)

    def remove_adapter(self, adapter: Adapter) -> Awaitable[None]:
        return self._adapters.remove(adapter)

    async def _run(
        self, prompt: Sequence[int] | AsyncGenerator[Any], params: Any, request_id: str, lora: Any
    ) -> AsyncGenerator[Any]:
        from vllm.inputs import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        from llmarking.engines.vllm_versions import REFUSALS

        if self._engine is None:
            raise EngineDead("the engine is not running")
        self._pulse.begin(request_id)
        # Made for this request alone: vLLM need not copy them to their depth.
        params.skip_clone = True
        stream = self._engine.generate(
            # As its renderer would leave it; a prompt that vLLM has to look at takes a thread.
            tokens_input(list(prompt)) if isinstance(prompt, Sequence) else prompt,
            params,
            request_id,
            lora_request=lora,
            priority=1 if in_background.get() else 0,
        )
        try:
            async for output in stream:
                self._pulse.beat()
                yield output
        except EngineDeadError as error:
            raise EngineDead("vLLM's engine process has died; restart the server") from error
        except EngineGenerateError as error:
            raise EngineError("vLLM could not finish the request") from error
        except REFUSALS as error:
            # Its text may end in the value that was refused; the message alone does not.
            raise InputError(f"vLLM refuses the request: {error.args[0]}") from None
        finally:
            # Closing vLLM's generator is what aborts the request in the engine.
            with contextlib.suppress(EngineDeadError):
                await stream.aclose()
            self._pulse.end(request_id)

    def metrics(self) -> bytes:
        from prometheus_client import REGISTRY, generate_latest

        return generate_latest(REGISTRY)

    def running(self) -> int:
        return self._pulse.running

    def silent_seconds(self) -> float:
        return self._pulse.silent_seconds

    def openai_serving(self) -> Any:
        """vLLM's own OpenAI-compatible chat and model handlers on this engine."""
        from llmarking.engines.vllm_openai import OpenAIServing

        if self._openai is None:
            self._openai = OpenAIServing(self._engine, self._name, str(self._folder))
        return self._openai
