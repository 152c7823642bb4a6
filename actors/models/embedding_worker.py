"""Embedding as a service of one process (`EmbeddingWorker`), and as a step of Ray Data."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from actors.runtime.own_node import own_node
from cluster.arrays import Float32Array
from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.manifests import ModelManifest
from cluster.documents.passages import vector_column
from cluster.embedding.embedders import CountedVectors
from cluster.embedding.queue import FairQueue
from cluster.errors import DeadlineExceeded, InvalidArgument

if TYPE_CHECKING:
    from actors.models.embedder import Embedder, TextEmbedder

WAITING_TEXTS_MAX = 4096
PIECE_TOKENS = 512
"""Tokens of a piece, during which no new request is looked at: some 0.15 s of work, and enough for
the model to be at its best. A text that may have more tokens is a piece of its own, and the rest of
it after so much work waits for its next turn.
"""
WORKER_THREADS = 1
"""A short query gains little from more, and threads that wait for each other become many times
slower when others want the same cores. For throughput, run more workers."""


class _Request:
    """Texts that somebody waits for."""

    def __init__(self, texts: Sequence[str], dimension: int) -> None:
        self.texts = texts
        self.vectors = np.empty((len(texts), dimension), dtype=np.float32)
        self.num_left = len(texts)
        self.begun: Iterator[Float32Array | None] | None = None
        """The work on its next text, where that was begun."""
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, text: int, vector: Float32Array) -> None:
        self.vectors[text] = vector
        self.num_left -= 1
        if not self.num_left and not self.answer.done():
            self.answer.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class EmbeddingQueue:
    """Lets concurrent requests share one embedder, piece by piece, as `FairQueue` deals them out.

    There is no timer to wait for: a lone request is computed at once. The embedder runs in a thread
    of its own, and the event loop stays free.
    """

    def __init__(
        self, embedder: TextEmbedder, *, waiting_texts_max: int = WAITING_TEXTS_MAX
    ) -> None:
        self._embedder = embedder
        self._waiting: FairQueue[_Request] = FairQueue(
            piece_tokens_max=PIECE_TOKENS, waiting_max=waiting_texts_max
        )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embed")
        self._computing: asyncio.Task[None] | None = None

    async def embed(self, texts: Sequence[str], timeout_s: float | None = None) -> Float32Array:
        """float32 [n, dimension], row i for text i.

        Raises Overloaded when too many texts wait already, InvalidArgument for more texts than may
        ever wait, DeadlineExceeded. Of a request whose time is over, or that is cancelled, no piece
        is begun any more.
        """
        request = _Request(texts, self._embedder.dimension)
        if not texts:
            return request.vectors
        self._waiting.add(request, [self._embedder.tokens_at_most(text) for text in texts])
        if self._computing is None:
            self._computing = asyncio.create_task(self._compute(), name="embed")
        try:
            async with asyncio.timeout(timeout_s):
                await request.answer
        except TimeoutError as error:
            raise DeadlineExceeded("time ran out while texts were embedded") from error
        finally:
            self._waiting.drop(request)
        return request.vectors

    async def _compute(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while piece := self._waiting.next_piece():
                first, first_text = piece[0]
                texts = [request.texts[text] for request, text in piece]
                work, first.begun = first.begun or self._embedder.embed_in_pieces(texts), None
                try:
                    vectors = await loop.run_in_executor(self._thread, next, work)
                except Exception as error:
                    for request, _ in piece:
                        request.fail(error)
                    continue
                if vectors is not None:
                    for (request, text), vector in zip(piece, vectors, strict=True):
                        request.take(text, vector)
                elif not first.answer.done():
                    # It is the only one of its piece.
                    first.begun = work
                    self._waiting.put_back(first, first_text)
        finally:
            self._computing = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderStatus:
    """An embedder's report on itself, which it can give once it has its model."""

    node: str
    """The id of the Ray node on which it runs."""


class EmbeddingWorker:
    """One replica of an embedder: fetches the model, then answers `embed`.

    Becomes a Ray actor in `actors.models.embedder_actor`. A query's vector does not depend on what
    else is in flight, and has the bytes that a build gives a passage of the same text on such a
    processor.
    """

    def __init__(self, model: ModelManifest, cache: ArtifactCache) -> None:
        embedder = _opened(model, cache)
        self._queue = EmbeddingQueue(embedder)
        self._count_tokens = embedder.count_tokens

    async def embed(self, texts: Sequence[str], timeout_s: float) -> Float32Array:
        """float32 [n, dimension]; see `EmbeddingQueue.embed`."""
        return await self._queue.embed(texts, timeout_s)

    async def embed_counted(self, texts: Sequence[str], timeout_s: float) -> CountedVectors:
        """The vectors that `embed` makes, and the number of tokens. Raises as `embed` does."""
        try:
            async with asyncio.timeout(timeout_s):
                vectors = await self._queue.embed(texts)
                # The longest batches take seconds to count.
                num_tokens = await asyncio.to_thread(self._count_tokens, texts)
        except TimeoutError as error:
            raise DeadlineExceeded("time ran out while texts were embedded") from error
        return CountedVectors(vectors=vectors, num_tokens=num_tokens)

    async def status(self) -> EmbedderStatus:
        return EmbedderStatus(node=own_node())


class EmbedBatches:
    """The step of a Ray Data pipeline that adds the column `vector` to a table with `text`.

    `counter` is an actor with a method `add(count)`, told of each batch.
    """

    def __init__(self, model: ModelManifest, cache: ArtifactCache, counter: Any) -> None:
        self._embedder = _opened(model, cache)
        self._counter = counter

    def __call__(self, batch: Any) -> pa.Table:
        table: pa.Table = batch
        texts = [str(text) for text in table.column("text").to_pylist()]
        vectors = self._embedder.embed_passages(texts)
        self._counter.add.remote(len(texts))
        return table.append_column("vector", vector_column(vectors))


def _opened(model: ModelManifest, cache: ArtifactCache) -> Embedder:
    # Whoever starts workers imports this module, a restarted coordinator among them; PyTorch would
    # keep it from its work for two seconds or more.
    from actors.models.embedder import Embedder

    folder = cache.folder_for(model.files)
    embedder = Embedder(
        folder,
        num_threads=WORKER_THREADS,
        precision=model.precision,
        runtime=model.runtime,
    )
    if embedder.dimension != model.dimension:
        raise InvalidArgument(
            f"{model.name} makes vectors of {embedder.dimension} numbers, not of {model.dimension} "
            "as its manifest says",
            "embedder",
        )
    return embedder
