"""How texts are shared out among the replicas of an embedder."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.arrays import Float32Array
from cluster.balance.weights import OutcomeWeights
from cluster.clock import Deadline
from cluster.embedding.embedders import LOCAL_TEXTS_A_THREAD, CountedVectors, Embedders
from cluster.errors import InvalidArgument, RaygionError, Unavailable


class Replica:
    """A vector is the text's number, and a one."""

    def __init__(self, name: str) -> None:
        self.replica_id = name
        self.asked: list[list[str]] = []
        self.error: RaygionError | None = None
        self.hangs = False
        self.gave_up = 0

    async def embed(self, texts: Sequence[str], timeout_s: float) -> Float32Array:
        assert timeout_s > 0
        self.asked.append(list(texts))
        if self.error is not None:
            raise self.error
        if self.hangs:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.gave_up += 1
                raise
        return np.array([[int(text), 1] for text in texts], dtype=np.float32)

    async def embed_passages(self, texts: Sequence[str], timeout_s: float) -> Float32Array:
        return -await self.embed(texts, timeout_s)

    async def embed_counted(self, texts: Sequence[str], timeout_s: float) -> CountedVectors:
        vectors = await self.embed(texts, timeout_s)
        return CountedVectors(vectors=vectors, num_tokens=sum(map(len, texts)))


class Local(Replica):
    """The model in this process."""

    num_threads, num_texts = 2, 0


def made(*replicas: Replica, local: Local | None = None) -> Embedders:
    # No time passes, in which a breaker that is open would let a probe pass.
    weights = OutcomeWeights(now_s=lambda: 0.0, rng=random.Random(0))
    return Embedders(replicas, weights, local)


def texts(num: int) -> list[str]:
    return [str(number) for number in range(num)]


@given(num_texts=st.integers(1, 100), num_replicas=st.integers(1, 5))
def test_every_text_has_its_row_however_many_share_the_work(
    num_texts: int, num_replicas: int
) -> None:
    replicas = [Replica(str(number)) for number in range(num_replicas)]
    vectors = asyncio.run(made(*replicas).embed(texts(num_texts), Deadline.after(5.0)))
    assert vectors.dtype == np.float32
    assert vectors[:, 0].tolist() == list(range(num_texts))
    asked = [int(text) for replica in replicas for part in replica.asked for text in part]
    assert sorted(asked) == list(range(num_texts))


async def test_passages_have_vectors_of_their_own_kind() -> None:
    replicas = [Replica("0"), Replica("1")]
    vectors = await made(*replicas).embed_passages(texts(20), Deadline.after(5.0))
    assert vectors[:, 0].tolist() == [-number for number in range(20)]
    assert all(replica.asked for replica in replicas)


async def test_a_batch_goes_to_all_replicas_and_a_query_to_one() -> None:
    replicas = [Replica("a"), Replica("b"), Replica("c")]
    embedders = made(*replicas)
    await embedders.embed(texts(1024), Deadline.after(5.0))
    assert sorted(len(replica.asked[0]) for replica in replicas) == [341, 341, 342]
    await embedders.embed(["7"], Deadline.after(5.0))
    assert sum(len(replica.asked) for replica in replicas) == 4


async def test_the_part_of_a_replica_that_fails_goes_to_another_one() -> None:
    broken, sound = Replica("broken"), Replica("sound")
    broken.error = Unavailable("starting")
    vectors = await made(broken, sound).embed(texts(64), Deadline.after(5.0))
    assert vectors[:, 0].tolist() == list(range(64))
    assert [len(part) for part in sound.asked] == [32, 32]


async def test_what_one_part_cannot_have_the_others_are_not_waited_for() -> None:
    refusing, slow = Replica("refusing"), Replica("slow")
    refusing.error = InvalidArgument("bad text", "query")
    slow.hangs = True
    with pytest.raises(InvalidArgument, match="bad text"):
        await made(refusing, slow).embed(texts(64), Deadline.after(5.0))
    await asyncio.sleep(0)
    assert slow.gave_up == 1


async def test_tokens_are_counted_with_the_vectors_of_each_share() -> None:
    lost, well = Replica("a"), Replica("b")
    lost.error = Unavailable("gone")
    for num_texts, num_tokens in ((2, 2), (64, 118)):
        found = await made(lost, well).embed_counted(texts(num_texts), Deadline.after(5.0))
        assert found.vectors[:, 0].tolist() == list(range(num_texts))
        assert found.num_tokens == num_tokens


async def test_a_few_short_texts_stay_here_and_all_others_go_to_replicas() -> None:
    local, other = Local("local"), Replica("other")
    embedders = made(other, local=local)
    found = await embedders.embed(["4"], Deadline.after(5.0))
    assert found.tolist() == [[4, 1]]
    counted = await embedders.embed_counted(texts(7), Deadline.after(5.0))
    assert counted.num_tokens == 7
    assert (local.asked, other.asked) == ([["4"], texts(7)], [])
    for many in (texts(8), ["1".zfill(2001)], ["1".zfill(1001)] * 2):
        await embedders.embed(many, Deadline.after(5.0))
        assert other.asked.pop() == many
    await embedders.embed_passages(["6"], Deadline.after(5.0))
    assert other.asked.pop() == ["6"]
    local.num_texts = LOCAL_TEXTS_A_THREAD * local.num_threads
    await embedders.embed(["5"], Deadline.after(5.0))
    assert other.asked == [["5"]]
    assert len(local.asked) == 2


async def test_what_fails_here_goes_to_a_replica_and_after_a_while_at_once() -> None:
    local, other = Local("local"), Replica("other")
    local.error = Unavailable("out of memory")
    embedders = made(other, local=local)
    for number in range(20):
        found = await embedders.embed([str(number)], Deadline.after(5.0))
        assert found.tolist() == [[number, 1]]
    assert len(other.asked) == 20
    assert len(local.asked) == 5, "its circuit is open"
