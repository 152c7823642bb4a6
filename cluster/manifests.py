"""What the store says of corpora, index versions and model versions: manifests that name artifacts
by hash.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from cluster.recall import Recall, RecallStratum
from cluster.records import Record

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Names become parts of paths, of actor names and of URLs, so they are kept to what is safe in all
# three.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]

SOURCES_MAX = 100
"""A manifest that named every source would grow with every ingest."""
TOMBSTONES_FILE = "tombstones.arrow"
"""In a shard's folder: ids of documents that do not count."""


def _is_none(value: object) -> bool:
    # What is left out when there is none leaves the bytes, and so the names, of others as they are.
    return value is None


def _is_empty(value: tuple[object, ...]) -> bool:
    return not value


class Blob(Record):
    """Bytes in the store."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


class FileDelta(Record):
    """How a file comes about that the store does not hold whole: see `cluster.model_delta`."""

    base: Blob
    """A file of another model version, stored in full."""
    base_version: str
    delta: Blob
    """What to do to the base."""


class ArtifactFile(Record):
    """One file of an artifact: its path inside the artifact's folder and the content that it must
    have.
    """

    path: str
    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]
    delta: FileDelta | None = Field(default=None, exclude_if=_is_none)
    """None for a file that is stored whole."""

    @property
    def parts(self) -> tuple[ArtifactFile, ...]:
        """The blobs in the store that it is made of, each as a file stored whole."""
        if self.delta is None:
            return (self,)
        return tuple(
            ArtifactFile(path=f"{self.path} ({what})", sha256=b.sha256, size_bytes=b.size_bytes)
            for what, b in (("base", self.delta.base), ("delta", self.delta.delta))
        )


class ManifestRef(Record):
    """Names one manifest in the store, and the hash that its bytes must have."""

    version: str
    sha256: Sha256


class ColumnType(StrEnum):
    """The types that a metadata field can have."""

    STRING = "string"
    INT = "int"
    FLOAT = "float"
    BOOL = "bool"


class CorpusManifest(Record):
    """One position of a corpus: all its documents, as an ordered list of parts.

    A part is a Parquet file of documents, as `cluster.passages` says. Where two parts hold the same
    document, the later part wins whole; a document that the tombstones name counts in none of them.
    Stored at `corpora/{corpus}/{position:020}.json`.
    """

    format: Literal[1] = 1
    corpus: Name
    position: Annotated[int, Field(ge=1)]
    parts: tuple[ArtifactFile, ...]
    tombstones: ArtifactFile | None = Field(default=None, exclude_if=_is_none)
    """Ids of the deleted documents that parts still hold; see `cluster.tombstones`."""
    num_documents: Annotated[int, Field(ge=0)]
    num_passages: Annotated[int, Field(ge=0)]
    """Rows of the parts that count: one for each document, but for those that an older version had
    cut before it stored them.
    """
    metadata_schema: dict[str, ColumnType]
    vector_dimension: int | None
    """Length of the ready-made vectors, or None when the passages are to be embedded."""
    sources: tuple[str, ...]
    """Where its documents came from: the latest SOURCES_MAX."""
    created_at_ms: int

    @property
    def is_dropped(self) -> bool:
        """Whether the corpus is gone: nothing else leaves a position without a part."""
        return not self.parts and not self.num_documents

    def content(self) -> CorpusManifest:
        """Equal for equal documents, whenever and wherever they were read."""
        return self.model_copy(update={"position": 1, "created_at_ms": 0, "sources": ()})


EF_SEARCH_MAX = 10_000
RESCORE_MAX = 1000


class IndexKind(StrEnum):
    """The kind of index that proposes candidates. IVFPQ holds each vector in a few bytes, IVFSQ and
    HNSWSQ in one byte for each number. These three propose more candidates than were asked for, and
    the stored vectors decide.
    """

    FLAT = "Flat"
    IVF_FLAT = "IVFFlat"
    IVF_PQ = "IVFPQ"
    IVF_SQ = "IVFSQ"
    HNSW = "HNSW"
    HNSW_SQ = "HNSWSQ"

    @property
    def has_lists(self) -> bool:
        """Whether it looks into `nprobe` inverted lists, whose centroids have to be trained."""
        return self in (IndexKind.IVF_FLAT, IndexKind.IVF_PQ, IndexKind.IVF_SQ)

    @property
    def is_graph(self) -> bool:
        """Whether it walks a graph, with a candidate list of `ef_search`."""
        return self in (IndexKind.HNSW, IndexKind.HNSW_SQ)

    @property
    def is_trained(self) -> bool:
        """Whether it needs to have seen a sample before it takes the first vector."""
        return self.has_lists or self is IndexKind.HNSW_SQ

    @property
    def is_quantized(self) -> bool:
        return self in (IndexKind.IVF_PQ, IndexKind.IVF_SQ, IndexKind.HNSW_SQ)


class Metric(StrEnum):
    """How vectors are compared. Scores are always "higher is better": for L2 the score is minus the
    squared distance.
    """

    INNER_PRODUCT = "ip"
    COSINE = "cosine"
    L2 = "l2"


class IndexParameters(Record):
    """The building and searching of a shard's index."""

    kind: IndexKind = IndexKind.HNSW
    """Kind of index: exact (`Flat`), inverted lists (`IVF...`) or a graph (`HNSW...`), with whole
    vectors or with vectors of one byte (`SQ`) or of a few bits (`PQ`) for each number.
    """
    metric: Metric = Metric.COSINE
    """Comparison of vectors. Higher scores are better; for `l2` the score is minus the squared
    distance.
    """
    hnsw_m: Annotated[int, Field(ge=2, le=128)] = 32
    """Neighbours of each vector on a graph's upper levels; twice as many on the lowest level."""
    ef_construction: Annotated[int, Field(ge=8, le=2000)] = 200
    """Candidates that are kept while a vector is inserted into a graph."""
    ef_search: Annotated[int, Field(ge=1, le=EF_SEARCH_MAX)] = 128
    """Candidates that are kept while a graph is searched."""
    nlist: Annotated[int, Field(ge=1)] | None = None
    """Number of inverted lists. `null`: about 4 * sqrt(rows)."""
    nprobe: Annotated[int, Field(ge=1)] = 16
    """Inverted lists that a search looks into."""
    pq_m: Annotated[int, Field(ge=1)] | None = None
    """Parts that IVFPQ cuts a vector into, each of which becomes `pq_nbits` bits. It has to divide
    the dimension. `null`: parts of at most 4 numbers.
    """
    pq_nbits: Annotated[int, Field(ge=4, le=8)] = 8
    """Bits for each part of a vector in IVFPQ."""
    rescore: Annotated[int, Field(ge=1, le=RESCORE_MAX)] = 4
    """Candidates of IVFPQ and IVFSQ that are scored from their stored vectors, for each hit. Other
    kinds need no such number: a graph's candidate list is longer than the hits that were asked for.
    """
    fallback: bool = False
    """Whether a query is compared with every row if its hits are fewer or weaker than those of the
    corpus's own passages, which the build has measured.
    """
    seed: int = 1234
    """Seed of the random choices of a build."""

    def stretched(self, multiple: int) -> IndexParameters:
        """The same index, in which a search looks so many times as far."""
        return self.model_copy(
            update={
                "ef_search": min(EF_SEARCH_MAX, self.ef_search * multiple),
                "nprobe": self.nprobe * multiple,
                "rescore": min(RESCORE_MAX, self.rescore * multiple),
            }
        )


class AutoIndex(Record):
    """The choice of an index by the build. It measures kinds and search parameters on a sample and
    takes the cheapest that reaches the recall within the memory.
    """

    kind: Literal["auto"] = "auto"
    """Word that leaves the choice to the build."""
    metric: Metric = Metric.COSINE
    """Comparison of vectors, as with a named kind."""
    target_recall: Annotated[float, Field(ge=0.5, le=1.0)] = 0.95
    """Share of the exact ten best passages that a search has to find."""
    memory_bytes_max: Annotated[int, Field(ge=1)] | None = None
    """Bound on the index files of one replica of every shard, which a search walks through. The
    stored vectors, texts and metadata are not counted: a search reads them for its hits alone.
    `null`: no bound.
    """
    fallback: bool = False
    """Whether weak results are compared with every row, as with a named kind."""
    seed: int = 1234
    """Seed of the random choices of a build."""


class IndexTrial(Record):
    """What one kind of index was measured to do, at the least effort that reached the recall."""

    parameters: IndexParameters
    recall_at_10: float
    recall_at_10_least: float | None = Field(default=None, exclude_if=_is_none)
    """In the stratum in which least was found; None in older manifests."""
    query_us: float
    """One thread, one shard; extrapolated from the sample to the rows of a shard."""
    memory_bytes: int
    """Of the index files of all shards, extrapolated likewise."""
    is_chosen: bool = False


class IndexTuning(Record):
    """How `index: auto` came to its choice."""

    asked: AutoIndex
    rows_sampled: int
    trials: tuple[IndexTrial, ...]


class ShardArtifact(Record):
    """The files of one shard: `index.faiss` and `documents.arrow`; where rows share vectors,
    `vector_rows.arrow`; where it is partitioned, `partitions.arrow` and `partitions/{n}.faiss`;
    where documents were deleted since it was built, `tombstones.arrow`.
    """

    shard: Annotated[int, Field(ge=0)]
    num_rows: Annotated[int, Field(ge=0)]
    """Of the files, deleted ones included."""
    files: tuple[ArtifactFile, ...]
    recall_at_10: float
    strata: tuple[RecallStratum, ...] = Field(default=(), exclude_if=_is_empty)
    """What the average is made of; empty for Flat, which finds all, and in older manifests."""
    kind: IndexKind | None = Field(default=None, exclude_if=_is_none)
    """What it was built as, where the index's kind would have had a hole over these rows, or missed
    the recall that was asked for.
    """

    @property
    def recall(self) -> Recall:
        return Recall(recall_at_10=self.recall_at_10, strata=self.strata)

    @property
    def built_files(self) -> tuple[ArtifactFile, ...]:
        """What the build wrote: without the tombstones."""
        return tuple(file for file in self.files if file.path != TOMBSTONES_FILE)

    @property
    def tombstones(self) -> ArtifactFile | None:
        return next((file for file in self.files if file.path == TOMBSTONES_FILE), None)

    @property
    def folders(self) -> tuple[tuple[ArtifactFile, ...], ...]:
        """What a node keeps as a folder each: the tombstones apart, for what the build wrote may be
        there, and open, long before they are.
        """
        apart = () if self.tombstones is None else ((self.tombstones,),)
        return (self.built_files, *apart)


class IndexManifest(Record):
    """One built corpus. Stored at `indexes/{corpus}/{version}.json`."""

    format: Literal[1] = 1
    corpus: Name
    version: str
    """First 16 hex digits of the hash of everything that determines the build, so an index can be
    looked up unbuilt.
    """
    corpus_position: int
    dimension: Annotated[int, Field(ge=1)]
    parameters: IndexParameters
    embedder_fingerprint: Sha256 | None
    metadata_schema: dict[str, ColumnType]
    num_documents: int
    num_passages: int
    num_averaged: int | None = Field(default=None, exclude_if=_is_none)
    """Passages longer than the embedder reads, whose vectors are means over windows; those that a
    later part replaces are counted too. None: no passage was.
    """
    shards: tuple[ShardArtifact, ...]
    recall_at_10: float
    """Measured against exact search, averaged over shards by rows: of a sample of the distinct
    vectors, half at random and half far apart from each other, and of queries near them.
    """
    recall_at_10_least: float | None = Field(default=None, exclude_if=_is_none)
    """In the shard and the stratum of queries in which least is found; None in older manifests."""
    tuning: IndexTuning | None = None
    """None where the settings named the kind. A search may look further than the chosen trial did,
    where the whole index would have missed the recall otherwise.
    """
    partition_by: str | None = None
    """The metadata field by whose value documents were given to shards; None: by their ids."""
    base: str | None = Field(default=None, exclude_if=_is_none)
    """The version whose files these are, where documents were deleted from it and nothing was built
    anew.
    """
    built_at_ms: int

    def parameters_of(self, shard: ShardArtifact) -> IndexParameters:
        """How a shard of this index was built and is searched."""
        if shard.kind is None:
            return self.parameters
        return self.parameters.model_copy(update={"kind": shard.kind})


class ModelKind(StrEnum):
    EMBEDDER = "embedder"
    GENERATOR = "generator"


class Precision(StrEnum):
    """The numbers that an embedder computes its matrix products in; all else is float32. Vectors of
    different precisions differ, so the precision belongs to the model version, not to the machine.
    """

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    """faster on some of the processors that compute in it; its vectors have a cosine of at least
    0.999 with those of float32.
    """


def _is_float32(value: object) -> bool:
    # Left out, so that the fingerprints of models from before there was a choice stay as they are.
    return value is Precision.FLOAT32


class ModelManifest(Record):
    """A model version: a Hugging Face folder as an artifact. Stored at `models/{version}.json`."""

    format: Literal[1] = 1
    kind: ModelKind
    name: str
    version: str
    """First 16 hex digits of the fingerprint; where a model of another name or kind has the same
    files and that version, of the hash of name, kind and fingerprint.
    """
    fingerprint: Sha256
    """Hash over the paths and hashes of the files, and an embedder's precision: two folders with
    equal content that are computed alike have equal fingerprints.
    """
    files: tuple[ArtifactFile, ...]
    dimension: int | None = None
    """Length of an embedder's vectors; None for a generator."""
    precision: Precision = Field(default=Precision.FLOAT32, exclude_if=_is_float32)
    """Of an embedder; says nothing of a generator."""
