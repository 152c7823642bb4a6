"""Documents into a corpus: reads the sources and appends one corpus position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from actors.documents.reader import (
    GroupRead,
    ReadOptions,
    StoredPart,
    check_not_twice,
    check_same_kind,
    read_parts,
    with_common_types,
)
from actors.documents.source_files import SourceListing
from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.files import ArtifactFile
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import SOURCES_MAX, CorpusManifest
from cluster.clock import SYSTEM_CLOCK, Clock
from cluster.documents.compaction import compacted
from cluster.documents.content import (
    CorpusContent,
    PartDocuments,
    document_changes,
    joined_types,
    with_parts,
)
from cluster.documents.declared_types import DeclaredTypes, check_declared_types
from cluster.documents.documents import Schema, check_corpus_name, column_types, merge_schemas
from cluster.documents.ingest_report import DocumentChanges, IngestReport, LeftOut, ReasonCounts
from cluster.errors import InvalidArgument
from cluster.metadata import ColumnType
from cluster.mutations.watermark import HeldMutations, Watermark
from cluster.progress import UNSEEN, Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    manifest: CorpusManifest
    """The new position, or the latest one where nothing changed."""
    report: IngestReport


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """The content of the sources, in their order."""

    parts: tuple[StoredPart, ...]
    schema: Schema
    dimension: int | None
    num_files: int
    """Number of files with documents."""
    files_left_out: ReasonCounts
    documents_left_out: ReasonCounts
    folder_values_left_out: tuple[LeftOut, ...]

    @property
    def part_files(self) -> list[ArtifactFile]:
        return [part.file for part in self.parts]

    def report(self, changes: DocumentChanges) -> IngestReport:
        return IngestReport(
            documents=changes,
            documents_left_out=self.documents_left_out.left_out(),
            files_read=self.num_files,
            files_left_out=self.files_left_out.left_out(),
            folder_values_left_out=self.folder_values_left_out,
        )


def ingest(
    *,
    catalog: Catalog,
    artifacts: Artifacts,
    corpus: str,
    listing: SourceListing,
    replace: bool = False,
    skip_errors: bool = False,
    types: DeclaredTypes = MappingProxyType({}),
    count: Count = UNSEEN.count,
    clock: Clock = SYSTEM_CLOCK,
) -> Ingested:
    """Adds the documents of the listed files to a corpus, as its next position.

    A document whose id the corpus has already takes the place of the older one, whole, and one that
    was deleted is back; with `replace` the corpus holds the new documents only. When the corpus
    would not change, no position is added. `types` hold for this ingest: its documents have these
    metadata fields as these types. `count` is told how many files are read, and of how many. Needs
    a driver that has joined a Ray cluster, in whose tasks the sources are read: files of the
    driver's machine there, others on any node.

    Raises InvalidArgument, naming file, row and field, for any document that is wrong or does not
    fit to the corpus, and then the corpus is as it was; with `skip_errors` documents that are wrong
    in themselves are left out instead. Unavailable for a source or store that does not answer;
    Conflict when others keep changing the corpus at the same time.
    """
    check_corpus_name(corpus)
    options = ReadOptions(skip_errors=skip_errors, types=dict(types))
    reading = _read(listing, artifacts, options, count)
    documents = _documents_of(artifacts, reading.parts)

    def changed(latest: CorpusManifest | None) -> tuple[CorpusManifest, DocumentChanges]:
        starts_anew = replace or latest is None or latest.is_dropped
        base = None if starts_anew else latest
        changes = document_changes(latest, reading.part_files, documents, starts_anew=starts_anew)
        if latest is not None and not changes:
            return latest, changes
        content = with_parts(base, reading.part_files, documents)
        schema = _joined_types(base, content, reading, documents)
        content = compacted(content, schema, reading.dimension, documents)
        manifest = CorpusManifest(
            corpus=corpus,
            position=latest.position + 1 if latest else 1,
            parts=content.parts,
            tombstones=content.tombstones,
            num_documents=content.num_documents,
            num_passages=content.num_passages,
            metadata_schema=schema,
            vector_dimension=reading.dimension,
            sources=_latest_sources(base, listing.sources),
            watermark=latest.watermark if latest else Watermark(),
            held=latest.held if latest else HeldMutations(),
            spans=latest.spans if latest else (),
            created_at_ms=clock.wall_ms(),
        )
        return manifest, changes

    manifest, changes = catalog.change_corpus(corpus, changed)
    return Ingested(manifest=manifest, report=reading.report(changes))


def _read(
    listing: SourceListing, artifacts: Artifacts, options: ReadOptions, count: Count
) -> _Reading:
    groups: list[GroupRead] = []
    num_files = 0
    for read in read_parts(with_common_types(listing.files), artifacts, options):
        groups.append(read)
        num_files += read.num_files
        count(num_files, len(listing.files))
    groups.sort(key=lambda read: read.group)
    parts = tuple(part for read in groups for part in read.parts)
    files_left_out, documents_left_out = ReasonCounts(listing.left_out), ReasonCounts()
    for read in groups:
        files_left_out.add_all(read.files_left_out)
        documents_left_out.add_all(read.documents_left_out)
    if not parts:
        why = (*documents_left_out.left_out(), *files_left_out.left_out())
        reasons = "; ".join(f"{found.examples[0]} {found.reason}" for found in why)
        raise InvalidArgument(f"the sources hold no documents: {reasons}", "source")
    origins: dict[str, str] = {}
    schema = parts[0].schema
    for part in parts:
        for document, origin in part.origins.items():
            check_not_twice(document, origins, origin)
            origins[document] = origin
        check_same_kind(parts[0].dimension, parts[0].first, part.dimension, part.first)
        schema = merge_schemas(schema, part.schema)
    declared = frozenset[str]().union(*(read.declared_found for read in groups))
    check_declared_types(options.types, declared, schema)
    return _Reading(
        parts=parts,
        schema=schema,
        dimension=parts[0].dimension,
        num_files=sum(read.num_files_read for read in groups),
        files_left_out=files_left_out,
        documents_left_out=documents_left_out,
        folder_values_left_out=listing.folder_values_left_out,
    )


def _documents_of(artifacts: Artifacts, read: Sequence[StoredPart]) -> PartDocuments:
    return PartDocuments(artifacts, {part.file: list(part.origins) for part in read})


def _latest_sources(base: CorpusManifest | None, sources: Sequence[str]) -> tuple[str, ...]:
    before = [source for source in (base.sources if base else ()) if source not in sources]
    return (*before, *dict.fromkeys(sources))[-SOURCES_MAX:]


def _joined_types(
    base: CorpusManifest | None,
    content: CorpusContent,
    reading: _Reading,
    documents: PartDocuments,
) -> dict[str, ColumnType]:
    """Raises InvalidArgument where the new documents do not fit to those of `base` that stay."""
    if base is None or set(content.parts) <= set(reading.part_files):
        return column_types(reading.schema)
    check_same_kind(
        base.vector_dimension,
        f"the corpus {base.corpus!r}",
        reading.dimension,
        reading.parts[0].first,
    )
    return joined_types(base, content, reading.part_files, reading.schema, documents)
