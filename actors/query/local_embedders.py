"""Embedders that a gateway runs in its own process, so that a question needs no call: those whose
files its node has.

The actors stay for batches and long texts, for the questions that come while many wait here, and
for models that are not open here (docs/decisions/0025-questions-are-embedded-by-gateways.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from actors.models.embedding_worker import EmbeddingWorker, num_cores
from cluster.arrays import Float32Array
from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import ModelManifest, Runtime
from cluster.embedding.embedders import CountedVectors
from cluster.errors import RaygionError, Unavailable
from cluster.logs.context import log_scope
from cluster.logs.events import EventLog
from cluster.serving.view import RegionView

log = EventLog(__name__)

LOCAL_BYTES_MAX = 256 * 1024 * 1024
"""Files of all models that are open in one process. Each gateway has weights of its own, as the
library arranges them anew; and the larger a model is, the less a call adds to its time.
"""
_THREADS_MAX = 4
"""Threads of a model in one process. Under load there are as many gateways as cores."""

MadeT = TypeVar("MadeT")


class LocalEmbedder:
    """A `cluster.embedding.embedders.LocalEmbedder`: what an actor does, without the actor."""

    def __init__(self, model: ModelManifest, cache: ArtifactCache) -> None:
        """Takes seconds. Raises what `EmbeddingWorker` does."""
        self.replica_id = f"{model.version}/local"
        self.num_threads = min(num_cores(), _THREADS_MAX)
        self.num_texts = 0
        self._worker = EmbeddingWorker(model, cache, self.num_threads)

    async def embed(self, texts: Sequence[str], timeout_s: float) -> Float32Array:
        return await self._made(texts, self._worker.embed(texts, timeout_s))

    async def embed_counted(self, texts: Sequence[str], timeout_s: float) -> CountedVectors:
        return await self._made(texts, self._worker.embed_counted(texts, timeout_s))

    async def _made(self, texts: Sequence[str], making: Awaitable[MadeT]) -> MadeT:
        """Raises Unavailable in place of the worker's own failures, so that an actor is asked."""
        self.num_texts += len(texts)
        try:
            return await making
        except RaygionError:
            raise
        except Exception as error:
            log.error(
                "embedder.failed_here",
                "{embedder} failed on its own account",
                embedder=self.replica_id,
                traceback_of=error,
            )
            raise Unavailable(f"{self.replica_id} failed") from error
        finally:
            self.num_texts -= len(texts)


@dataclass(frozen=True, slots=True)
class _Opened:
    model: ModelManifest
    embedder: LocalEmbedder


class LocalEmbedders:
    """Follows the region's views: opens the models that this node has, lets go of what no release
    needs.

    Only models that run without PyTorch are opened, which would take a gateway seconds and hundreds
    of megabytes; and as many as `bytes_max` has room for. The actors serve all others, and each
    one until it is open here.
    """

    def __init__(
        self, catalog: Catalog, cache: ArtifactCache, bytes_max: int = LOCAL_BYTES_MAX
    ) -> None:
        self._catalog = catalog
        self._cache = cache
        self._bytes_max = bytes_max
        self._opened: dict[str, _Opened] = {}
        self._opening: dict[str, asyncio.Task[None]] = {}
        """Tasks that open models, by their versions, including those that are done."""
        self._one_opens = asyncio.Lock()

    def embedder(self, version: str | None) -> LocalEmbedder | None:
        """The model of this version in this process; None while it is not open here."""
        opened = None if version is None else self._opened.get(version)
        return None if opened is None else opened.embedder

    def follow(self, view: RegionView) -> None:
        """Call it with each new view, in a running event loop. What could not be opened, or was not
        here yet, is tried again with each.
        """
        wanted = {r.embedder for r in view.releases.values() if r.embedder is not None}
        for version in self._opening.keys() - wanted:
            del self._opening[version]
            if (opened := self._opened.pop(version, None)) is not None:
                # Requests that are under way keep it until they end.
                self._cache.unpin(opened.model.run_files)
        for version in wanted - self._opened.keys():
            if version not in self._opening or self._opening[version].done():
                self._opening[version] = asyncio.create_task(
                    self._open(version), name=f"open {version}"
                )

    async def _open(self, version: str) -> None:
        # The log must not name the one request that came first after a new view.
        with log_scope():
            try:
                async with self._one_opens:
                    await self._open_if_here(version)
            except Exception as error:
                # Whatever a library raises: nothing is lost but the speed.
                log.warning(
                    "embedder.stays_with_actors",
                    "{model} stays with its actors for now: {error}",
                    model=version,
                    error=error,
                )

    async def _open_if_here(self, version: str) -> None:
        found = await asyncio.to_thread(self._catalog.find_model, version)
        if version in self._opened or found is None or not self._may_open(found[0]):
            return
        model = found[0]
        if not await asyncio.to_thread(self._cache.holds, model.run_files):
            return
        try:
            embedder = await asyncio.to_thread(LocalEmbedder, model, self._cache)
            if version in self._opening:
                self._opened[version] = _Opened(model, embedder)
        finally:
            if version not in self._opened:
                self._cache.unpin(model.run_files)

    def _may_open(self, model: ModelManifest) -> bool:
        size_bytes = _size_bytes(model) + sum(_size_bytes(o.model) for o in self._opened.values())
        return model.runtime is not Runtime.TORCH and size_bytes <= self._bytes_max


def _size_bytes(model: ModelManifest) -> int:
    return sum(file.size_bytes for file in model.run_files)
