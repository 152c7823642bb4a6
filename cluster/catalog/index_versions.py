"""The index version that belongs to a corpus position and settings, known before it is built.

built     hash(corpus content, parameters, shards, embedder, chunks, partitioning)
derived   hash(the built version, the corpus's tombstones and watermark): the same files, fewer
          documents, or the same documents as of a later position of the logs
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pydantic import Field

from cluster.artifacts.files import Sha256
from cluster.catalog.catalog import Catalog
from cluster.catalog.corpus_settings import ChunkSettings, CorpusSettings
from cluster.catalog.manifests import CorpusManifest, IndexManifest, ManifestRef, ModelManifest
from cluster.errors import NotFound
from cluster.records import Record, is_none
from cluster.shards.index_parameters import (
    TARGET_RECALL,
    AutoIndex,
    IndexParameters,
    NamedIndex,
)

_BUILD_FORMAT = 6
"""Raised whenever the same input is to be built into other bytes."""


class _BuildKey(Record):
    """Everything that determines an index version."""

    format: int
    corpus: CorpusManifest
    parameters: IndexParameters | AutoIndex
    """Parameters as asked for: those that a build measures differ from time to time."""
    shards: int
    embedder_fingerprint: str | None
    chunks: ChunkSettings | None = Field(default=None, exclude_if=lambda value: value is None)
    """Rules by which texts are cut; None for a corpus that brings its vectors."""


class _PartitionedBuildKey(Record):
    """Apart from the other, so that indexes without partitions keep their versions."""

    build: _BuildKey
    partition_by: str


class _EffortBuildKey(Record):
    """Apart from the others, so that indexes with the usual settings keep their versions from
    before builds measured the effort: those of `target_recall` 0.95, and those of an effort that is
    given and not the usual one of that time.
    """

    build: _BuildKey | _PartitionedBuildKey
    target_recall: float | None
    """None where the effort is given."""


class _DerivedKey(Record):
    base: str
    tombstones: Sha256 | None = Field(default=None, exclude_if=is_none)
    watermark: dict[str, int] = Field(default={}, exclude_if=lambda value: not value)


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """Everything that determines what a build makes of a corpus."""

    corpus: CorpusManifest
    """The position that is built."""
    settings: CorpusSettings
    embedder: ModelManifest | None
    """None for a corpus that brings its vectors."""

    @property
    def version(self) -> str:
        """The version of the index that is built from all documents of the corpus."""
        settings, embedder, index = self.settings, self.embedder, self.settings.index
        parameters: IndexParameters | AutoIndex
        if isinstance(index, NamedIndex):
            parameters = index.parameters.model_copy(update={"target_recall": None})
        else:
            parameters = index
        key: _BuildKey | _PartitionedBuildKey = _BuildKey(
            format=_BUILD_FORMAT,
            corpus=self.corpus.content(),
            parameters=parameters,
            shards=settings.shards,
            embedder_fingerprint=self.embedder_fingerprint,
            chunks=None if embedder is None else settings.chunks,
        )
        if settings.partition_by is not None:
            key = _PartitionedBuildKey(build=key, partition_by=settings.partition_by)
        if isinstance(index, NamedIndex) and not _had_a_version(index):
            target_recall = index.target_recall if index.is_tuned else None
            return _EffortBuildKey(build=key, target_recall=target_recall).digest()[:16]
        return key.digest()[:16]

    @property
    def embedder_fingerprint(self) -> str | None:
        return None if self.embedder is None else self.embedder.fingerprint

    @property
    def dimension(self) -> int:
        """Numbers in a vector of the index."""
        embedder = self.embedder
        dimension = self.corpus.vector_dimension if embedder is None else embedder.dimension
        assert dimension is not None
        return dimension


def _had_a_version(index: NamedIndex) -> bool:
    """True for what could be asked for before builds measured the effort, but for an effort that is
    given and is that which others had without asking.
    """
    if index.is_tuned:
        return index.target_recall == TARGET_RECALL
    usual = index.model_copy(update={"ef_search": None, "nprobe": None, "rescore": None})
    given = usual.model_copy(update={"ef_search": 128, "nprobe": 16, "rescore": 4})
    return not usual.is_tuned or index.parameters != given.parameters


def derived_version(base: IndexManifest, corpus: CorpusManifest) -> str:
    """The version of the files of `base`, which may be derived itself, with the tombstones and the
    watermark of the corpus.
    """
    tombstones = None if corpus.tombstones is None else corpus.tombstones.sha256
    return _DerivedKey(
        base=base.base or base.version,
        tombstones=tombstones,
        watermark=corpus.watermark.as_dict(),
    ).digest()[:16]


def derived_index(index: IndexManifest, corpus: CorpusManifest) -> IndexManifest:
    """The files of an index, which may be derived itself, as a version of this corpus position."""
    return index.model_copy(
        update={
            "version": derived_version(index, corpus),
            "base": index.base or index.version,
            "corpus_position": corpus.position,
            "watermark": corpus.watermark,
            "held": corpus.held,
        }
    )


def at_watermark(index: IndexManifest, corpus: CorpusManifest) -> IndexManifest:
    """The index of a corpus that has the same documents at another watermark: the same files under
    a version of their own, so that whoever serves it reads the logs from the right place.
    """
    return index if index.watermark == corpus.watermark else derived_index(index, corpus)


def bases_of(catalog: Catalog, plan: BuildPlan) -> Iterator[tuple[IndexManifest, CorpusManifest]]:
    """Index versions built as planned from what the corpus's parts held at some position, and that
    position: latest first. The corpus may have fewer documents than they, or others deleted.
    """
    content = _without_tombstones(plan.corpus)
    built = (manifest for manifest, _ in catalog.list_indexes(plan.corpus.corpus))
    for index in sorted(built, key=lambda index: index.corpus_position, reverse=True):
        if index.base is not None:
            continue
        position = _position(catalog, index)
        if (
            position is not None
            and _without_tombstones(position) == content
            and replace(plan, corpus=position).version == index.version
        ):
            yield index, position


def index_as_planned(catalog: Catalog, plan: BuildPlan) -> tuple[IndexManifest, ManifestRef] | None:
    """The index version that this build gives, however old it is; None when it was not built.

    Where there is none of the corpus's watermark, one of another may be given.
    """
    corpus = plan.corpus
    built = catalog.find_index(corpus.corpus, plan.version)
    bases: Iterable[IndexManifest] = ()
    if built is None and corpus.tombstones is not None:
        bases = (base for base, _ in bases_of(catalog, plan))
    elif built is not None and built[0].watermark != corpus.watermark:
        bases = built[:1]
    versions = (derived_version(base, corpus) for base in bases)
    derived = (catalog.find_index(corpus.corpus, version) for version in versions)
    return next((index for index in derived if index is not None), built)


def has_settings(
    catalog: Catalog,
    index: IndexManifest,
    settings: CorpusSettings,
    embedder: ModelManifest | None,
) -> bool:
    """True when the index was built with these settings, from any position of its corpus."""
    if index.base is not None:
        found = catalog.find_index(index.corpus, index.base)
        return found is not None and has_settings(catalog, found[0], settings, embedder)
    position = _position(catalog, index)
    return position is not None and BuildPlan(position, settings, embedder).version == index.version


def newest_index(catalog: Catalog, corpus: str) -> tuple[IndexManifest, ManifestRef] | None:
    """The index version that was built from the latest documents of a corpus, by whatever settings;
    None when none was built.

    A corpus may be back at what it was: then the version is that of the earlier position.
    """
    latest = catalog.latest_corpus(corpus)
    if latest is None:
        return None

    def order(entry: tuple[IndexManifest, ManifestRef]) -> tuple[bool, int, int]:
        index, _ = entry
        is_latest = is_index_of(index, latest, catalog)
        return is_latest, index.corpus_position, index.built_at_ms

    return max(catalog.list_indexes(corpus), key=order, default=None)


def is_index_of(index: IndexManifest, corpus: CorpusManifest, catalog: Catalog) -> bool:
    """True when the index has exactly the documents that the corpus has at this position."""
    if index.corpus_position == corpus.position:
        return True
    position = _position(catalog, index)
    return position is not None and position.content() == corpus.content()


def _position(catalog: Catalog, index: IndexManifest) -> CorpusManifest | None:
    """The corpus as it was when the index was built; None if that position is gone."""
    try:
        return catalog.corpus_at(index.corpus, index.corpus_position)
    except NotFound:
        return None


def _without_tombstones(corpus: CorpusManifest) -> CorpusManifest:
    return corpus.content().model_copy(
        update={"tombstones": None, "num_documents": 0, "num_passages": 0}
    )
