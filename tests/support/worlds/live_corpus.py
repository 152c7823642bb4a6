"""A corpus whose documents are ingested, deleted by file and written live, without Ray."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa

from actors.builds.rows import PartReader, latest_of_each_document, part_rows
from cluster.artifacts.artifacts import Artifacts
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import CorpusManifest
from cluster.clock import Deadline
from cluster.corpora.compaction import Compacted, compact_corpus
from cluster.documents.content import PartDocuments, store_part, with_parts
from cluster.documents.deletes import delete_documents
from cluster.documents.passages import Passage, passage_table
from cluster.metadata import ColumnType
from cluster.mutations.batch import Batch
from cluster.mutations.conflicts import ConflictPolicy
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Content, Mutation
from cluster.mutations.store_log import StoreMutationLog
from cluster.mutations.watermark import HeldMutations, Watermark
from cluster.store.object_store import ObjectStore, open_store
from tests.support.fakes import SimClock
from tests.support.values.mutations import CORPUS

LAST_WRITER = ConflictPolicy.LAST_WRITER
FANOUT = 2


def empty_store() -> ObjectStore:
    return open_store(f"memory://{uuid4().hex}")


def log_of(store: ObjectStore) -> StoreMutationLog:
    return StoreMutationLog(store, CORPUS, sleep=lambda _: None, fanout=FANOUT)


def compact(store: ObjectStore, policy: ConflictPolicy = LAST_WRITER) -> Compacted:
    return compact_corpus(
        catalog=Catalog(store),
        artifacts=Artifacts(store),
        log=log_of(store),
        corpus=CORPUS,
        policy=policy,
        clock=SimClock(),
    )


def ingest(
    store: ObjectStore,
    documents: dict[str, int],
    *,
    types: dict[str, ColumnType] | None = None,
    dimension: int | None = None,
) -> CorpusManifest:
    """What `ingest` does once the documents are read."""
    catalog, artifacts = Catalog(store), Artifacts(store)
    types = {"n": ColumnType.INT} if types is None else types
    passages = [
        Passage(
            id=document,
            document=document,
            text=f"{document} {n}",
            metadata={"n": n},
            vector=None if dimension is None else np.full(dimension, n, dtype=np.float32),
        )
        for document, n in documents.items()
    ]
    part = store_part(artifacts, passage_table(passages, types, dimension))

    def added(latest: CorpusManifest | None) -> tuple[CorpusManifest, None]:
        base = None if latest is None or latest.is_dropped else latest
        content = with_parts(base, [part], PartDocuments(artifacts))
        manifest = CorpusManifest(
            corpus=CORPUS,
            position=latest.position + 1 if latest else 1,
            parts=content.parts,
            tombstones=content.tombstones,
            num_documents=content.num_documents,
            num_passages=content.num_passages,
            metadata_schema=types | (base.metadata_schema if base else {}),
            vector_dimension=dimension,
            sources=(),
            watermark=latest.watermark if latest else Watermark(),
            held=latest.held if latest else HeldMutations(),
            spans=latest.spans if latest else (),
            created_at_ms=0,
        )
        return manifest, None

    return catalog.change_corpus(CORPUS, added)[0]


def delete(store: ObjectStore, *ids: str) -> CorpusManifest:
    return delete_documents(
        catalog=Catalog(store), artifacts=Artifacts(store), corpus=CORPUS, documents=ids
    ).manifest


def live(document: str, n: int | None, wall_ms: int, region: str = "a", **seen: Any) -> Mutation:
    content = None if n is None else Content(text=f"{document} {n}", metadata={"n": n})
    time = HybridTime(wall_ms, 0, region)
    return Mutation(document=document, time=time, content=content, **seen)


def append(store: ObjectStore, *mutations: Mutation) -> None:
    """One object of the log of the mutations' region."""
    region = mutations[0].time.region
    log = log_of(store)
    position = log.head()[region] + 1
    batch = Batch(corpus=CORPUS, region=region, first=position, last=position, mutations=mutations)
    log.append(batch, deadline=Deadline.after(9))
    log.store_spans(LAST_WRITER, region, position)


def rows_of(store: ObjectStore) -> list[dict[str, Any]]:
    """The documents of the latest position, as a build reads them."""
    corpus = Catalog(store).existing_corpus(CORPUS)
    if not corpus.num_documents:
        return []
    batch = pa.Table.from_pylist(part_rows(corpus))
    rows = latest_of_each_document(PartReader(Artifacts(store), corpus).read(batch))
    assert rows.num_rows == corpus.num_passages == corpus.num_documents
    return rows.to_pylist()


def documents_of(store: ObjectStore) -> dict[str, int]:
    rows = rows_of(store)
    assert all(row["text"] == f"{row['document']} {row['meta.n']}" for row in rows)
    return {row["document"]: row["meta.n"] for row in rows}
