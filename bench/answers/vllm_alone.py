"""The peer of the generator: vLLM's own engine in a process of its own, without Ray or HTTP.

The settings are those that `deployments.serve.generator` gives to a replica on CPUs: one process
for scheduler and model, one thread, the same bounds. The model is asked with token ids, so that not
even the chat template is in the measured time.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from bench.load.processes import with_descendants
from bench.load.streams import Answer, AnswersReport
from cluster.generation.generator import ChatMessage

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_NICENESS = 15
"""That of Ray's workers: other programs take as much time from this engine as from theirs."""
_START_TIMEOUT_S = 300.0
_RUN_TIMEOUT_S = 300.0
_END_TIMEOUT_S = 30.0

Prompt = tuple[ChatMessage, ...]


class PeerFailed(Exception):
    """vLLM did not start, or broke off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    model_folder: Path
    context_tokens_max: int
    sequences_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLoad:
    prompts: Sequence[Sequence[Prompt]]
    """Prompts of each client, which it gives one after another."""
    answer_tokens_max: int


class VllmAlone:
    """Starts the engine, and ends it with the block."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings

    def __enter__(self) -> Self:
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_run_engine, args=(theirs, self._settings))
        self._process.start()
        theirs.close()
        try:
            self._reply(_START_TIMEOUT_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        # The engine ends when nobody is there any more to ask it.
        self._connection.close()
        self._process.join(_END_TIMEOUT_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    @property
    def pids(self) -> tuple[int, ...]:
        return () if self._process.pid is None else with_descendants([self._process.pid])

    def run(self, load: PromptLoad) -> AnswersReport:
        self._connection.send(load)
        report = self._reply(_RUN_TIMEOUT_S)
        assert isinstance(report, AnswersReport)
        return report

    def _reply(self, timeout_s: float) -> object:
        try:
            if not self._connection.poll(timeout_s):
                raise PeerFailed(f"vLLM alone gave no answer within {timeout_s:g} s")
            return self._connection.recv()
        except EOFError:
            raise PeerFailed("vLLM alone has ended; see its messages above") from None


def _run_engine(connection: Connection, settings: EngineSettings) -> None:
    # Before torch is imported, which reads the number of threads once.
    os.environ.update(_ENVIRONMENT)
    os.nice(_NICENESS)
    asyncio.run(_serve(connection, settings))


async def _serve(connection: Connection, settings: EngineSettings) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(settings.model_folder, local_files_only=True)
    async with _engine(settings) as engine:
        # The first generation compiles and allocates for seconds.
        hello = (ChatMessage(role="user", content="Hello"),)
        await _answers(engine, tokenizer, PromptLoad(prompts=[[hello]], answer_tokens_max=2))
        connection.send("ready")
        while True:
            try:
                load: PromptLoad = await asyncio.to_thread(connection.recv)
            except EOFError:
                return
            connection.send(await _answers(engine, tokenizer, load))


@asynccontextmanager
async def _engine(settings: EngineSettings) -> AsyncIterator[Any]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(
        model=str(settings.model_folder),
        dtype="bfloat16",
        max_model_len=settings.context_tokens_max,
        max_num_seqs=settings.sequences_max,
        enforce_eager=True,
        disable_log_stats=True,
    )
    config = arguments.create_engine_config()
    # On CPUs vLLM would give the model a process of its own, which is slower.
    config.parallel_config.distributed_executor_backend = "uni"
    engine = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
    try:
        yield engine
    finally:
        engine.shutdown()


async def _answers(engine: Any, tokenizer: Any, load: PromptLoad) -> AnswersReport:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = SamplingParams(
        temperature=0.0,
        max_tokens=load.answer_tokens_max,
        output_kind=RequestOutputKind.DELTA,
    )

    async def client(prompts: Sequence[list[int]]) -> list[Answer]:
        return [await _answer(engine, prompt, sampling) for prompt in prompts]

    prompts = [[_token_ids(tokenizer, prompt) for prompt in one] for one in load.prompts]
    started_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(client(one)) for one in prompts]
    took_s = time.perf_counter() - started_s
    return AnswersReport(answers=tuple(a for c in clients for a in c.result()), took_s=took_s)


async def _answer(engine: Any, prompt: list[int], sampling: Any) -> Answer:
    started_s = time.perf_counter()
    first_s: float | None = None
    num_tokens = 0
    prompt_input = {"prompt_token_ids": prompt}
    async for output in engine.generate(prompt_input, sampling, request_id=uuid.uuid4().hex):
        num_tokens += len(output.outputs[0].token_ids)
        if first_s is None and num_tokens:
            first_s = time.perf_counter() - started_s
    assert first_s is not None, "an answer has a token at least"
    return Answer(
        first_token_s=first_s,
        took_s=time.perf_counter() - started_s,
        prompt_tokens=len(prompt),
        answer_tokens=num_tokens,
    )


def _token_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    messages = [{"role": message.role, "content": message.content} for message in prompt]
    text: str = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
