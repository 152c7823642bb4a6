"""Vectors that a build takes from the build before it, instead of embedding their texts anew.

A passage is the same where its id and its text are; then its vector is the same, bit for bit, since
the embedder is, and a vector depends on nothing but its text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from actors.builds.rows import Sharder
from actors.shards.documents import DOCUMENTS_FILE, ShardDocuments
from cluster.arrays import Float32Array
from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.catalog import Catalog
from cluster.catalog.index_versions import BuildPlan, has_settings
from cluster.catalog.manifests import IndexManifest
from cluster.errors import RaygionError
from cluster.logs.events import EventLog
from cluster.vectors.checks import prepared

log = EventLog(__name__)


@dataclass(frozen=True, slots=True)
class EarlierVectors:
    """The vectors of an index version, as a value that goes to the processes of a build."""

    cache: ArtifactCache
    index: IndexManifest

    def opened(self) -> OpenedVectors:
        return OpenedVectors(self.cache, self.index)


class OpenedVectors:
    """The vectors of an index version on this machine. Each shard is fetched when it is needed."""

    def __init__(self, cache: ArtifactCache, index: IndexManifest) -> None:
        self._cache = cache
        self._index = index
        self._sharder = Sharder(len(index.shards), index.partition_by)
        self._shards: dict[int, ShardDocuments] = {}

    def find(self, passages: pa.Table) -> Mapping[int, Float32Array]:
        """The vectors, float32 [d], of those rows of a table of passages that the index has.

        Raises what fetching and opening a shard does.
        """
        shards = self._sharder.add(passages)["shard"].to_pylist()
        ids, texts = passages["id"].to_pylist(), passages["text"].to_pylist()
        found: dict[int, Float32Array] = {}
        for row, (shard, id, text) in enumerate(zip(shards, ids, texts, strict=True)):
            documents = self._documents(int(str(shard)))
            known = documents.row_of(str(id))
            if known is not None and documents.texts[known].as_py() == text:
                vector = documents.vectors[known]
                # An index may hold vectors made to length 1. Only one that stays as it is when
                # that is done again gives the bytes that the embedder's own would give.
                metric = self._index.parameters.metric
                if (prepared(vector[None], metric)[0] == vector).all():
                    found[row] = vector
        return found

    def _documents(self, shard: int) -> ShardDocuments:
        if shard not in self._shards:
            (artifact,) = (a for a in self._index.shards if a.shard == shard)
            folder = self._cache.folder_for(artifact.built_files)
            path = folder / DOCUMENTS_FILE
            self._shards[shard] = ShardDocuments.open(path, self._index.dimension)
        return self._shards[shard]


def earlier_vectors(
    catalog: Catalog, cache: ArtifactCache, plan: BuildPlan
) -> EarlierVectors | None:
    """Those of the latest index version that was built with the settings and the embedder of the
    plan; None where there is none, or it is being collected.
    """
    if plan.embedder is None:
        return None
    built = [manifest for manifest, _ in catalog.list_indexes(plan.corpus.corpus)]
    for index in sorted(built, key=lambda index: index.corpus_position, reverse=True):
        if has_settings(catalog, index, plan.settings, plan.embedder):
            try:
                catalog.claim_index(index)
            except RaygionError as error:
                log.info(
                    "builds.embeds_anew",
                    "index {version} cannot give its vectors: {error}",
                    version=index.version,
                    error=error,
                )
                return None
            return EarlierVectors(cache, index)
    return None
