"""Which texts share a call of an embedder's actor, and what becomes of those who wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from actors.query import actor_replicas
from actors.query.actor_replicas import ActorEmbedder
from cluster.arrays import Float32Array
from cluster.errors import Unavailable


class FakeActor:
    """An embedder whose vectors have the lengths of the texts; it answers when the gate is open."""

    def __init__(self) -> None:
        self.name = "embedder/v/0"
        self.calls: list[tuple[str, list[str], float]] = []
        self.gate = asyncio.Event()
        self.fails = False

    async def call(self, method: str, texts: list[str], timeout_s: float) -> Float32Array:
        self.calls.append((method, texts, timeout_s))
        await self.gate.wait()
        if self.fails:
            raise Unavailable("gone")
        return np.array([[len(text)] for text in texts], dtype=np.float32)


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> FakeActor:
    actor = FakeActor()
    by_name: Callable[[str], FakeActor] = lambda name: actor  # noqa: E731
    monkeypatch.setattr(actor_replicas, "NamedActor", by_name)
    return actor


async def asked(embedder: ActorEmbedder, *texts: str, s: float = 5.0) -> list[list[float]]:
    vectors: list[list[float]] = (await embedder.embed(texts, s)).tolist()
    return vectors


async def test_questions_that_come_together_share_a_call(actor: FakeActor) -> None:
    embedder = ActorEmbedder("embedder/v/0")
    actor.gate.set()
    made = await asyncio.gather(*(asked(embedder, "x" * n, s=n) for n in (3, 5, 4)))
    assert made == [[[3]], [[5]], [[4]]]
    assert actor.calls == [("embed_each", ["xxx", "xxxxx", "xxxx"], 5)]


async def test_batches_and_long_texts_have_calls_of_their_own(actor: FakeActor) -> None:
    embedder = ActorEmbedder("embedder/v/0")
    actor.gate.set()
    long = "x" * 5000
    made = await asyncio.gather(asked(embedder, "a", "bc"), asked(embedder, long), asked(embedder))
    assert made == [[[1], [2]], [[5000]], []]
    assert [texts for _, texts, _ in actor.calls] == [["a", "bc"], [long], []]
    assert {method for method, _, _ in actor.calls} == {"embed"}


async def test_a_call_has_few_texts_and_many_calls_are_under_way(actor: FakeActor) -> None:
    embedder = ActorEmbedder("embedder/v/0")
    tasks = [asyncio.create_task(asked(embedder, "x" * number)) for number in range(10)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert [len(texts) for _, texts, _ in actor.calls] == [4, 4, 2]
    actor.gate.set()
    assert await asyncio.gather(*tasks) == [[[number]] for number in range(10)]


async def test_who_leaves_takes_nobody_along(actor: FakeActor) -> None:
    embedder = ActorEmbedder("embedder/v/0")
    leaves, stays = (asyncio.create_task(asked(embedder, text)) for text in ("a", "bc"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(actor.calls) == 1
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    actor.gate.set()
    assert await stays == [[2]]


async def test_a_failed_call_fails_all_of_its_texts(actor: FakeActor) -> None:
    embedder = ActorEmbedder("embedder/v/0")
    actor.fails = True
    actor.gate.set()
    made = await asyncio.gather(asked(embedder, "a"), asked(embedder, "bc"), return_exceptions=True)
    assert all(isinstance(error, Unavailable) for error in made)
    assert len(actor.calls) == 1
