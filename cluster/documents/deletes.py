"""Documents out of a corpus: appends one corpus position, whose tombstones name them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cluster.artifacts.artifacts import Artifacts
from cluster.catalog.catalog import Catalog, existing
from cluster.catalog.manifests import CorpusManifest
from cluster.clock import SYSTEM_CLOCK, Clock
from cluster.documents.content import PartDocuments, without_documents
from cluster.documents.documents import check_corpus_name
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation_log import MutationLog
from cluster.mutations.watermark import HeldMutations, Watermark


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

    def without(latest: CorpusManifest | None) -> tuple[CorpusManifest, frozenset[str]]:
        base = existing(corpus, latest)
        content, deleted = without_documents(base, documents, of_parts)
        if not deleted:
            return base, deleted
        update = {
            "position": base.position + 1,
            "tombstones": content.tombstones,
            "num_documents": content.num_documents,
            "num_passages": content.num_passages,
            "created_at_ms": clock.wall_ms(),
        }
        return base.model_copy(update=update), deleted

    manifest, deleted = catalog.change_corpus(corpus, without)
    return Deletion(manifest=manifest, deleted=deleted, unknown=frozenset(documents) - deleted)


def drop_corpus(
    *, catalog: Catalog, corpus: str, log: MutationLog, clock: Clock = SYSTEM_CLOCK
) -> CorpusManifest:
    """Drops a whole corpus by one more position, which has nothing; returns that.

    Nothing that is stored is rewritten, and a release that names an index of the corpus goes on;
    `cluster.releases.garbage` removes what nothing needs any more then. Ingesting into a corpus of
    this name starts it anew. What was written live is dropped, too: the position says that it has
    taken in all of the logs, so that none of it comes back.

    Raises NotFound when there is no such corpus (any more), Conflict when others keep changing it
    at the same time, LogUnreadable where the end of a log is damaged, and what the store does.
    """

    def dropped(latest: CorpusManifest | None) -> tuple[CorpusManifest, None]:
        last = existing(corpus, latest)
        watermark, held = _end_of(log, last.watermark)
        nothing = CorpusManifest(
            corpus=corpus,
            position=last.position + 1,
            parts=(),
            num_documents=0,
            num_passages=0,
            metadata_schema={},
            vector_dimension=None,
            sources=(),
            watermark=last.watermark.joined(watermark),
            held=last.held.joined(held),
            spans=last.spans,
            created_at_ms=clock.wall_ms(),
        )
        return nothing, None

    manifest, _ = catalog.change_corpus(corpus, dropped)
    return manifest


def _end_of(log: MutationLog, known: Watermark) -> tuple[Watermark, HeldMutations]:
    """The ends of the logs of all regions, and the mutations up to there, but for regions whose
    logs end where they are known.
    """
    watermark = log.head()
    last = Watermark.of({region: watermark[region] - 1 for region in watermark})
    reading = log.read_after(last.joined(known))
    for error in reading.stopped.values():
        raise error
    times: dict[str, HybridTime] = {}
    for batch in reading.batches:
        watermark = watermark.advanced(batch.region, batch.last)
        times[batch.region] = batch.mutations[-1].time
    return watermark, HeldMutations(times)
