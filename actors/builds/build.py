"""From a corpus to an index version: embedded on Ray Data, one build task a shard.

parts -> documents -> passages -> vectors -> (a sample -> kind and parameters, if asked to find them
                                                       -> centroids and code book, if it has some)
                                          -> shards, by document or by partition
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from actors.builds.deletes import index_without_deleted
from actors.builds.passage_cutting import CutCorpus, cut_corpus
from actors.builds.rows import Sharder, current, in_shards, latest_of_each_document, no_rows
from actors.builds.shard import build_shard
from actors.builds.training import prepare_build
from actors.models.embedding_worker import EmbedBatches
from actors.runtime.process_logs import logging_class
from actors.runtime.progress import watched
from actors.runtime.wiring import live_nodes
from actors.shards.faiss_index import num_subquantizers
from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.claims import claim_all
from cluster.catalog.catalog import Catalog, Published, index_path
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.catalog.index_versions import built_version, index_as_asked
from cluster.catalog.manifests import (
    CorpusManifest,
    IndexManifest,
    ModelManifest,
    ShardArtifact,
    parts_of,
)
from cluster.clock import SYSTEM_CLOCK
from cluster.documents.passages import vectors_of
from cluster.errors import InvalidArgument, NotFound
from cluster.progress import UNSEEN, Count
from cluster.shards.index_parameters import IndexParameters, IndexTuning
from cluster.shards.partitions import KEY_TYPES
from cluster.store.object_store import ObjectStore

_FIELDS_QUOTED_MAX = 20
_EMBED_BATCH = 128
_EMBED_BLOCK = 2 * _EMBED_BATCH


def build_index(
    store: ObjectStore,
    corpus: str,
    settings: CorpusSettings,
    *,
    embedder: ModelManifest | None,
    cache_folder: Path,
    count: Count = UNSEEN.count,
) -> Published[IndexManifest]:
    """Builds the latest position of a corpus, unless it was built before.

    Where documents were deleted since a build, and nothing else changed, its files are kept and
    get tombstones. Needs a driver that has joined a Ray cluster. `count` is told how many
    passages are embedded, and of how many. Raises NotFound for a corpus without documents,
    InvalidArgument when the corpus needs an embedder and there is none, or has no strings or
    integers to be partitioned by, or when passages are longer than the embedder reads;
    Unavailable while what was built before is being collected.
    """
    catalog = Catalog(store)
    position = catalog.latest_corpus(corpus)
    if position is None or position.num_passages == 0:
        raise NotFound(
            f"corpus {corpus!r} has no documents; add some with `raygion ingest`, or propose a "
            "release, which leaves it out"
        )
    if position.vector_dimension is not None:
        embedder = None
    elif embedder is None:
        raise InvalidArgument(f"corpus {corpus!r} has texts only and needs an embedder", "embedder")
    _check_partition_by(position, settings)
    found = index_as_asked(catalog, position, settings, embedder)
    if found is not None:
        manifest, ref = found
        # It may be old, and needed by nothing else until a release names it.
        claim_all(store, parts_of(manifest), [index_path(corpus, ref.version)])
        return Published(manifest, ref, reused=True)
    derived = index_without_deleted(
        store, position, settings, embedder=embedder, cache_folder=cache_folder
    )
    if derived is not None:
        return derived
    dimension = position.vector_dimension or (embedder.dimension if embedder else None)
    assert dimension is not None
    if isinstance(settings.index, IndexParameters):
        # An index that cannot be built is refused before anything is embedded for it.
        num_subquantizers(dimension, settings.index.pq_m)
    cut = cut_corpus(store, position, embedder, settings.chunks)
    parameters, tuning, shards, num_documents = _build_shards(
        store, position, cut, settings, embedder, dimension, cache_folder, count
    )
    num_passages = sum(shard.num_rows for shard in shards)
    manifest = IndexManifest(
        corpus=corpus,
        version=built_version(position, settings, embedder),
        corpus_position=position.position,
        dimension=dimension,
        parameters=parameters,
        embedder_fingerprint=None if embedder is None else embedder.fingerprint,
        metadata_schema=position.metadata_schema,
        num_documents=num_documents,
        num_passages=num_passages,
        num_averaged=cut.num_averaged or None,
        shards=tuple(shards),
        recall_at_10=sum(s.recall_at_10 * s.num_rows for s in shards) / max(1, num_passages),
        recall_at_10_least=min(shard.recall.least for shard in shards),
        tuning=tuning,
        partition_by=settings.partition_by,
        built_at_ms=SYSTEM_CLOCK.wall_ms(),
    )
    return catalog.publish_index(manifest)


def _check_partition_by(corpus: CorpusManifest, settings: CorpusSettings) -> None:
    field = settings.partition_by
    if field is None or corpus.metadata_schema.get(field) in KEY_TYPES:
        return
    fit = sorted(name for name, type in corpus.metadata_schema.items() if type in KEY_TYPES)
    known = ", ".join(fit[:_FIELDS_QUOTED_MAX]) or "none"
    raise InvalidArgument(
        f"{field!r} is no metadata field of strings or integers of corpus {corpus.corpus!r}; "
        f"there is: {known}",
        "partition_by",
    )


def _build_shards(
    store: ObjectStore,
    corpus: CorpusManifest,
    cut: CutCorpus,
    settings: CorpusSettings,
    embedder: ModelManifest | None,
    dimension: int,
    cache_folder: Path,
    count: Count,
) -> tuple[IndexParameters, IndexTuning | None, list[ShardArtifact], int]:
    """The parameters of the index, how they were found, its shards, and how many documents are in
    them.
    """
    total, passages = cut.num_passages, cut.passages
    with watched(lambda done: count(min(done, total), total)) as counter:
        if embedder is not None:
            passages = _embedded(passages, total, embedder, store, cache_folder, counter)
        prepared = prepare_build(passages, settings, total, dimension)
        builder = _ShardBuilder(
            store,
            prepared.parameters,
            prepared.trained,
            prepared.target_recall,
            settings.partition_by,
        )
        latest = prepared.passages
        if settings.partition_by is not None and len(corpus.parts) > 1:
            # A document whose partition has changed has its old passages in another shard, so what
            # replaces them is found before: among all of the document.
            by_document = in_shards(latest, Sharder(settings.shards))
            latest = by_document.map_groups(current, batch_format="pyarrow")
        groups = in_shards(latest, Sharder(settings.shards, settings.partition_by))
        rows = groups.map_groups(builder.build_group, batch_format="pyarrow").take_all()
    built = {row["shard"]: _BuiltShard.from_row(row) for row in rows}
    # A small corpus may leave a shard without documents: it is built all the same.
    empty = no_rows(store, corpus, embedder)
    shards = [built.get(s) or builder.build(s, empty) for s in range(settings.shards)]
    parameters = prepared.parameters.stretched(max(shard.stretch for shard in shards))
    num_documents = sum(shard.num_documents for shard in shards)
    return parameters, prepared.tuning, [shard.artifact for shard in shards], num_documents


def _embedded(
    passages: ray.data.Dataset,
    num_passages: int,
    embedder: ModelManifest,
    store: ObjectStore,
    cache_folder: Path,
    counter: Any,
) -> ray.data.Dataset:
    """The passages with their vectors."""
    # An actor takes one block at a time: blocks of a few batches keep all of them busy.
    blocks = passages.repartition(target_num_rows_per_block=_EMBED_BLOCK)
    return blocks.map_batches(
        logging_class(EmbedBatches),
        fn_constructor_args=(embedder, store, cache_folder, counter),
        batch_size=_EMBED_BATCH,
        batch_format="pyarrow",
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=_embedding_actors(num_passages)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _BuiltShard:
    artifact: ShardArtifact
    num_documents: int
    stretch: int

    def to_row(self) -> dict[str, Any]:
        return {
            "shard": self.artifact.shard,
            "artifact": self.artifact.to_bytes(),
            "documents": self.num_documents,
            "stretch": self.stretch,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        return cls(
            artifact=ShardArtifact.from_bytes(row["artifact"], source="a build task"),
            num_documents=row["documents"],
            stretch=row["stretch"],
        )


@dataclass(frozen=True, slots=True)
class _ShardBuilder:
    """Builds one shard from all its rows and stores the artifact."""

    store: ObjectStore
    parameters: IndexParameters
    trained: bytes | None
    target_recall: float
    partition_by: str | None

    def build_group(self, group: Any) -> pa.Table:
        rows: pa.Table = group
        shard: Any = rows["shard"][0].as_py()
        return pa.Table.from_pylist([self.build(shard, rows).to_row()])

    def build(self, shard: int, rows: pa.Table) -> _BuiltShard:
        table = latest_of_each_document(rows)
        num_documents = pc.count_distinct(table["document"]).as_py()
        vectors = vectors_of(table)
        # By the same name, so that these vectors are not in memory a second time from here on.
        table = table.drop_columns(["vector", "part", "shard"])
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            build = build_shard(
                table,
                vectors,
                self.parameters,
                folder,
                self.trained,
                self.target_recall,
                self.partition_by,
            )
            files = Artifacts(self.store).put_folder(folder)
        artifact = ShardArtifact(
            shard=shard,
            num_rows=build.num_rows,
            files=files,
            recall_at_10=build.recall.recall_at_10,
            strata=build.recall.strata,
            kind=None if build.kind is self.parameters.kind else build.kind,
        )
        return _BuiltShard(artifact=artifact, num_documents=num_documents, stretch=build.stretch)


def _embedding_actors(num_passages: int) -> int:
    """Number of actors that embed side by side, each with the model and a CPU of its own.

    More actors of one thread are quicker than more threads, as far as there are cores and blocks
    for them. One logical CPU is left to the tasks that read for them; without it the pipeline would
    never start.
    """
    resources: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    cores = len(live_nodes()) * (os.cpu_count() or 1)
    blocks = -(-num_passages // _EMBED_BLOCK)
    return max(1, min(int(resources.get("CPU", 1)) - 1, cores, blocks))
