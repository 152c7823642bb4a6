"""The passages of a corpus on their way into shards: read from its parts, given to shards, and
those left out that do not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data.grouped_data import GroupedData

from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.files import ArtifactFile
from cluster.catalog.index_versions import BuildPlan
from cluster.catalog.manifests import CorpusManifest
from cluster.documents.passages import (
    META_PREFIX,
    current_passages,
    read_part,
    undeleted_passages,
    vector_column,
)
from cluster.documents.tombstones import stored_tombstones
from cluster.shards.partitions import shard_of_partition
from cluster.shards.placement import shard_of


@dataclass(frozen=True, slots=True)
class PartReader:
    """Reads parts of a corpus from the store, verified, with their ordinal in a column `part`, and
    without the documents that were deleted.
    """

    artifacts: Artifacts
    corpus: CorpusManifest

    def read(self, batch: Any) -> pa.Table:
        """batch: a table with the columns `part` (ordinal) and `file` (bytes of an ArtifactFile)"""
        deleted = stored_tombstones(self.artifacts, self.corpus.tombstones)
        tables = []
        rows: pa.Table = batch
        for row in rows.to_pylist():
            file = ArtifactFile.from_bytes(row["file"], source="a corpus part")
            table = read_part(
                self.artifacts.read_bytes(file),
                self.corpus.metadata_schema,
                self.corpus.vector_dimension,
                source=file.path,
            )
            if deleted:
                table = undeleted_passages(table, deleted)
            ordinal = pa.array(np.full(len(table), row["part"], dtype=np.int64))
            tables.append(table.append_column("part", ordinal))
        return pa.concat_tables(tables)


def part_rows(corpus: CorpusManifest) -> list[dict[str, Any]]:
    """The rows for `PartReader.read`, one for each part."""
    return [{"part": i, "file": part.to_bytes()} for i, part in enumerate(corpus.parts)]


def in_shards(passages: ray.data.Dataset, sharder: Sharder) -> GroupedData:
    sharded = passages.map_batches(sharder.add, batch_format="pyarrow", zero_copy_batch=True)
    # Ray Data would shuffle into 200 partitions, most of them empty, with a task for each.
    return sharded.groupby("shard", num_partitions=sharder.num_shards)


@dataclass(frozen=True, slots=True)
class Sharder:
    """Adds the column `shard`: all passages of a document go to the same one, and all documents of
    a partition. Those without a partition go by their ids.
    """

    num_shards: int
    partition_by: str | None = None

    def add(self, batch: Any) -> pa.Table:
        passages: pa.Table = batch
        documents: list[Any] = passages["document"].to_pylist()
        keys: list[Any] = [None] * len(documents)
        if self.partition_by is not None:
            keys = passages[META_PREFIX + self.partition_by].to_pylist()
        shards = [
            shard_of(document, self.num_shards)
            if key is None
            else shard_of_partition(key, self.num_shards)
            for document, key in zip(documents, keys, strict=True)
        ]
        return passages.append_column("shard", pa.array(shards, type=pa.int64()))


def no_rows(artifacts: Artifacts, plan: BuildPlan) -> pa.Table:
    """The columns of a shard's rows, for a shard that has none."""
    first = pa.Table.from_pylist(part_rows(plan.corpus)[:1])
    rows = Sharder(1).add(PartReader(artifacts, plan.corpus).read(first)).slice(0, 0)
    if plan.embedder is None:
        return rows
    no_vectors = np.empty((0, plan.dimension), dtype=np.float32)
    return rows.append_column("vector", vector_column(no_vectors))


def current(group: Any) -> pa.Table:
    """The rows of a shard that count, without the column `shard`."""
    rows: pa.Table = group
    return latest_of_each_document(rows).drop_columns(["shard"])


def latest_of_each_document(rows: pa.Table) -> pa.Table:
    """A later part's document replaces the earlier one whole, however many passages each has."""
    ordinals = rows["part"].to_numpy()
    parts = [rows.filter(pa.array(ordinals == part)) for part in np.unique(ordinals)]
    return pa.concat_tables(current_passages(parts)) if parts else rows
