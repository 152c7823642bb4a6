"""Documents out of a corpus: appends one corpus position, whose tombstones name them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cluster.artifacts.artifacts import Artifacts
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import CorpusManifest
from cluster.clock import SYSTEM_CLOCK, Clock
from cluster.documents.content import PartDocuments, without_documents
from cluster.documents.documents import check_corpus_name
from cluster.errors import Conflict

APPENDS_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    manifest: CorpusManifest
    """The corpus without the documents."""
    deleted: frozenset[str]
    unknown: frozenset[str]
    """Ids that the corpus did not have, or no longer."""


def delete_documents(
    *,
    catalog: Catalog,
    artifacts: Artifacts,
    corpus: str,
    documents: Collection[str],
    clock: Clock = SYSTEM_CLOCK,
) -> Deletion:
    """Deletes the documents of these ids from a corpus; all of their passages go.

    When the corpus has none of them, no position is added and the latest one is returned. Ingesting
    a document of such an id brings it back.

    Raises NotFound when there is no such corpus, Conflict when others keep changing it at the same
    time, and what the store does.
    """
    check_corpus_name(corpus)
    of_parts = PartDocuments(artifacts)
    for _ in range(APPENDS_MAX):
        latest = catalog.existing_corpus(corpus)
        content, deleted = without_documents(latest, documents, of_parts)
        unknown = frozenset(documents) - deleted
        if not deleted:
            return Deletion(manifest=latest, deleted=deleted, unknown=unknown)
        manifest = latest.model_copy(
            update={
                "position": latest.position + 1,
                "tombstones": content.tombstones,
                "num_documents": content.num_documents,
                "num_passages": content.num_passages,
                "created_at_ms": clock.wall_ms(),
            }
        )
        try:
            catalog.append_corpus(manifest)
        except Conflict:
            # Somebody else changed the corpus meanwhile: delete from what it is now.
            continue
        return Deletion(manifest=manifest, deleted=deleted, unknown=unknown)
    raise Conflict(f"others keep changing the corpus {corpus!r}; try again later")


def drop_corpus(*, catalog: Catalog, corpus: str, clock: Clock = SYSTEM_CLOCK) -> CorpusManifest:
    """Drops a whole corpus by one more position, which has nothing; returns that.

    Nothing that is stored is rewritten, and a release that names an index of the corpus goes on;
    `cluster.releases.garbage` removes what nothing needs any more then. Ingesting into a corpus of
    this name starts it anew.

    Raises NotFound when there is no such corpus (any more), Conflict when others keep changing it
    at the same time, and what the store does.
    """
    for _ in range(APPENDS_MAX):
        latest = catalog.existing_corpus(corpus)
        nothing = CorpusManifest(
            corpus=corpus,
            position=latest.position + 1,
            parts=(),
            num_documents=0,
            num_passages=0,
            metadata_schema={},
            vector_dimension=None,
            sources=(),
            created_at_ms=clock.wall_ms(),
        )
        try:
            catalog.append_corpus(nothing)
        except Conflict:
            # Somebody else changed the corpus meanwhile: that goes as well.
            continue
        return nothing
    raise Conflict(f"others keep changing the corpus {corpus!r}; try again later")
