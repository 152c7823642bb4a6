"""Which index version belongs to a corpus position and settings, before it is built.

built     hash(corpus content, parameters, shards, embedder, partitioning)
derived   hash(the built version, the corpus's tombstones): the same files, fewer documents
"""

from __future__ import annotations

from collections.abc import Iterator

from cluster.catalog import Catalog
from cluster.corpus_settings import CorpusSettings
from cluster.errors import NotFound
from cluster.manifests import (
    AutoIndex,
    CorpusManifest,
    IndexManifest,
    IndexParameters,
    ManifestRef,
    ModelManifest,
    Sha256,
)
from cluster.records import Record

_BUILD_FORMAT = 4
"""Raised whenever the same input is to be built into other bytes."""


class _BuildKey(Record):
    """Everything that determines an index version."""

    format: int
    corpus: CorpusManifest
    parameters: IndexParameters | AutoIndex
    """As asked: what was measured when it was built differs from time to time."""
    shards: int
    embedder_fingerprint: str | None


class _PartitionedBuildKey(Record):
    """Apart from the other, so that indexes without partitions keep their versions."""

    build: _BuildKey
    partition_by: str


class _DerivedKey(Record):
    base: str
    tombstones: Sha256


def built_version(
    corpus: CorpusManifest, settings: CorpusSettings, embedder: ModelManifest | None
) -> str:
    """The version of an index that is built from all documents of the corpus."""
    key = _BuildKey(
        format=_BUILD_FORMAT,
        corpus=corpus.content(),
        parameters=settings.index,
        shards=settings.shards,
        embedder_fingerprint=None if embedder is None else embedder.fingerprint,
    )
    if settings.partition_by is None:
        return key.digest()[:16]
    return _PartitionedBuildKey(build=key, partition_by=settings.partition_by).digest()[:16]


def derived_version(base: IndexManifest, corpus: CorpusManifest) -> str:
    """The version of the files of `base` with the corpus's tombstones, of which it must have
    some.
    """
    assert corpus.tombstones is not None
    return _DerivedKey(base=base.version, tombstones=corpus.tombstones.sha256).digest()[:16]


def bases_of(
    catalog: Catalog,
    corpus: CorpusManifest,
    settings: CorpusSettings,
    embedder: ModelManifest | None,
) -> Iterator[tuple[IndexManifest, CorpusManifest]]:
    """Index versions built with these settings from what the corpus's parts held at some position,
    and that position: latest first. The corpus may have fewer documents than they, or others
    deleted.
    """
    built = (manifest for manifest, _ in catalog.list_indexes(corpus.corpus))
    for index in sorted(built, key=lambda index: index.corpus_position, reverse=True):
        if index.base is not None:
            continue
        position = _position(catalog, index)
        if (
            position is not None
            and _without_tombstones(position) == _without_tombstones(corpus)
            and built_version(position, settings, embedder) == index.version
        ):
            yield index, position


def newest_index(catalog: Catalog, corpus: str) -> tuple[IndexManifest, ManifestRef] | None:
    """The index version of the latest position of a corpus that was built; None when none was.

    A corpus may be back at what it was: then the version is that of the earlier position.
    """
    built = catalog.list_indexes(corpus)
    latest = catalog.latest_corpus(corpus)
    if not built or latest is None:
        return None
    by_age = sorted(built, key=_by_age, reverse=True)
    return next((entry for entry in by_age if is_index_of(entry[0], latest, catalog)), by_age[0])


def is_index_of(index: IndexManifest, corpus: CorpusManifest, catalog: Catalog) -> bool:
    """Whether the index has what the corpus has at this position, no more and no less."""
    if index.corpus_position == corpus.position:
        return True
    position = _position(catalog, index)
    return position is not None and position.content() == corpus.content()


def _position(catalog: Catalog, index: IndexManifest) -> CorpusManifest | None:
    """What the corpus was when the index was built; None where that is gone from the store."""
    try:
        return catalog.corpus_at(index.corpus, index.corpus_position)
    except NotFound:
        return None


def _by_age(entry: tuple[IndexManifest, ManifestRef]) -> tuple[int, int]:
    return entry[0].corpus_position, entry[0].built_at_ms


def _without_tombstones(corpus: CorpusManifest) -> CorpusManifest:
    return corpus.content().model_copy(
        update={"tombstones": None, "num_documents": 0, "num_passages": 0}
    )
