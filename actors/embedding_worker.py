"""Embedding as a service of one process (`EmbeddingWorker`), and as a step of Ray Data."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from actors.own_node import own_node
from cluster.artifact_cache import ArtifactCache
from cluster.artifacts import Artifacts
from cluster.coalescing import Coalescer
from cluster.errors import InvalidArgument
from cluster.manifests import ModelManifest
from cluster.object_store import ObjectStore
from cluster.passages import vector_column
from cluster.search import Float32Array

if TYPE_CHECKING:
    from actors.embedder import Embedder, TextEmbedder

WAITING_TEXTS_MAX = 4096
BATCH_TEXTS_MAX = 256
_PIECE_TEXTS = 32
"""Computed without a look at whether anybody still waits: about a second of work."""
WORKER_THREADS = 1
"""A short query gains little from more, and threads that wait for each other become many times
slower when others want the same cores. For throughput, run more workers."""


class EmbeddingQueue:
    """Lets concurrent requests travel together through one embedder.

    What arrives while a batch is computed forms the next one; there is no timer to wait for, so a
    lone request is computed at once. The embedder runs in a thread of its own, and the event loop
    stays free.
    """

    def __init__(
        self,
        embedder: TextEmbedder,
        *,
        waiting_texts_max: int = WAITING_TEXTS_MAX,
        batch_texts_max: int = BATCH_TEXTS_MAX,
    ) -> None:
        self._embedder = embedder
        self._waiting_texts_max = waiting_texts_max
        self._coalescer: Coalescer[None, Sequence[str], Float32Array] = Coalescer(
            self._run,
            size_max=batch_texts_max,
            in_flight_max=1,
            waiting_max=waiting_texts_max,
        )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embed")

    async def embed(self, texts: Sequence[str]) -> Float32Array:
        """float32 [n, dimension], row i for text i.

        Raises Overloaded when too many texts wait already, InvalidArgument for more texts than may
        ever wait. The caller brings the timeout: a request that is cancelled before its batch
        starts costs nothing.
        """
        if not texts:
            return np.empty((0, self._embedder.dimension), dtype=np.float32)
        if len(texts) > self._waiting_texts_max:
            raise InvalidArgument(f"at most {self._waiting_texts_max} texts at once", "texts")
        return await self._coalescer.submit(None, texts, len(texts))

    async def _run(self, _: None, requests: list[Sequence[str]]) -> list[Float32Array]:
        texts = [text for request in requests for text in request]
        loop = asyncio.get_running_loop()
        # A batch that nobody waits for any more is cancelled, and goes no further than a piece.
        pieces = [
            await loop.run_in_executor(
                self._thread, self._embedder.embed, texts[start : start + _PIECE_TEXTS]
            )
            for start in range(0, len(texts), _PIECE_TEXTS)
        ]
        ends = np.cumsum([len(request) for request in requests])
        return np.split(np.concatenate(pieces), ends[:-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderStatus:
    """What an embedder says of itself, which it can once it has its model."""

    node: str
    """The id of the Ray node on which it runs."""


class EmbeddingWorker:
    """One replica of an embedder: fetches the model, then answers `embed`.

    Becomes a Ray actor by wiring. A query's vector does not depend on what else is in flight, and
    has the bytes that a build gives a passage of the same text on such a processor.
    """

    def __init__(
        self,
        model: ModelManifest,
        store: ObjectStore,
        cache_folder: Path,
    ) -> None:
        self._queue = EmbeddingQueue(_opened(model, store, cache_folder))

    async def embed(self, texts: Sequence[str]) -> Float32Array:
        """float32 [n, dimension]; see `EmbeddingQueue.embed`."""
        return await self._queue.embed(texts)

    async def status(self) -> EmbedderStatus:
        return EmbedderStatus(node=own_node())


class EmbedBatches:
    """The step of a Ray Data pipeline that adds the column `vector` to a table with `text`.

    `counter` is an actor with a method `add(count)`, told of each batch.
    """

    def __init__(
        self, model: ModelManifest, store: ObjectStore, cache_folder: Path, counter: Any
    ) -> None:
        self._embedder = _opened(model, store, cache_folder)
        self._counter = counter

    def __call__(self, batch: Any) -> pa.Table:
        table: pa.Table = batch
        texts = [str(text) for text in table.column("text").to_pylist()]
        vectors = self._embedder.embed(texts)
        self._counter.add.remote(len(texts))
        return table.append_column("vector", vector_column(vectors))


def _opened(model: ModelManifest, store: ObjectStore, cache_folder: Path) -> Embedder:
    # Whoever starts workers imports this module, a restarted coordinator among them; PyTorch would
    # keep it from its work for two seconds or more.
    from actors.embedder import Embedder

    folder = ArtifactCache(Artifacts(store), cache_folder).folder_for(model.files)
    embedder = Embedder(folder, num_threads=WORKER_THREADS, precision=model.precision)
    if embedder.dimension != model.dimension:
        raise InvalidArgument(
            f"{model.name} makes vectors of {embedder.dimension} numbers, not of {model.dimension} "
            "as its manifest says",
            "embedder",
        )
    return embedder
