"""Vectors that a build takes from where they are, instead of embedding their texts anew.

    the build before    passages with the same id and the same text
    the logs            passages of live documents that were embedded when they were written

The embedder is the same, and a vector depends on nothing but its text: so the vector is the same,
bit for bit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress

import numpy as np
import pyarrow as pa
import ray

from actors.builds.rows import Sharder
from actors.shards.documents import DOCUMENTS_FILE, ShardDocuments
from cluster.arrays import Float32Array
from cluster.artifacts.cache import ArtifactCache
from cluster.artifacts.files import ArtifactFile
from cluster.catalog.catalog import Catalog
from cluster.catalog.corpus_settings import LongPassages
from cluster.catalog.index_versions import BuildPlan, has_settings
from cluster.catalog.manifests import IndexManifest, ModelManifest
from cluster.documents.content import PartDocuments
from cluster.documents.passages import current_rows
from cluster.errors import RaygionError
from cluster.logs.events import EventLog
from cluster.mutations.mutation_log import MutationLog
from cluster.mutations.watermark import Watermark
from cluster.vectors.checks import prepared

events = EventLog(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownVectors:
    """Where the vectors of a build are that need not be made."""

    index: IndexManifest | None = None
    """The build before; None where there is none."""
    replaced: Mapping[int, frozenset[str]] = field(default_factory=dict)
    """By the ordinal of a part the documents that a later part replaces, as it did already in the
    build before. Their rows are not indexed, so it does not matter which vectors they have.
    """
    live_texts: tuple[str, ...] = ()
    """Passages of live documents."""
    live_vectors: Float32Array | None = None
    """float32 [len(live_texts), d]; None where there are none."""


@dataclass(frozen=True, slots=True)
class EarlierVectors:
    """Vectors that are there, as a value that goes to the processes of a build."""

    cache: ArtifactCache
    known: ray.ObjectRef[KnownVectors]

    def opened(self) -> OpenedVectors:
        return OpenedVectors(self.cache, ray.get(self.known))


class OpenedVectors:
    """The vectors on this machine. Each shard of the build before is fetched when it is needed."""

    def __init__(self, cache: ArtifactCache, known: KnownVectors) -> None:
        self._cache = cache
        self._known = known
        self._live: dict[str, Float32Array] = {}
        if known.live_vectors is not None:
            self._live = dict(zip(known.live_texts, known.live_vectors, strict=True))
        self._shards: dict[int, ShardDocuments] = {}

    def find(self, passages: pa.Table) -> Mapping[int, Float32Array]:
        """The vectors, float32 [d], of those rows of a table of passages that have one.

        Raises what fetching and opening a shard does.
        """
        found: dict[int, Float32Array] = {}
        if self._known.index is not None:
            found |= self._built(self._known.index, passages)
        for row, text in enumerate(passages["text"].to_pylist()):
            if row not in found and (vector := self._live.get(str(text))) is not None:
                found[row] = vector
        return found

    def _built(self, index: IndexManifest, passages: pa.Table) -> dict[int, Float32Array]:
        shards = Sharder(len(index.shards), index.partition_by).add(passages)["shard"].to_pylist()
        ids, texts = passages["id"].to_pylist(), passages["text"].to_pylist()
        found: dict[int, Float32Array] = {}
        for row, (shard, id, text) in enumerate(zip(shards, ids, texts, strict=True)):
            documents = self._documents(index, int(str(shard)))
            known = documents.row_of(str(id))
            if known is None:
                continue
            is_same = documents.texts[known].as_py() == text and self._stays(documents, known)
            if is_same or self._is_replaced(passages, row):
                found[row] = documents.vectors[known]
        return found

    def _stays(self, documents: ShardDocuments, row: int) -> bool:
        """Whether the vector stays as it is when it is made ready for an index once more: an index
        may hold vectors made to length 1, and only then do they give the bytes that the embedder's
        own would give.
        """
        assert self._known.index is not None
        vector, metric = documents.vectors[row], self._known.index.parameters.metric
        return bool((prepared(vector[None], metric)[0] == vector).all())

    def _is_replaced(self, passages: pa.Table, row: int) -> bool:
        replaced = self._known.replaced.get(passages["part"][row].as_py(), frozenset())
        return passages["document"][row].as_py() in replaced

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
    known = KnownVectors()
    if index is not None:
        known = KnownVectors(index=index, replaced=_replaced(catalog, cache, plan, index))
    # Passages of several windows are another matter: what is written live is embedded as questions
    # are.
    if log is not None and plan.settings.chunks.long_passages is LongPassages.REFUSE:
        after = Watermark() if index is None else index.watermark
        texts, vectors = live_vectors(log, after, plan.embedder.version)
        known = replace(known, live_texts=texts, live_vectors=vectors)
    if known.index is None and known.live_vectors is None:
        return None
    return EarlierVectors(cache, ray.put(known))


def live_vectors(
    log: MutationLog, after: Watermark, embedder: str
) -> tuple[tuple[str, ...], Float32Array | None]:
    """The passages that the logs have after the watermark with vectors of this embedder, and these
    vectors, float32 [n, d]. A log that cannot be read further gives what it has.
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
    return tuple(texts), np.stack(vectors) if vectors else None


def replaced_documents(
    parts: Sequence[ArtifactFile], before: Collection[ArtifactFile], documents: PartDocuments
) -> dict[int, frozenset[str]]:
    """By the ordinal of a part the documents that a later one replaces, where both parts were there
    `before` and no other part has the document: then the build before had its later version, with
    passages of the same ids.
    """
    old = [ordinal for ordinal, part in enumerate(parts) if part in before]
    changed = {id for part in parts if part not in before for id in documents.of(part)}
    ids = [documents.of(parts[ordinal]) for ordinal in old]
    return {
        ordinal: frozenset(compress(of_part, ~mask)) - changed
        for ordinal, of_part, mask in zip(old, ids, current_rows(ids), strict=True)
    }


def _replaced(
    catalog: Catalog, cache: ArtifactCache, plan: BuildPlan, index: IndexManifest
) -> dict[int, frozenset[str]]:
    before = catalog.corpus_at(index.corpus, index.corpus_position)
    documents = PartDocuments(cache.artifacts)
    return replaced_documents(plan.corpus.parts, before.parts, documents)


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
