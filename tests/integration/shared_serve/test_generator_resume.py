"""A replica that dies in mid-answer: another one goes on where it broke off."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.models.replica_outcomes import RoutingHint
from actors.models.serve_generator import GENERATOR_DEPLOYMENT, ServeGenerator
from cluster.clock import Deadline
from cluster.errors import Unavailable
from cluster.generation.generator import ChatMessage, GenerationChunk, GenerationRequest
from deployments.serve.weighted_router import WEIGHTED_ROUTER

pytestmark = pytest.mark.integration

APP = "resume"
WORDS = ["one ", "two ", "three ", "four ", "five "]
PROMPT_TOKENS = 7


@pytest.fixture(scope="module")
def folder(serve_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two replicas of a model that counts to five, a token a word; whoever finds a file named
    `dies` takes it away, says two words and dies.
    """
    folder = tmp_path_factory.mktemp("told")
    _deploy(folder)
    return folder


def _deploy(folder: Path) -> None:
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    class Counting:
        """Defined here, so that it travels by value to workers that cannot import the tests."""

        async def generate(
            self, request: GenerationRequest, *, timeout_s: float, routing: RoutingHint
        ) -> AsyncIterator[GenerationChunk]:
            (folder / "asked").write_text(f"{request.begun}|{request.max_tokens}")
            begun = len(request.begun.split())
            dying = folder / "dies"
            dies = dying.exists()
            if dies:
                dying.unlink()
            for number, word in enumerate(WORDS[begun:]):
                if dies and number == 2:
                    # What was said before must be out.
                    await asyncio.sleep(0.2)
                    os._exit(1)
                yield GenerationChunk(text=word, completion_tokens=number + 1)
            yield GenerationChunk(
                text="",
                finish_reason="stop",
                prompt_tokens=PROMPT_TOKENS + begun,
                completion_tokens=len(WORDS) - begun,
            )

    deployment = serve.deployment(
        Counting,
        name=GENERATOR_DEPLOYMENT,
        num_replicas=2,
        ray_actor_options={"num_cpus": 0},
        request_router_config=RequestRouterConfig(request_router_class=WEIGHTED_ROUTER),
    )

    class Ingress:
        """Each application must have one."""

        def __init__(self, counting: object) -> None:
            pass

    ingress = serve.deployment(Ingress, ray_actor_options={"num_cpus": 0})
    serve.run(ingress.bind(deployment.bind()), name=APP, route_prefix=None)


async def _ask(max_tokens: int) -> list[GenerationChunk]:
    request = GenerationRequest(
        messages=(ChatMessage(role="user", content="count"),),
        max_tokens=max_tokens,
        temperature=0.0,
        request_id="test",
    )
    return [chunk async for chunk in ServeGenerator(APP).stream(request, Deadline.after(30))]


async def test_another_replica_goes_on_from_the_last_piece(folder: Path) -> None:
    (folder / "dies").touch()
    chunks = await _ask(max_tokens=20)
    assert not (folder / "dies").exists()
    assert "".join(chunk.text for chunk in chunks) == "".join(WORDS)
    assert (folder / "asked").read_text() == "one two |18"
    last = chunks[-1]
    assert (last.finish_reason, last.prompt_tokens, last.completion_tokens) == (
        "stop",
        PROMPT_TOKENS,
        len(WORDS),
    )


async def test_where_nothing_is_left_to_write_the_error_stays(folder: Path) -> None:
    """The answer is whole, but nobody said why it ended."""
    (folder / "dies").touch()
    with pytest.raises(Unavailable):
        await _ask(max_tokens=2)
