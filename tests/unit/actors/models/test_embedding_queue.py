"""Concurrent requests share one embedder: what is computed with what, and what is not at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from actors.models.embedder import Embedder, pooled_passages
from actors.models.embedding_worker import PIECE_TOKENS, EmbeddingQueue
from actors.models.starter_models import starter_embedder_folder
from cluster.arrays import Float32Array
from cluster.errors import DeadlineExceeded, InvalidArgument, Overloaded

LONG = PIECE_TOKENS // 2
"""Tokens of a long text: two of them are a piece."""


class GatedEmbedder:
    """A text's tokens are its characters, and its vector has the number of them. Each piece waits
    until the test opens the gate. "long" is as long as half of a piece; "endless 3" has three
    windows, which are as long as a piece each.
    """

    dimension = 2

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.started = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def windows(self, texts: Sequence[str]) -> list[list[list[int]]]:
        repeats = [int(text[7:]) if text.startswith("endless") else 1 for text in texts]
        return [[list(map(ord, text))] * times for text, times in zip(texts, repeats, strict=True)]

    def padded_length(self, num_tokens: int) -> int:
        return {4: LONG, 9: PIECE_TOKENS}.get(num_tokens, max(1, num_tokens))

    def embed_windows(self, windows: Sequence[Sequence[int]]) -> Float32Array:
        texts = ["".join(map(chr, window)) for window in windows]
        self.batches.append(texts)
        self.started.release()
        self.gate.acquire()
        if "bad" in texts:
            raise InvalidArgument("bad text")
        return np.array([[len(text), 0] for text in texts], dtype=np.float32)

    async def wait_until_started(self) -> None:
        await asyncio.to_thread(self.started.acquire)


async def test_requests_that_arrive_meanwhile_are_computed_together() -> None:
    embedder = GatedEmbedder()
    queue = EmbeddingQueue(embedder)
    first = asyncio.create_task(queue.embed(["a"]))
    await embedder.wait_until_started()
    others = [asyncio.create_task(queue.embed(["x" * n, "y"])) for n in range(2, 5)]
    await asyncio.sleep(0)
    embedder.gate.release(5)
    assert (await first).tolist() == [[1, 0]]
    assert [(await other).tolist() for other in others] == [[[n, 0], [1, 0]] for n in range(2, 5)]
    assert embedder.batches == [["a"], ["y", "y", "y"], ["xx"], ["xxx"], ["xxxx"]]
    embedder.gate.release()
    assert (await queue.embed(["later"])).tolist() == [[5, 0]]
    assert (await queue.embed([])).shape == (0, 2)


async def test_a_query_waits_for_one_piece_of_a_batch() -> None:
    embedder = GatedEmbedder()
    queue = EmbeddingQueue(embedder)
    batch = asyncio.create_task(queue.embed(["long"] * 1024))
    await embedder.wait_until_started()
    query = asyncio.create_task(queue.embed(["query?"]))
    await asyncio.sleep(0)
    embedder.gate.release(2)
    assert (await query).tolist() == [[6, 0]]
    assert embedder.batches[:2] == [["long"], ["query?"]]
    assert not batch.done()
    embedder.gate.release(1024)
    assert (await batch).shape == (1024, 2)
    assert {len(piece) for piece in embedder.batches[2:]} <= {1, 2}


async def test_a_query_waits_for_one_window_of_a_long_text() -> None:
    embedder = GatedEmbedder()
    queue = EmbeddingQueue(embedder)
    batch = asyncio.create_task(queue.embed(["endless 3", "endless 2"]))
    await embedder.wait_until_started()
    query = asyncio.create_task(queue.embed(["query?"]))
    other = asyncio.create_task(queue.embed(["endless 2"]))
    await asyncio.sleep(0)
    embedder.gate.release(8)
    assert (await query).tolist() == [[6, 0]]
    assert (await batch).tolist() == [[1, 0], [1, 0]]
    assert (await other).tolist() == [[1, 0]]
    three, two = ["endless 3"], ["endless 2"]
    assert embedder.batches == [two, ["query?"], two, two, three, two, three, three]


async def test_of_a_long_text_that_nobody_waits_for_no_further_window_is_computed() -> None:
    embedder = GatedEmbedder()
    queue = EmbeddingQueue(embedder, waiting_texts_max=2)
    long = asyncio.create_task(queue.embed(["endless 3"]))
    await embedder.wait_until_started()
    long.cancel()
    await asyncio.gather(long, return_exceptions=True)
    embedder.gate.release(2)
    assert (await queue.embed(["after"])).tolist() == [[5, 0]]
    assert embedder.batches == [["endless 3"], ["after"]]


async def test_texts_of_several_people_have_their_own_turns() -> None:
    embedder = GatedEmbedder()
    queue = EmbeddingQueue(embedder)
    batch = asyncio.create_task(queue.embed(["long"] * 10))
    await embedder.wait_until_started()
    each = asyncio.create_task(queue.embed_each(["a", "bc", "d"], 60.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    embedder.gate.release(100)
    assert (await each).tolist() == [[1, 0], [2, 0], [1, 0]]
    assert embedder.batches[:4] == [["long"], ["a", "d"], ["long", "long"], ["bc"]]
    await batch


async def test_the_queue_is_bounded_and_a_request_has_half_of_what_is_free() -> None:
    embedder = GatedEmbedder()
    queue = EmbeddingQueue(embedder, waiting_texts_max=8)
    first = asyncio.create_task(queue.embed(["a"]))
    await embedder.wait_until_started()
    second = asyncio.create_task(queue.embed(["b"] * 4))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as caught:
        await queue.embed(["c"] * 3)
    assert caught.value.retry_after_s > 0
    third = asyncio.create_task(queue.embed(["c"] * 2))
    await asyncio.sleep(0)
    with pytest.raises(InvalidArgument, match="at most 4"):
        await queue.embed(["e"] * 5)
    embedder.gate.release(4)
    assert [len(await each) for each in (first, second, third)] == [1, 4, 2]


async def test_what_nobody_waits_for_any_more_is_not_computed() -> None:
    embedder = GatedEmbedder()
    queue = EmbeddingQueue(embedder)
    first = asyncio.create_task(queue.embed(["a"]))
    await embedder.wait_until_started()
    dropped = asyncio.create_task(queue.embed(["dropped"]))
    expired = asyncio.create_task(queue.embed(["expired"], 0.001))
    kept = asyncio.create_task(queue.embed(["wanted"], 60.0))
    await asyncio.sleep(0)
    dropped.cancel()
    first.cancel()
    await asyncio.gather(dropped, first, return_exceptions=True)
    with pytest.raises(DeadlineExceeded):
        await expired
    embedder.gate.release(2)
    assert (await kept).tolist() == [[6, 0]]
    assert embedder.batches == [["a"], ["wanted"]]


async def test_a_batch_whose_time_is_over_goes_no_further_than_a_piece() -> None:
    embedder = GatedEmbedder()
    queue = EmbeddingQueue(embedder)
    batch = asyncio.create_task(queue.embed(["long"] * 1000, 0.05))
    await embedder.wait_until_started()
    with pytest.raises(DeadlineExceeded):
        await batch
    embedder.gate.release(2)
    assert (await queue.embed(["after"])).tolist() == [[5, 0]]
    assert embedder.batches == [["long"], ["after"]]


async def test_a_request_of_many_pieces_keeps_its_order() -> None:
    embedder = GatedEmbedder()
    embedder.gate.release(100)
    texts = ["x" * (10 + n * 37 % 100) for n in range(100)]
    vectors = await EmbeddingQueue(embedder).embed(texts)
    assert vectors.tolist() == [[len(text), 0] for text in texts]
    computed = [text for batch in embedder.batches for text in batch]
    assert computed == sorted(texts, key=len), "shortest first"
    assert all(sum(map(len, piece)) <= PIECE_TOKENS for piece in embedder.batches)


async def test_each_thread_computes_a_piece() -> None:
    embedder = GatedEmbedder()
    queue = EmbeddingQueue(embedder, num_threads=2)
    made = [asyncio.create_task(queue.embed([text])) for text in ("a", "bc", "d", "efg", "h")]
    await embedder.wait_until_started()
    await embedder.wait_until_started()
    assert sorted(embedder.batches) == [["a"], ["bc"]]
    embedder.gate.release(4)
    assert [(await one).tolist() for one in made] == [[[n, 0]] for n in (1, 2, 1, 3, 1)]
    assert sorted(embedder.batches[2:]) == [["d", "h"], ["efg"]]


async def test_a_failed_piece_fails_its_requests_only() -> None:
    embedder = GatedEmbedder()
    queue = EmbeddingQueue(embedder)
    failing = asyncio.create_task(queue.embed(["bad", "worse"]))
    await embedder.wait_until_started()
    waiting = asyncio.create_task(queue.embed(["better"]))
    await asyncio.sleep(0)
    embedder.gate.release(2)
    with pytest.raises(InvalidArgument, match="bad text"):
        await failing
    assert (await waiting).tolist() == [[6, 0]]
    assert embedder.batches == [["bad"], ["better"]]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(starter_embedder_folder(), num_threads=1)


class Counting:
    """The real embedder, whose pieces are counted."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.dimension = embedder.dimension
        self.windows = embedder.windows
        self.padded_length = embedder.padded_length
        self.pieces: list[int] = []
        """The number of windows of each."""
        self.computed = threading.Semaphore(0)

    def embed_windows(self, windows: Sequence[Sequence[int]]) -> Float32Array:
        vectors = self._embedder.embed_windows(windows)
        self.pieces.append(len(windows))
        self.computed.release()
        return vectors


async def test_queries_beside_a_batch_wait_for_one_piece_each(embedder: Embedder) -> None:
    counting = Counting(embedder)
    queue = EmbeddingQueue(counting)
    batch = asyncio.create_task(queue.embed([f"{n} " + "word " * 250 for n in range(1024)]))
    for number in range(4):
        await asyncio.to_thread(counting.computed.acquire)
        before = len(counting.pieces)
        vectors = await queue.embed([f"Who grows tea in {number}?"])
        # One is under way when the query comes, and the query's own follows.
        assert len(counting.pieces) <= before + 2
        alone = embedder.embed([f"Who grows tea in {number}?"])
        assert vectors.tobytes() == alone.tobytes()
    assert not batch.done()
    batch.cancel()
    await asyncio.gather(batch, return_exceptions=True)


async def test_a_long_text_has_the_same_bytes_beside_others(
    embedder: Embedder,
) -> None:
    texts = [f"Who grows tea in {n}? " + "word " * 1500 for n in range(3)]
    counting = Counting(embedder)
    queue = EmbeddingQueue(counting)
    made = await asyncio.gather(queue.embed(texts), *(queue.embed([text]) for text in texts))
    assert made[0].tobytes() == embedder.embed(texts).tobytes()
    assert b"".join(vector.tobytes() for vector in made[1:]) == made[0].tobytes()
    assert len(counting.pieces) > 2 * len(texts) * 2, "each is of several pieces"
    assert max(counting.pieces) == 2


async def test_passages_have_the_bytes_that_a_build_gives_them(embedder: Embedder) -> None:
    texts = ["Tea grows here.", "Who grows tea? " + "word " * 600 + "Nobody does."]
    made = await EmbeddingQueue(embedder).embed(texts, pool=pooled_passages)
    assert made.tobytes() == embedder.embed_passages(texts).tobytes()
    assert made[1].tobytes() != embedder.embed(texts)[1].tobytes()


async def test_embedders_under_different_load_give_a_text_the_same_bytes(
    embedder: Embedder,
) -> None:
    other = Embedder(starter_embedder_folder(), num_threads=1)
    quiet, busy = EmbeddingQueue(embedder), EmbeddingQueue(other, num_threads=2)
    texts = [
        "Berlin is the capital of Germany.",
        "tea",
        "",
        "word " * 400,
        "日本の首都は東京です。",
    ]
    requests = [("Who grows tea?",), *(tuple(texts[:n]) for n in range(1, 6)), ("Who?", "tea")]
    alone = [await quiet.embed(request) for request in requests]
    crowded = await asyncio.gather(*(busy.embed(request) for request in requests * 2))
    for number, vectors in enumerate(crowded):
        assert vectors.tobytes() == alone[number % len(requests)].tobytes()


def test_tokens_of_texts_are_counted_without_the_special_ones(embedder: Embedder) -> None:
    assert embedder.count_tokens(["tea"]) == 1
    assert embedder.count_tokens(["tea", "tea and salt", ""]) == 4
    assert embedder.count_tokens(["tea " * 1000]) == 1000, "those in two windows count once"
