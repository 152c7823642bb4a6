"""Concurrent requests share one embedder: what is computed with what, and what is not at all."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from actors.models.embedder import Embedder
from actors.models.embedding_worker import PIECE_TOKENS, EmbeddingQueue
from actors.models.starter_models import starter_embedder_folder
from cluster.arrays import Float32Array
from cluster.embedding.tokenizer import EmbedderTokenizer
from cluster.errors import DeadlineExceeded, InvalidArgument, Overloaded

LONG = PIECE_TOKENS // 2
"""Tokens of a long text: two of them are a piece."""


class GatedEmbedder:
    """Vectors are the lengths of the texts; each batch waits until the test opens the gate. A text
    that ends with digits is computed in so many parts.
    """

    dimension = 2

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.started = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def embed_in_pieces(self, texts: Sequence[str]) -> Iterator[Float32Array | None]:
        num_parts = int(re.sub(r"\D", "", texts[0]) or 1)
        for part in range(num_parts):
            if part:
                yield None
            self.batches.append(list(texts))
            self.started.release()
            self.gate.acquire()
            if "bad" in texts:
                raise InvalidArgument("bad text")
        yield np.array([[len(text), 0] for text in texts], dtype=np.float32)

    def tokens_at_most(self, text: str) -> int:
        if text.startswith("endless"):
            return 10 * PIECE_TOKENS
        return LONG if text.startswith("long") else len(text)

    async def wait_until_started(self) -> None:
        await asyncio.to_thread(self.started.acquire)


async def test_requests_that_arrive_meanwhile_are_computed_together() -> None:
    embedder = GatedEmbedder()
    queue = EmbeddingQueue(embedder)
    first = asyncio.create_task(queue.embed(["a"]))
    await embedder.wait_until_started()
    others = [asyncio.create_task(queue.embed(["x" * n, "y"])) for n in range(2, 5)]
    await asyncio.sleep(0)
    embedder.gate.release(3)
    assert (await first).tolist() == [[1, 0]]
    assert [(await other).tolist() for other in others] == [[[n, 0], [1, 0]] for n in range(2, 5)]
    assert embedder.batches == [["a"], ["y", "y", "y"], ["xx", "xxx", "xxxx"]]
    embedder.gate.release()
    assert (await queue.embed(["later"])).tolist() == [[5, 0]]
    assert (await queue.embed([])).shape == (0, 2)


async def test_a_query_waits_for_one_piece_of_a_batch() -> None:
    embedder = GatedEmbedder()
    queue = EmbeddingQueue(embedder)
    batch = asyncio.create_task(queue.embed(["long"] * 1024))
    await embedder.wait_until_started()
    query = asyncio.create_task(queue.embed(["query"]))
    await asyncio.sleep(0)
    embedder.gate.release(2)
    assert (await query).tolist() == [[5, 0]]
    assert embedder.batches[:2] == [["long"], ["query"]]
    assert not batch.done()
    embedder.gate.release(1024)
    assert (await batch).shape == (1024, 2)
    assert {len(piece) for piece in embedder.batches[2:]} <= {1, 2}


async def test_a_query_waits_for_one_part_of_a_text_of_several() -> None:
    embedder = GatedEmbedder()
    queue = EmbeddingQueue(embedder)
    batch = asyncio.create_task(queue.embed(["endless 3", "endless 2"]))
    await embedder.wait_until_started()
    query = asyncio.create_task(queue.embed(["query"]))
    other = asyncio.create_task(queue.embed(["endless 2"]))
    await asyncio.sleep(0)
    embedder.gate.release(8)
    assert (await query).tolist() == [[5, 0]]
    assert (await batch).tolist() == [[9, 0], [9, 0]]
    assert (await other).tolist() == [[9, 0]]
    three, two = ["endless 3"], ["endless 2"]
    assert embedder.batches == [two, ["query"], two, two, three, two, three, three]


async def test_of_a_long_text_that_nobody_waits_for_no_further_part_is_computed() -> None:
    embedder = GatedEmbedder()
    queue = EmbeddingQueue(embedder, waiting_texts_max=2)
    long = asyncio.create_task(queue.embed(["endless 3"]))
    await embedder.wait_until_started()
    long.cancel()
    await asyncio.gather(long, return_exceptions=True)
    embedder.gate.release(2)
    assert (await queue.embed(["next"])).tolist() == [[4, 0]]
    assert embedder.batches == [["endless 3"], ["next"]]


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
    kept = asyncio.create_task(queue.embed(["kept"], 60.0))
    await asyncio.sleep(0)
    dropped.cancel()
    first.cancel()
    await asyncio.gather(dropped, first, return_exceptions=True)
    with pytest.raises(DeadlineExceeded):
        await expired
    embedder.gate.release(2)
    assert (await kept).tolist() == [[4, 0]]
    assert embedder.batches == [["a"], ["kept"]]


async def test_a_batch_whose_time_is_over_goes_no_further_than_a_piece() -> None:
    embedder = GatedEmbedder()
    queue = EmbeddingQueue(embedder)
    batch = asyncio.create_task(queue.embed(["long"] * 1000, 0.05))
    await embedder.wait_until_started()
    with pytest.raises(DeadlineExceeded):
        await batch
    embedder.gate.release(2)
    assert (await queue.embed(["next"])).tolist() == [[4, 0]]
    assert embedder.batches == [["long"], ["next"]]


async def test_a_request_of_many_pieces_keeps_its_order() -> None:
    embedder = GatedEmbedder()
    embedder.gate.release(100)
    texts = ["x" * (n * 37 % 100) for n in range(100)]
    vectors = await EmbeddingQueue(embedder).embed(texts)
    assert vectors.tolist() == [[len(text), 0] for text in texts]
    computed = [text for batch in embedder.batches for text in batch]
    assert computed == sorted(texts, key=len), "shortest first"
    assert all(sum(map(len, piece)) <= PIECE_TOKENS for piece in embedder.batches)


async def test_a_failed_piece_fails_its_requests_only() -> None:
    embedder = GatedEmbedder()
    queue = EmbeddingQueue(embedder)
    failing = asyncio.create_task(queue.embed(["bad", "longer"]))
    await embedder.wait_until_started()
    waiting = asyncio.create_task(queue.embed(["good"]))
    await asyncio.sleep(0)
    embedder.gate.release(2)
    with pytest.raises(InvalidArgument, match="bad text"):
        await failing
    assert (await waiting).tolist() == [[4, 0]]
    assert embedder.batches == [["bad"], ["good"]]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(starter_embedder_folder(), num_threads=1)


class Counting:
    """The real embedder, whose pieces are counted."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.dimension = embedder.dimension
        self.tokens_at_most = embedder.tokens_at_most
        self.pieces: list[list[str]] = []
        self.computed = threading.Semaphore(0)

    def embed_in_pieces(self, texts: Sequence[str]) -> Iterator[Float32Array | None]:
        for vectors in self._embedder.embed_in_pieces(texts):
            self.pieces.append(list(texts))
            self.computed.release()
            yield vectors


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


async def test_a_text_in_parts_has_the_bytes_that_it_has_at_once(embedder: Embedder) -> None:
    texts = [f"Who grows tea in {n}? " + "word " * 1500 for n in range(3)]
    counting = Counting(embedder)
    queue = EmbeddingQueue(counting)
    made = await asyncio.gather(queue.embed(texts), *(queue.embed([text]) for text in texts))
    assert made[0].tobytes() == embedder.embed(texts).tobytes()
    assert b"".join(vector.tobytes() for vector in made[1:]) == made[0].tobytes()
    assert len(counting.pieces) > 2 * len(texts) * 2, "each is of several parts"
    assert {len(piece) for piece in counting.pieces} == {1}


async def test_embedders_under_different_load_give_a_text_the_same_bytes(
    embedder: Embedder,
) -> None:
    other = Embedder(starter_embedder_folder(), num_threads=1)
    quiet, busy = EmbeddingQueue(embedder), EmbeddingQueue(other)
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


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "日本の首都は東京です。",
        "한국어 텍스트",
        "\u0131\ufdfa\u1e69",
        "🎉👩‍👩‍👧",
        "!?" * 60,
    ],
)
def test_no_text_has_more_tokens_than_are_reckoned_with(embedder: Embedder, text: str) -> None:
    (windows,) = EmbedderTokenizer.of_folder(starter_embedder_folder()).windows([text])
    assert sum(map(len, windows)) <= embedder.tokens_at_most(text)


def test_tokens_of_texts_are_counted_without_the_special_ones(embedder: Embedder) -> None:
    assert embedder.count_tokens(["tea"]) == 1
    assert embedder.count_tokens(["tea", "tea and salt", ""]) == 4
    assert embedder.count_tokens(["tea " * 1000]) == 1000, "those in two windows count once"
