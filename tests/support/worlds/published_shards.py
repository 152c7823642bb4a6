"""A small index whose shards are built and published as those of every other index are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from actors.builds.shard import ShardPlan, build_shard
from actors.query.local_shards import LocalShards
from actors.shards.index import ShardIndex
from cluster.arrays import Int64Array
from cluster.artifacts.artifacts import Artifacts
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import IndexManifest, ShardArtifact
from cluster.errors import Corrupt
from cluster.query.search import Passages, ShardHits, ShardQuery
from cluster.serving.view import CorpusView
from cluster.shards.index_parameters import IndexKind, IndexParameters
from cluster.store.object_store import ObjectStore
from cluster.vectors.metric import Metric
from tests.support.values.manifests import index_manifest

NUM_ROWS, DIMENSION, SHARDS = 60, 8, 2
PARAMETERS = IndexParameters(kind=IndexKind.FLAT, metric=Metric.INNER_PRODUCT)
VECTORS = np.random.default_rng(5).standard_normal((NUM_ROWS, DIMENSION)).astype(np.float32)


def publish(store: ObjectStore, folder: Path, version: str) -> IndexManifest:
    artifacts = []
    for shard in range(SHARDS):
        rows = np.arange(shard, NUM_ROWS, SHARDS)
        ids = pa.array([f"d{row:03}" for row in rows])
        place = folder / f"{version}-{shard}"
        place.mkdir()
        table = pa.table({"id": ids, "document": ids, "text": ids})
        built = build_shard(table, VECTORS[rows], ShardPlan(PARAMETERS), place)
        files = Artifacts(store).put_folder(place)
        artifacts.append(
            ShardArtifact(shard=shard, num_rows=built.num_rows, files=files, recall_at_10=1.0)
        )
    manifest = index_manifest(
        corpus="words",
        version=version,
        dimension=DIMENSION,
        parameters=PARAMETERS,
        num_documents=NUM_ROWS,
        num_passages=NUM_ROWS,
        shards=tuple(artifacts),
    )
    Catalog(store).publish_index(manifest)
    return manifest


def query(version: str, row: int) -> ShardQuery:
    vectors = VECTORS[row : row + 1]
    return ShardQuery(corpus="words", index_version=version, vectors=vectors, top_k=1)


@dataclass
class Damage:
    """Damage of the files of all indexes that it opens, while `found` is set."""

    found: bool = True

    def open(self, folder: Path, parameters: IndexParameters, dimension: int) -> ShardIndex:
        check = self._check

        class Damageable(ShardIndex):
            def search(self, query: ShardQuery) -> ShardHits:
                check()
                return super().search(query)

            def passages(
                self, rows: Sequence[int] | Int64Array, fields: tuple[str, ...] | None
            ) -> Passages:
                check()
                return super().passages(rows, fields)

        return Damageable.open(folder, parameters, dimension)

    def _check(self) -> None:
        if self.found:
            raise Corrupt("a stored vector is not finite")


def openings() -> list[asyncio.Task[object]]:
    """The tasks that open shards now."""
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("open ")]


async def until_open(local: LocalShards, corpus: CorpusView, shard: int) -> None:
    await asyncio.gather(*openings())
    assert local.replica(corpus, shard) is not None, f"shard {shard} was not opened"
