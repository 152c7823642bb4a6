"""The corpora of a store: what each has, what was built of it, and which releases use that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.artifacts.files import ArtifactFile
from cluster.catalog.catalog import Catalog
from cluster.catalog.index_versions import has_settings, is_index_of
from cluster.catalog.manifests import (
    CorpusManifest,
    IndexManifest,
    ManifestRef,
    ModelManifest,
    blobs_of,
)
from cluster.config import Settings
from cluster.metadata import ColumnType
from cluster.releases.entries import LogState
from cluster.shards.index_parameters import IndexKind
from cluster.shards.recall import RecallStratum
from cluster.vectors.metric import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardHole:
    """Queries for which a shard finds much less than on average."""

    shard: int
    stratum: RecallStratum


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexLine:
    """One index version of a corpus."""

    version: str
    position: int
    """Position of the corpus from which the index was built."""
    kind: IndexKind
    metric: Metric
    shards: int
    partition_by: str | None
    embedder: str | None
    """The embedder's version; None for a corpus that brings its own vectors."""
    num_documents: int
    num_passages: int
    recall_at_10: float
    recall_at_10_least: float | None
    """Recall in the stratum in which least is found; None for an index of an older version."""
    holes: tuple[ShardHole, ...]
    size_bytes: int
    built_at_ms: int
    has_latest_documents: bool
    has_present_settings: bool
    """Apart from the embedder, which the next `raygion build` finds out."""
    releases: tuple[int, ...]
    """Releases that regions keep loaded and that name the index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusLine:
    """One corpus, as of its latest position."""

    corpus: str
    position: int
    changed_at_ms: int
    num_documents: int
    documents_bytes: int
    size_bytes: int
    """Bytes of the documents and all index versions; shared blobs count once."""
    fields: Mapping[str, ColumnType]
    vector_dimension: int | None
    sources: tuple[str, ...]
    indexes: tuple[IndexLine, ...]
    """Built last first."""
    releases: tuple[int, ...]
    """Releases that regions keep loaded and that have the corpus."""


def corpus_lines(
    catalog: Catalog, settings: Settings, state: LogState, now_ms: int
) -> tuple[CorpusLine, ...]:
    """All corpora, by name, without those that were dropped."""
    latest = (catalog.latest_corpus(name) for name in catalog.list_corpora())
    found = (corpus for corpus in latest if corpus is not None and not corpus.is_dropped)
    return tuple(_line(catalog, settings, state, corpus, now_ms) for corpus in found)


def corpus_line(
    catalog: Catalog, settings: Settings, state: LogState, name: str, now_ms: int
) -> CorpusLine:
    """One corpus. Raises NotFound when there is none of that name."""
    return _line(catalog, settings, state, catalog.existing_corpus(name), now_ms)


def _line(
    catalog: Catalog, settings: Settings, state: LogState, corpus: CorpusManifest, now_ms: int
) -> CorpusLine:
    live = {
        number: ref
        for number in state.resident(now_ms)
        if (ref := state.proposals[number].release.contents.indexes.get(corpus.corpus))
    }
    built = [manifest for manifest, _ in catalog.list_indexes(corpus.corpus)]
    documents = blobs_of(corpus)
    files = [*documents, *(file for manifest in built for file in blobs_of(manifest))]
    return CorpusLine(
        corpus=corpus.corpus,
        position=corpus.position,
        changed_at_ms=corpus.created_at_ms,
        num_documents=corpus.num_documents,
        documents_bytes=_size_bytes(documents),
        size_bytes=_size_bytes(files),
        fields=corpus.metadata_schema,
        vector_dimension=corpus.vector_dimension,
        sources=corpus.sources,
        indexes=tuple(
            _index_line(catalog, settings, corpus, manifest, live)
            for manifest in sorted(built, key=lambda m: m.built_at_ms, reverse=True)
        ),
        releases=tuple(live),
    )


def _index_line(
    catalog: Catalog,
    settings: Settings,
    corpus: CorpusManifest,
    index: IndexManifest,
    live: Mapping[int, ManifestRef],
) -> IndexLine:
    embedder = _embedder_of(catalog, index)
    return IndexLine(
        version=index.version,
        position=index.corpus_position,
        kind=index.parameters.kind,
        metric=index.parameters.metric,
        shards=len(index.shards),
        partition_by=index.partition_by,
        embedder=None if embedder is None else embedder.version,
        num_documents=index.num_documents,
        num_passages=index.num_passages,
        recall_at_10=index.recall_at_10,
        recall_at_10_least=index.recall_at_10_least,
        holes=tuple(
            ShardHole(shard=shard.shard, stratum=stratum)
            for shard in index.shards
            for stratum in shard.recall.holes
        ),
        size_bytes=_size_bytes(blobs_of(index)),
        built_at_ms=index.built_at_ms,
        has_latest_documents=is_index_of(index, corpus, catalog),
        has_present_settings=has_settings(catalog, index, settings.corpus(index.corpus), embedder),
        releases=tuple(n for n, ref in live.items() if ref.version == index.version),
    )


def _embedder_of(catalog: Catalog, index: IndexManifest) -> ModelManifest | None:
    if index.embedder_fingerprint is None:
        return None
    found = catalog.find_model(index.embedder_fingerprint[:16])
    return None if found is None else found[0]


def _size_bytes(files: Iterable[ArtifactFile]) -> int:
    return sum({file.sha256: file.size_bytes for file in files}.values())
