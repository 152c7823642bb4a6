"""What a replica makes of vLLM's outputs. vLLM itself answers in `tests/integration/models`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from actors.models.replica_outcomes import RoutingHint
from cluster.errors import DeadlineExceeded, InvalidArgument, RaygionError, Unavailable
from cluster.generation.generator import ChatMessage, GenerationChunk, GenerationRequest

if TYPE_CHECKING:
    from vllm import SamplingParams

MODEL_LEN = 16
PROMPT = [1, 2, 3]
REQUEST = GenerationRequest(
    messages=(ChatMessage(role="user", content="Hi"),), max_tokens=8, request_id="r"
)


def piece(text: str, tokens: int = 1, reason: str | None = None) -> Any:
    return SimpleNamespace(text=text, token_ids=[7] * tokens, finish_reason=reason)


class Client:
    """Stands for vLLM's client of its engine."""

    model_config = SimpleNamespace(max_model_len=MODEL_LEN)

    def __init__(self, pieces: Sequence[Any], error: Callable[[], Exception] | None = None) -> None:
        self._pieces = pieces
        self._error = error
        self.asked: list[tuple[dict[str, Any], SamplingParams, str]] = []
        self.ended = ""

    async def generate(
        self, prompt: dict[str, Any], sampling: SamplingParams, request_id: str
    ) -> AsyncGenerator[Any, None]:
        self.asked.append((prompt, sampling, request_id))
        self.ended = "aborted"
        for each in self._pieces:
            yield SimpleNamespace(outputs=[each])
        if self._error is not None:
            raise self._error()
        self.ended = "finished"


async def answer(
    client: Client, prompt: list[int] = PROMPT, timeout_s: float = 60.0
) -> list[GenerationChunk]:
    from deployments.serve.generator import GeneratorServer, TokenEngine

    engine: Any = SimpleNamespace(_engine_client=client, _sampling_defaults={})
    engine.outputs = partial(TokenEngine.outputs, engine)
    tokenizer = SimpleNamespace(encode=lambda messages, begun: prompt)
    # A real one would start vLLM, and end it when it is collected.
    server: Any = SimpleNamespace(engine=engine, _model_id="m", _tokenizer=tokenizer)
    hint = RoutingHint(attempt_id="attempt")
    chunks = GeneratorServer.generate(server, REQUEST, timeout_s=timeout_s, routing=hint)
    return [chunk async for chunk in chunks]


async def test_each_output_is_a_chunk_and_the_last_one_ends_the_answer() -> None:
    client = Client([piece("Tea"), piece("", 2), piece(" grows", 1), piece(".", 1, "stop")])
    assert await answer(client) == [
        GenerationChunk(text="Tea", completion_tokens=1),
        GenerationChunk(text=" grows", completion_tokens=4),
        GenerationChunk(text=".", finish_reason="stop", prompt_tokens=3, completion_tokens=5),
    ]
    ((asked, _, request_id),) = client.asked
    assert (asked, request_id) == ({"prompt_token_ids": PROMPT}, "attempt")
    assert client.ended == "finished"


@pytest.mark.parametrize(("prompt_tokens", "left"), [(3, 8), (8, 8), (9, 7), (15, 1)])
async def test_an_answer_ends_where_the_models_context_does(prompt_tokens: int, left: int) -> None:
    client = Client([piece("a", 1, "length")])
    await answer(client, [1] * prompt_tokens)
    assert client.asked[0][1].max_tokens == left


def refused_by_vllm() -> Exception:
    from vllm.exceptions import VLLMValidationError

    return VLLMValidationError("too hot")


def dead_engine() -> Exception:
    from vllm.v1.engine.exceptions import EngineDeadError

    return EngineDeadError()


@pytest.mark.parametrize(
    ("client", "prompt", "error", "field"),
    [
        (Client([]), [1] * MODEL_LEN, InvalidArgument, "messages"),
        (Client([], refused_by_vllm), PROMPT, InvalidArgument, "messages"),
        (Client([piece("a")], dead_engine), PROMPT, Unavailable, None),
        (Client([piece("a")]), PROMPT, Unavailable, None),
        (Client([piece("a"), piece("", 0, "abort")]), PROMPT, Unavailable, None),
        (Client([piece("a"), piece("", 0, "error")]), PROMPT, Unavailable, None),
    ],
)
async def test_what_goes_wrong_is_typed(
    client: Client, prompt: list[int], error: type[RaygionError], field: str | None
) -> None:
    with pytest.raises(error) as caught:
        await answer(client, prompt)
    assert getattr(caught.value, "field", None) == field


async def test_an_answer_whose_time_is_over_is_aborted() -> None:
    client = Client([piece("a"), piece("b", 1, "stop")])
    with pytest.raises(DeadlineExceeded):
        await answer(client, timeout_s=0.0)
    assert client.ended == "aborted"
