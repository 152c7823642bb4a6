"""The step of a build that gives passages their vectors, on an embedder of each machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from actors.builds.earlier_vectors import EarlierVectors
from actors.models.embedder import Embedder
from actors.models.embedding_worker import num_cores, open_embedder
from actors.runtime.process_logs import logging_class
from actors.runtime.wiring import live_nodes
from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.manifests import ModelManifest
from cluster.documents.passages import vector_column

_BATCH = 128
_BLOCK = 2 * _BATCH


def embedded(
    passages: ray.data.Dataset,
    num_passages: int,
    embedder: ModelManifest,
    cache: ArtifactCache,
    counter: Any,
    known: EarlierVectors | None,
) -> ray.data.Dataset:
    """The passages with their vectors; those that are `known` are not embedded."""
    # An actor takes one block at a time: blocks of a few batches keep all of them busy.
    blocks = passages.repartition(target_num_rows_per_block=_BLOCK)
    return blocks.map_batches(
        logging_class(EmbedBatches),
        fn_constructor_args=(embedder, cache, counter, known),
        batch_size=_BATCH,
        batch_format="pyarrow",
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=_num_actors(num_passages)),
    )


class EmbedBatches:
    """The step of a Ray Data pipeline that adds the column `vector` to a table of passages.

    `counter` is an actor with a method `add(count)`, told of each batch.
    """

    def __init__(
        self,
        model: ModelManifest,
        cache: ArtifactCache,
        counter: Any,
        known: EarlierVectors | None = None,
    ) -> None:
        self._model = model
        self._cache = cache
        self._counter = counter
        self._known = None if known is None else known.opened()
        self._embedder: Embedder | None = None

    def __call__(self, batch: Any) -> pa.Table:
        table: pa.Table = batch
        assert self._model.dimension is not None
        vectors = np.empty((table.num_rows, self._model.dimension), dtype=np.float32)
        missing = list(range(table.num_rows))
        if self._known is not None:
            found = self._known.find(table)
            missing = [row for row in missing if row not in found]
            for row, vector in found.items():
                vectors[row] = vector
        if missing:
            texts = table.column("text").take(missing).to_pylist()
            vectors[missing] = self._embed([str(text) for text in texts])
        self._counter.add.remote(table.num_rows)
        return table.append_column("vector", vector_column(vectors))

    def _embed(self, texts: list[str]) -> Any:
        # Its start takes seconds, and where nothing is new it is not needed.
        if self._embedder is None:
            self._embedder = open_embedder(self._model, self._cache, num_cores())
        return self._embedder.embed_passages(texts)


def _num_actors(num_passages: int) -> int:
    """Number of actors that embed side by side: one a machine, as far as there are blocks for them.
    Each has a thread for each core; Ray counts it as one, so that the tasks that read for them fit
    beside it, and spreads actors over the machines by itself.

    One logical CPU is left to those tasks; without it the pipeline would never start.
    """
    resources: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    blocks = -(-num_passages // _BLOCK)
    return max(1, min(int(resources.get("CPU", 1)) - 1, len(live_nodes()), blocks))
