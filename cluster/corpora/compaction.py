"""Compaction: what the logs of mutations say becomes the next position of a corpus.

    logs of all regions ─► fold ─► documents changed after the corpus's watermark ─┬─► parts
                                                                                  └─► tombstones
    position n, watermark W ───────────────────────────────────────────► position n + 1, the heads

The position is appended as those of ingests and deletes are: another compaction, or an ingest, that
was faster has this one decide again. What the corpus already holds is not written again, so
compacting twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.files import ArtifactFile
from cluster.catalog.catalog import Catalog, existing
from cluster.catalog.manifests import CorpusManifest
from cluster.clock import SYSTEM_CLOCK, Clock
from cluster.documents.compaction import compacted
from cluster.documents.content import (
    CorpusContent,
    PartDocuments,
    document_changes,
    store_part,
    with_parts,
    without_documents,
)
from cluster.documents.ingest_report import EXAMPLES_MAX, DocumentChanges
from cluster.documents.live_schema import LiveSchema
from cluster.documents.passages import Passage, passage_table
from cluster.errors import InvalidArgument, RaygionError
from cluster.mutations.batch import Batch, batch_bytes, read_batch
from cluster.mutations.conflicts import ConflictPolicy
from cluster.mutations.fold import DocumentFold
from cluster.mutations.mutation import Content, Mutation
from cluster.mutations.mutation_log import MutationLog
from cluster.mutations.watermark import Watermark

PART_BYTES = 32 * 2**20
"""Bytes of the documents of one part, nearly; the last one may exceed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """The corpus after a compaction, and what that has changed."""

    manifest: CorpusManifest
    """The new position, or the latest one where the logs had nothing new."""
    documents: DocumentChanges
    conflicts: int
    """Documents with several versions, of which the current one is in the corpus."""
    conflict_examples: tuple[str, ...]
    """Ids, at most EXAMPLES_MAX."""
    stopped: Mapping[str, RaygionError]
    """The regions whose logs could not be read to their ends, and why."""


def compact_corpus(
    *,
    catalog: Catalog,
    artifacts: Artifacts,
    log: MutationLog,
    corpus: str,
    policy: ConflictPolicy,
    clock: Clock = SYSTEM_CLOCK,
) -> Compacted:
    """Takes the corpus to what the logs of all regions say now, as its next position.

    Documents that bring their vectors keep them; the others are cut and embedded by the build.
    A document that was ingested or deleted by file since it was written live, and before this, is
    what was written live. When the logs have nothing new, no position is added.

    Raises NotFound when there is no such corpus (any more), InvalidArgument, naming the document,
    for one that does not fit to the corpus, Conflict when others keep changing the corpus at the
    same time, and what the store does; the corpus is as it was then.
    """

    def changed(latest: CorpusManifest | None) -> tuple[CorpusManifest, Compacted]:
        base = existing(corpus, latest)
        fold, stopped = _folded(base, artifacts, log, policy)
        manifest, changes = _with_changes(base, fold, artifacts, clock)
        conflicts = sorted(fold.conflicts())
        return manifest, Compacted(
            manifest=manifest,
            documents=changes,
            conflicts=len(conflicts),
            conflict_examples=tuple(conflicts[:EXAMPLES_MAX]),
            stopped=stopped,
        )

    return catalog.change_corpus(corpus, changed)[1]


def _folded(
    base: CorpusManifest, artifacts: Artifacts, log: MutationLog, policy: ConflictPolicy
) -> tuple[DocumentFold, Mapping[str, RaygionError]]:
    """What the logs say, though without the contents of what the corpus holds; and the regions
    whose logs end in an error.
    """
    # Not only what follows the watermark: an older mutation of a region that was away may still
    # lose to one that the corpus holds, and only its time says so.
    fold = DocumentFold(policy)
    for file in base.spans:
        region, last = file.path.split("/")
        span = read_batch(
            artifacts.read_bytes(file),
            corpus=base.corpus,
            region=region,
            first=1,
            last=int(last),
            source=f"the span {file.path} of position {base.position} of {base.corpus}",
        )
        fold.apply(span)
    while True:
        reading = log.read_after(fold.watermark)
        for batch in reading.batches:
            fold.apply(batch)
        if not reading.batches:
            return fold, reading.stopped


def _stored_spans(
    corpus: str, fold: DocumentFold, artifacts: Artifacts
) -> tuple[ArtifactFile, ...]:
    """Stores what of each region's log still counts, without the contents."""
    by_region: dict[str, list[Mutation]] = {region: [] for region in fold.watermark}
    for version in fold.kept():
        by_region[version.time.region].append(replace(version, content=None, key=None))
    files: list[ArtifactFile] = []
    for region, mutations in by_region.items():
        span = Batch(
            corpus=corpus,
            region=region,
            first=1,
            last=fold.position(region),
            mutations=tuple(sorted(mutations, key=lambda mutation: mutation.time)),
        )
        sha256, size_bytes = artifacts.put_bytes(batch_bytes(span))
        path = f"{region}/{span.last}"
        files.append(ArtifactFile(path=path, sha256=sha256, size_bytes=size_bytes))
    return tuple(files)


def _with_changes(
    base: CorpusManifest, fold: DocumentFold, artifacts: Artifacts, clock: Clock
) -> tuple[CorpusManifest, DocumentChanges]:
    """The next position, or `base` where the logs have nothing new."""
    watermark = base.watermark.joined(fold.watermark)
    new = (version for version in fold.current() if version not in base.held)
    changed = sorted(new, key=lambda version: version.time)
    schema = LiveSchema(base.metadata_schema)
    passages = list(_passages(base, changed, schema))
    documents = PartDocuments(artifacts)
    parts = [
        store_part(artifacts, passage_table(group, schema.types, base.vector_dimension))
        for group in _groups(passages)
    ]
    changes = document_changes(base, parts, documents, starts_anew=False)
    deleted = {version.document for version in changed if version.content is None}
    content, removed = _content(base, parts, deleted, documents)
    changes = replace(changes, removed=len(removed))
    if watermark == base.watermark:
        return base, changes
    update: dict[str, object] = {
        "position": base.position + 1,
        "watermark": watermark,
        "held": base.held.joined(fold.taken),
        "spans": _stored_spans(base.corpus, fold, artifacts),
        "created_at_ms": clock.wall_ms(),
    }
    if changes:
        # Where nothing has changed, the parts stay, so that an index of them that was built fits.
        content = compacted(content, schema.types, base.vector_dimension, documents)
        update |= {
            "parts": content.parts,
            "tombstones": content.tombstones,
            "num_documents": content.num_documents,
            "num_passages": content.num_passages,
            "metadata_schema": dict(sorted(schema.types.items())),
        }
    return base.model_copy(update=update), changes


def _passages(
    base: CorpusManifest, changed: Sequence[Mutation], schema: LiveSchema
) -> Iterator[Passage]:
    """The rows of the documents that are upserted; `schema` learns their fields."""
    upserts = [(m.document, m.content) for m in changed if m.content is not None]
    for _, content in upserts:
        schema.learn(content.metadata)
    for document, content in upserts:
        try:
            yield _passage(document, content, schema, base.vector_dimension)
        except InvalidArgument as error:
            raise InvalidArgument(
                f"the live document {document!r} {error.message}. Write it anew or delete it, then "
                "compact again",
                error.field,
            ) from error


def _passage(document: str, content: Content, schema: LiveSchema, dimension: int | None) -> Passage:
    vector = None
    if dimension is not None:
        if content.vectors is None or content.vectors.shape != (1, dimension):
            raise InvalidArgument(
                f"must bring one vector of {dimension} numbers, as all documents of the corpus do",
                "vector",
            )
        vector = content.vectors[0]
    metadata = schema.fitted(content.metadata)
    return Passage(
        id=document, document=document, text=content.text, metadata=metadata, vector=vector
    )


def _groups(passages: Sequence[Passage]) -> Iterator[list[Passage]]:
    """The passages of each part."""
    group: list[Passage] = []
    size_bytes = 0
    for passage in passages:
        group.append(passage)
        size_bytes += len(passage.text) + len(passage.document)
        size_bytes += 0 if passage.vector is None else passage.vector.nbytes
        if size_bytes >= PART_BYTES:
            yield group
            group, size_bytes = [], 0
    if group:
        yield group


def _content(
    base: CorpusManifest,
    parts: Sequence[ArtifactFile],
    deleted: set[str],
    documents: PartDocuments,
) -> tuple[CorpusContent, frozenset[str]]:
    """The corpus with these parts behind its own and without the deleted documents, and which of
    these it had.
    """
    content = with_parts(base, parts, documents)
    added = base.model_copy(update={"parts": content.parts, "tombstones": content.tombstones})
    return without_documents(added, deleted, documents)


def unfolded(catalog: Catalog, log: MutationLog, corpus: str) -> int:
    """The number of objects of the logs that the corpus does not have yet."""
    latest = catalog.latest_corpus(corpus)
    watermark = Watermark() if latest is None else latest.watermark
    head = log.head()
    return sum(max(0, head[region] - watermark[region]) for region in head)
