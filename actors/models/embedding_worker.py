"""Embedding as a service of one process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from actors.models.embedder import (
    BATCH_TOKENS,
    Embedder,
    TextEmbedder,
    pooled_passages,
    pooled_questions,
)
from actors.runtime.own_node import own_node
from cluster.arrays import Float32Array
from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.manifests import ModelManifest
from cluster.embedding.embedders import CountedVectors
from cluster.embedding.queue import FairQueue, Window
from cluster.errors import DeadlineExceeded, InvalidArgument

WAITING_TEXTS_MAX = 4096
PIECE_TOKENS = BATCH_TOKENS
"""Tokens of a piece, which is one batch: some 0.12 s of work, during which its thread looks at no
new request.
"""
_BRIEF_CHARS = 2000
"""Texts of so many characters together are cut into tokens on the spot: in half a millisecond."""

_Pool = Callable[[Float32Array, Sequence[int]], Float32Array]
"""Makes the vectors of texts of those of their windows; see `pooled_questions`."""


class _Request:
    """Texts that somebody waits for."""

    def __init__(self, windows: Sequence[Sequence[Sequence[int]]], dimension: int) -> None:
        self.windows = [window for text in windows for window in text]
        self.vectors = np.empty((len(self.windows), dimension), dtype=np.float32)
        self.num_left = len(self.windows)
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, window: int, vector: Float32Array) -> None:
        self.vectors[window] = vector
        self.num_left -= 1
        if not self.num_left and not self.answer.done():
            self.answer.set_result(None)

    def fail(self, error: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class EmbeddingQueue:
    """Lets concurrent requests share one embedder, piece by piece, as `FairQueue` deals them out.

    There is no timer to wait for: a lone request is computed at once. Each thread computes a piece
    at a time, and the event loop stays free.
    """

    def __init__(
        self,
        embedder: TextEmbedder,
        *,
        num_threads: int = 1,
        waiting_texts_max: int = WAITING_TEXTS_MAX,
    ) -> None:
        self._embedder = embedder
        self._waiting: FairQueue[_Request] = FairQueue(
            piece_tokens_max=PIECE_TOKENS, waiting_max=waiting_texts_max
        )
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="piece")
        self._num_idle = num_threads

    async def embed(
        self,
        texts: Sequence[str],
        timeout_s: float | None = None,
        *,
        pool: _Pool = pooled_questions,
    ) -> Float32Array:
        """float32 [n, dimension], row i for text i; `pool` says how long texts are read.

        Raises Overloaded when too many texts wait already, InvalidArgument for more texts than may
        ever wait, DeadlineExceeded. Of a request whose time is over, or that is cancelled, no piece
        is begun any more.
        """
        if not texts:
            return np.empty((0, self._embedder.dimension), dtype=np.float32)
        self._waiting.check_room(len(texts))
        try:
            async with asyncio.timeout(timeout_s):
                return await self._embed(texts, pool)
        except TimeoutError as error:
            raise DeadlineExceeded("time ran out while texts were embedded") from error

    async def embed_each(self, texts: Sequence[str], timeout_s: float) -> Float32Array:
        """The vectors that `embed` makes, but each text has its turns as a request of its own: they
        are of several people. Raises as `embed` does, if one of them fails.
        """
        made = await asyncio.gather(*(self.embed([text], timeout_s) for text in texts))
        return np.concatenate(made)

    async def _embed(self, texts: Sequence[str], pool: _Pool) -> Float32Array:
        if sum(map(len, texts)) <= _BRIEF_CHARS:
            windows = self._embedder.windows(texts)
        else:
            windows = await asyncio.to_thread(self._embedder.windows, texts)
        padded = self._embedder.padded_length
        request = _Request(windows, self._embedder.dimension)
        self._waiting.add(request, [[padded(len(window)) for window in text] for text in windows])
        self._deal()
        try:
            await request.answer
        finally:
            self._waiting.drop(request)
        return pool(request.vectors, [len(text) for text in windows])

    def _deal(self) -> None:
        """Gives a piece to each idle thread, as far as there are some."""
        loop = asyncio.get_running_loop()
        while self._num_idle and (piece := self._waiting.next_piece()):
            self._num_idle -= 1
            windows = [window.request.windows[window.number] for window in piece]
            made = loop.run_in_executor(self._threads, self._embedder.embed_windows, windows)
            made.add_done_callback(partial(self._computed, piece))

    def _computed(
        self, piece: Sequence[Window[_Request]], made: asyncio.Future[Float32Array]
    ) -> None:
        self._num_idle += 1
        error = made.exception()
        if error is None:
            for window, vector in zip(piece, made.result(), strict=True):
                window.request.take(window.number, vector)
        else:
            for window in piece:
                window.request.fail(error)
        self._deal()


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderStatus:
    """An embedder's report on itself, which it can give once it has its model."""

    node: str
    """The id of the Ray node on which it runs."""


class EmbeddingWorker:
    """One replica of an embedder: fetches the model, then answers `embed`, on all cores of its
    machine or in fewer threads.

    Becomes a Ray actor in `actors.models.embedder_actor`, and works in gateways for
    `actors.query.local_embedders`. A query's vector does not depend on what else is in flight, and
    has the bytes that a build gives a passage of the same text on such a processor.
    """

    def __init__(
        self, model: ModelManifest, cache: ArtifactCache, num_threads: int | None = None
    ) -> None:
        """`num_threads`: None for one on each core. Raises as `open_embedder` does."""
        num_threads = num_threads or num_cores()
        embedder = open_embedder(model, cache, num_threads)
        self._queue = EmbeddingQueue(embedder, num_threads=num_threads)
        self._count_tokens = embedder.count_tokens

    async def embed(self, texts: Sequence[str], timeout_s: float) -> Float32Array:
        """float32 [n, dimension]; see `EmbeddingQueue.embed`."""
        return await self._queue.embed(texts, timeout_s)

    async def embed_passages(self, texts: Sequence[str], timeout_s: float) -> Float32Array:
        """float32 [n, dimension]: the vectors that a build gives passages of these texts. Raises as
        `embed` does.
        """
        return await self._queue.embed(texts, timeout_s, pool=pooled_passages)

    async def embed_each(self, texts: Sequence[str], timeout_s: float) -> Float32Array:
        """float32 [n, dimension]; see `EmbeddingQueue.embed_each`."""
        return await self._queue.embed_each(texts, timeout_s)

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


def open_embedder(model: ModelManifest, cache: ArtifactCache, num_threads: int) -> Embedder:
    """The embedder of a model version, which computes so many batches at once.

    Raises what fetching its files and `Embedder` do, and InvalidArgument where its vectors are not
    as long as the manifest says.
    """
    folder = cache.folder_for(model.run_files)
    embedder = Embedder(
        folder,
        num_threads=num_threads,
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


def num_cores() -> int:
    """Cores of this machine that this process may use. Each computes batches of its own: threads
    that share a batch wait for each other, and so become many times slower when others want the
    same cores.
    """
    return len(os.sched_getaffinity(0))
