"""From a corpus to an index version: embedded on Ray Data, one build task a shard.

parts -> documents -> passages -> vectors -> (a sample -> kind and parameters, if asked to find them
                                                       -> centroids and code book, if it has some)
                                          -> shards, by document or by partition
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from actors.builds.deletes import index_without_deleted
from actors.builds.earlier_vectors import EarlierVectors, earlier_vectors
from actors.builds.embedding import embedded
from actors.builds.passage_cutting import CutCorpus, cut_corpus
from actors.builds.rows import Sharder, current, in_shards, latest_of_each_document, no_rows
from actors.builds.shard import ShardPlan, build_shard
from actors.builds.training import PreparedBuild, prepare_build
from actors.runtime.progress import watched
from actors.shards.faiss_build import num_subquantizers
from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.catalog import Catalog, Published
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.catalog.index_versions import BuildPlan, at_watermark, index_as_planned
from cluster.catalog.manifests import (
    CorpusManifest,
    IndexManifest,
    ModelManifest,
    ShardArtifact,
)
from cluster.clock import SYSTEM_CLOCK
from cluster.documents.passages import vectors_of
from cluster.errors import InvalidArgument, NotFound
from cluster.mutations.mutation_log import MutationLog
from cluster.progress import UNSEEN, Count
from cluster.shards.index_parameters import IndexParameters, NamedIndex
from cluster.shards.partitions import KEY_TYPES

_FIELDS_QUOTED_MAX = 20


def build_index(
    catalog: Catalog,
    cache: ArtifactCache,
    corpus: str,
    settings: CorpusSettings,
    embedder: ModelManifest | None,
    count: Count = UNSEEN.count,
    log: MutationLog | None = None,
) -> Published[IndexManifest]:
    """Builds the latest position of a corpus, unless it was built before.

    Where documents were deleted since a build, and nothing else changed, its files are kept and
    get tombstones. Passages that an earlier build with the same settings has are not embedded anew,
    nor are those of live documents that `log` has.
    Needs a driver that has joined a Ray cluster. `count` is told how many passages have their
    vectors, and of how many. Raises NotFound for a corpus without documents, InvalidArgument when
    the corpus needs an embedder and there is none, or has no strings or integers to be partitioned
    by, or when passages are longer than the embedder reads; Unavailable while what was built before
    is being collected.
    """
    plan = _planned(corpus, catalog.latest_corpus(corpus), settings, embedder)
    published = _published(catalog, cache, plan, count, log)
    manifest = at_watermark(published.manifest, plan.corpus)
    if manifest == published.manifest:
        return published
    return replace(catalog.publish_index(manifest), reused=published.reused)


def _published(
    catalog: Catalog,
    cache: ArtifactCache,
    plan: BuildPlan,
    count: Count,
    log: MutationLog | None,
) -> Published[IndexManifest]:
    """An index of the planned documents, perhaps of another watermark."""
    found = index_as_planned(catalog, plan)
    if found is not None:
        manifest, ref = found
        catalog.claim_index(manifest)
        return Published(manifest, ref, reused=True)
    derived = index_without_deleted(catalog, cache, plan)
    if derived is not None:
        return derived
    if isinstance(plan.settings.index, NamedIndex):
        # An index that cannot be built is refused before anything is embedded for it.
        num_subquantizers(plan.dimension, plan.settings.index.pq_m)
    known = earlier_vectors(catalog, cache, plan, log)
    return catalog.publish_index(_built(plan, cache, count, known))


def _planned(
    corpus: str,
    latest: CorpusManifest | None,
    settings: CorpusSettings,
    embedder: ModelManifest | None,
) -> BuildPlan:
    """Raises what `build_index` does for a corpus that cannot be built so."""
    if latest is None or latest.num_passages == 0:
        raise NotFound(
            f"corpus {corpus!r} has no documents; add some with `raygion ingest`, or propose a "
            "release, which leaves it out"
        )
    if latest.vector_dimension is not None:
        embedder = None
    elif embedder is None:
        raise InvalidArgument(f"corpus {corpus!r} has texts only and needs an embedder", "embedder")
    _check_partition_by(latest, settings)
    return BuildPlan(latest, settings, embedder)


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


def _built(
    plan: BuildPlan, cache: ArtifactCache, count: Count, known: EarlierVectors | None
) -> IndexManifest:
    """The index version, all of whose shards are in the store."""
    cut = cut_corpus(cache.artifacts, plan)
    total, passages = cut.num_passages, cut.passages
    with watched(lambda done: count(min(done, total), total)) as counter:
        if plan.embedder is not None:
            passages = embedded(passages, total, plan.embedder, cache, counter, known)
        prepared = prepare_build(passages, plan.settings, total, plan.dimension)
        shards = _built_shards(plan, prepared, cache.artifacts)
    return _manifest(plan, cut, prepared, shards)


def _built_shards(
    plan: BuildPlan, prepared: PreparedBuild, artifacts: Artifacts
) -> list[_BuiltShard]:
    num_shards, partition_by = plan.settings.shards, plan.settings.partition_by
    builder = _ShardBuilder(artifacts, prepared.shard_plan)
    latest = prepared.passages
    if partition_by is not None and len(plan.corpus.parts) > 1:
        # A document whose partition has changed has its old passages in another shard, so what
        # replaces them is found before: among all of the document.
        by_document = in_shards(latest, Sharder(num_shards))
        latest = by_document.map_groups(current, batch_format="pyarrow")
    groups = in_shards(latest, Sharder(num_shards, partition_by))
    rows = groups.map_groups(builder.build_group, batch_format="pyarrow").take_all()
    built = {row["shard"]: _BuiltShard.from_row(row) for row in rows}
    # A small corpus may leave a shard without documents: it is built all the same.
    empty = no_rows(artifacts, plan)
    return [built.get(shard) or builder.build(shard, empty) for shard in range(num_shards)]


def _manifest(
    plan: BuildPlan, cut: CutCorpus, prepared: PreparedBuild, shards: Sequence[_BuiltShard]
) -> IndexManifest:
    corpus, artifacts = plan.corpus, tuple(shard.artifact for shard in shards)
    num_passages = sum(artifact.num_rows for artifact in artifacts)
    recall = sum(artifact.recall_at_10 * artifact.num_rows for artifact in artifacts)
    parameters = prepared.shard_plan.parameters
    # Flat shards have no effort.
    efforts = [s.parameters for s in shards if s.parameters.kind is parameters.kind]
    return IndexManifest(
        corpus=corpus.corpus,
        version=plan.version,
        corpus_position=corpus.position,
        dimension=plan.dimension,
        parameters=parameters.with_effort_of(efforts or [parameters]),
        embedder_fingerprint=plan.embedder_fingerprint,
        metadata_schema=corpus.metadata_schema,
        num_documents=sum(shard.num_documents for shard in shards),
        num_passages=num_passages,
        num_averaged=cut.num_averaged or None,
        shards=artifacts,
        recall_at_10=recall / max(1, num_passages),
        recall_at_10_least=min(artifact.recall.least for artifact in artifacts),
        tuning=prepared.tuning,
        partition_by=plan.settings.partition_by,
        watermark=corpus.watermark,
        held=corpus.held,
        built_at_ms=SYSTEM_CLOCK.wall_ms(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _BuiltShard:
    artifact: ShardArtifact
    num_documents: int
    parameters: IndexParameters

    def to_row(self) -> dict[str, Any]:
        return {
            "shard": self.artifact.shard,
            "artifact": self.artifact.to_bytes(),
            "documents": self.num_documents,
            "parameters": self.parameters.to_bytes(),
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        return cls(
            artifact=ShardArtifact.from_bytes(row["artifact"], source="a build task"),
            num_documents=row["documents"],
            parameters=IndexParameters.from_bytes(row["parameters"], source="a build task"),
        )


@dataclass(frozen=True, slots=True)
class _ShardBuilder:
    """Builds one shard from all its rows and stores the artifact."""

    artifacts: Artifacts
    plan: ShardPlan

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
            build = build_shard(table, vectors, self.plan, folder)
            files = self.artifacts.put_folder(folder)
        artifact = ShardArtifact(
            shard=shard,
            num_rows=build.num_rows,
            files=files,
            recall_at_10=build.recall.recall_at_10,
            strata=build.recall.strata,
            kind=None if build.kind is self.plan.parameters.kind else build.kind,
        )
        return _BuiltShard(
            artifact=artifact, num_documents=num_documents, parameters=build.parameters
        )
