"""From an index version to one without documents that were deleted since: the same files, and
tombstones beside them. Nothing is embedded and nothing is built.

    built index + deleted ids -> one task for each shard that may have some -> tombstones, recall
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import ray

from actors.builds.recall import RecallSample
from actors.runtime.process_logs import logging_function
from actors.shards.documents import DOCUMENTS_FILE, ShardDocuments
from actors.shards.faiss_index import one_thread
from actors.shards.index import ShardIndex
from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.catalog import Catalog, Published
from cluster.catalog.index_versions import BuildPlan, bases_of, derived_index
from cluster.catalog.manifests import (
    TOMBSTONES_FILE,
    CorpusManifest,
    IndexManifest,
    ShardArtifact,
)
from cluster.clock import SYSTEM_CLOCK
from cluster.documents.tombstones import store_tombstones, stored_tombstones
from cluster.errors import NotFound
from cluster.shards.placement import shard_of
from cluster.shards.recall import HELD_OUT

DELETED_SHARE_MAX = 0.5
"""Share of a shard's rows that may be deleted; beyond it, walking over deleted rows costs more than
a build.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardWithout:
    """A shard without some of its documents."""

    artifact: ShardArtifact
    num_documents: int
    """Deleted ones."""
    num_live: int
    """Rows that count."""


def index_without_deleted(
    catalog: Catalog, cache: ArtifactCache, plan: BuildPlan
) -> Published[IndexManifest] | None:
    """Makes the index that is planned from one that was built with the same settings and differs by
    deleted documents alone.

    None when there is no such index, or when more than half of the rows of a shard are deleted.
    Needs a driver that has joined a Ray cluster. Failures are those of the store, and Corrupt.
    """
    corpus = plan.corpus
    if corpus.tombstones is None:
        return None
    deleted = stored_tombstones(cache.artifacts, corpus.tombstones)
    for base, position in bases_of(catalog, plan):
        try:
            deleted_before = stored_tombstones(cache.artifacts, position.tombstones)
        except NotFound:
            # Only the latest position's are sure to be kept.
            continue
        if not deleted_before <= deleted:
            # It lacks documents that have come back.
            continue
        shards = _shards_without(cache, base, deleted - deleted_before)
        if any(s.num_live < s.artifact.num_rows * (1 - DELETED_SHARE_MAX) for s in shards):
            # Nor would an older index do, of which more would be deleted.
            return None
        return catalog.publish_index(_derived(base, corpus, shards))
    return None


def shard_without(
    cache: ArtifactCache,
    base: IndexManifest,
    artifact: ShardArtifact,
    documents: Collection[str],
) -> ShardWithout:
    """The shard without those of the documents that it has; stores its tombstones, and measures
    what a search finds among the rest.
    """
    try:
        return _shard_without(cache, base, artifact, documents)
    finally:
        # The worker process goes on to other shards, and would keep the files of all of them.
        cache.unpin(artifact.built_files)


def _shard_without(
    cache: ArtifactCache,
    base: IndexManifest,
    artifact: ShardArtifact,
    documents: Collection[str],
) -> ShardWithout:
    folder = cache.folder_for(artifact.built_files)
    opened = ShardDocuments.open(folder / DOCUMENTS_FILE, base.dimension)
    rows = opened.rows_of(documents)
    gone = opened.documents_at(np.flatnonzero(rows))
    tombstones = store_tombstones(cache.artifacts, gone, TOMBSTONES_FILE)
    if tombstones is None:
        return ShardWithout(artifact=artifact, num_documents=0, num_live=artifact.num_rows)
    parameters = base.parameters_of(artifact)
    index = ShardIndex.open(folder, parameters, base.dimension).without_documents(gone)
    with one_thread():
        recall = RecallSample.of_rows(index, opened.vectors, parameters).recall(index)
    # What held-out queries found in the build is kept, not measured again: a search looks further
    # by the share of deleted rows, and so looks at as many of the others as before.
    held_out = tuple(part for part in artifact.strata if part.queries == HELD_OUT)
    update = {
        "files": (*artifact.built_files, tombstones),
        "recall_at_10": artifact.recall_at_10 if held_out else recall.recall_at_10,
        "strata": recall.strata + held_out,
    }
    return ShardWithout(
        artifact=artifact.model_copy(update=update),
        num_documents=len(gone),
        num_live=index.num_live,
    )


def _shards_without(
    cache: ArtifactCache, base: IndexManifest, deleted: Collection[str]
) -> list[ShardWithout]:
    task = ray.remote(logging_function(shard_without))
    by_shard = _by_shard(base, deleted)
    tasks = {
        artifact.shard: task.remote(cache, base, artifact, by_shard[artifact.shard])
        for artifact in base.shards
        if by_shard.get(artifact.shard)
    }
    found = dict(zip(tasks, ray.get(list(tasks.values())), strict=True))
    return [
        found.get(artifact.shard)
        or ShardWithout(artifact=artifact, num_documents=0, num_live=artifact.num_rows)
        for artifact in base.shards
    ]


def _by_shard(base: IndexManifest, deleted: Iterable[str]) -> dict[int, list[str]]:
    """The documents that each shard may have."""
    if base.partition_by is not None:
        # Only the documents themselves say in which partition they were.
        everywhere = list(deleted)
        return {artifact.shard: everywhere for artifact in base.shards}
    by_shard: dict[int, list[str]] = {}
    for document in deleted:
        by_shard.setdefault(shard_of(document, len(base.shards)), []).append(document)
    return by_shard


def _derived(
    base: IndexManifest, corpus: CorpusManifest, shards: Collection[ShardWithout]
) -> IndexManifest:
    num_live = sum(shard.num_live for shard in shards)
    recall = sum(shard.artifact.recall_at_10 * shard.num_live for shard in shards)
    return derived_index(base, corpus).model_copy(
        update={
            "num_documents": base.num_documents - sum(shard.num_documents for shard in shards),
            "num_passages": num_live,
            "shards": tuple(shard.artifact for shard in shards),
            "recall_at_10": recall / max(1, num_live),
            "recall_at_10_least": min(shard.artifact.recall.least for shard in shards),
            "built_at_ms": SYSTEM_CLOCK.wall_ms(),
        }
    )
