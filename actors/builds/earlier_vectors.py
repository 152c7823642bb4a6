"""Vectors that a build takes from where they are, instead of embedding their texts anew.

    the build before    passages with the same id and the same text
    the logs            passages of live documents that were embedded when they were written

The embedder is the same, and a vector depends on nothing but its text: so the vector is the same,
bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray

from actors.builds.rows import Sharder
from actors.shards.documents import DOCUMENTS_FILE, ShardDocuments
from cluster.arrays import Float32Array
from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.catalog import Catalog
from cluster.catalog.corpus_settings import LongPassages
from cluster.catalog.index_versions import BuildPlan, has_settings
from cluster.catalog.manifests import IndexManifest, ModelManifest
from cluster.errors import RaygionError
from cluster.logs.events import EventLog
from cluster.mutations.mutation_log import MutationLog
from cluster.mutations.watermark import Watermark
from cluster.vectors.checks import prepared

events = EventLog(__name__)


@dataclass(frozen=True, slots=True)
class LiveVectors:
    """The vectors of passages of live documents."""

    texts: tuple[str, ...]
    vectors: Float32Array
    """float32 [len(texts), d]"""


@dataclass(frozen=True, slots=True)
class EarlierVectors:
    """Vectors that are there, as a value that goes to the processes of a build."""

    cache: ArtifactCache
    index: IndexManifest | None
    """The build before; None where there is none."""
    live: ray.ObjectRef[LiveVectors] | None = None

    def opened(self) -> OpenedVectors:
        live = None if self.live is None else ray.get(self.live)
        return OpenedVectors(self.cache, self.index, live)


class OpenedVectors:
    """The vectors on this machine. Each shard of the build before is fetched when it is needed."""

    def __init__(
        self, cache: ArtifactCache, index: IndexManifest | None, live: LiveVectors | None
    ) -> None:
        self._cache = cache
        self._index = index
        self._live: dict[str, Float32Array] = {}
        if live is not None:
            self._live = dict(zip(live.texts, live.vectors, strict=True))
        self._shards: dict[int, ShardDocuments] = {}

    def find(self, passages: pa.Table) -> Mapping[int, Float32Array]:
        """The vectors, float32 [d], of those rows of a table of passages that have one.

        Raises what fetching and opening a shard does.
        """
        found: dict[int, Float32Array] = {}
        if self._index is not None:
            found |= self._built(self._index, passages)
        for row, text in enumerate(passages["text"].to_pylist()):
            if row not in found and (vector := self._live.get(str(text))) is not None:
                found[row] = vector
        return found

    def _built(self, index: IndexManifest, passages: pa.Table) -> dict[int, Float32Array]:
        shards = Sharder(len(index.shards), index.partition_by).add(passages)["shard"].to_pylist()
        ids, texts = passages["id"].to_pylist(), passages["text"].to_pylist()
        metric = index.parameters.metric
        found: dict[int, Float32Array] = {}
        for row, (shard, id, text) in enumerate(zip(shards, ids, texts, strict=True)):
            documents = self._documents(index, int(str(shard)))
            known = documents.row_of(str(id))
            if known is not None and documents.texts[known].as_py() == text:
                vector = documents.vectors[known]
                # An index may hold vectors made to length 1. Only one that stays as it is when
                # that is done again gives the bytes that the embedder's own would give.
                if (prepared(vector[None], metric)[0] == vector).all():
                    found[row] = vector
        return found

    def _documents(self, index: IndexManifest, shard: int) -> ShardDocuments:
        if shard not in self._shards:
            (artifact,) = (a for a in index.shards if a.shard == shard)
            folder = self._cache.folder_for(artifact.built_files)
            path = folder / DOCUMENTS_FILE
            self._shards[shard] = ShardDocuments.open(path, index.dimension)
        return self._shards[shard]


def earlier_vectors(
    catalog: Catalog, cache: ArtifactCache, plan: BuildPlan, log: MutationLog | None
) -> EarlierVectors | None:
    """Those that the embedder of the plan has made; None where there are none.

    Of builds the latest one is taken that had the settings of the plan; of the logs what follows
    it. Needs a driver that has joined a Ray cluster where the logs have some. Raises what the
    store does.
    """
    if plan.embedder is None:
        return None
    index = _build_before(catalog, plan, plan.embedder)
    after = Watermark() if index is None else index.watermark
    live = None
    # Passages of several windows are another matter: what is written live is embedded as questions
    # are.
    if log is not None and plan.settings.chunks.long_passages is LongPassages.REFUSE:
        live = live_vectors(log, after, plan.embedder.version)
    if index is None and live is None:
        return None
    return EarlierVectors(cache, index, None if live is None else ray.put(live))


def live_vectors(log: MutationLog, after: Watermark, embedder: str) -> LiveVectors | None:
    """The vectors of this embedder that the logs have after the watermark; None where they have
    none. A log that cannot be read further gives what it has.
    """
    texts: list[str] = []
    vectors: list[Float32Array] = []
    while batches := log.read_after(after).batches:
        for batch in batches:
            after = after.advanced(batch.region, batch.last)
            for mutation in batch.mutations:
                content = mutation.content
                if content is None or content.vectors is None or content.embedder != embedder:
                    continue
                texts.extend(content.passages)
                vectors.extend(content.vectors)
    return LiveVectors(tuple(texts), np.stack(vectors)) if vectors else None


def _build_before(
    catalog: Catalog, plan: BuildPlan, embedder: ModelManifest
) -> IndexManifest | None:
    built = [manifest for manifest, _ in catalog.list_indexes(plan.corpus.corpus)]
    for index in sorted(built, key=lambda index: index.corpus_position, reverse=True):
        if has_settings(catalog, index, plan.settings, embedder):
            try:
                catalog.claim_index(index)
            except RaygionError as error:
                events.info(
                    "builds.embeds_anew",
                    "index {version} cannot give its vectors: {error}",
                    version=index.version,
                    error=error,
                )
                return None
            return index
    return None
