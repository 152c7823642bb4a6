"""What the store says of corpora, index versions and model versions: manifests that name artifacts
by hash.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from cluster.records import Record

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Names become parts of paths, of actor names and of URLs, so they are kept to what is safe in all
# three.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class ArtifactFile(Record):
    """One file of an artifact: its path inside the artifact's folder and the content that it must
    have.
    """

    path: str
    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


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

    A part is a Parquet file of passages. Where two parts hold the same document, the later part
    wins whole. Stored at `corpora/{corpus}/{position:020}.json`.
    """

    format: Literal[1] = 1
    corpus: Name
    position: Annotated[int, Field(ge=1)]
    parts: tuple[ArtifactFile, ...]
    num_documents: Annotated[int, Field(ge=0)]
    num_passages: Annotated[int, Field(ge=0)]
    metadata_schema: dict[str, ColumnType]
    vector_dimension: int | None
    """Length of the ready-made vectors, or None when the passages are to be embedded."""
    sources: tuple[str, ...]
    created_at_ms: int


class IndexKind(StrEnum):
    FLAT = "Flat"
    IVF_FLAT = "IVFFlat"
    HNSW = "HNSW"


class Metric(StrEnum):
    """How vectors are compared. Scores are always "higher is better": for L2 the score is minus the
    squared distance.
    """

    INNER_PRODUCT = "ip"
    COSINE = "cosine"
    L2 = "l2"


class IndexParameters(Record):
    """How a shard's index is built and searched."""

    kind: IndexKind = IndexKind.HNSW
    metric: Metric = Metric.COSINE
    hnsw_m: Annotated[int, Field(ge=2, le=128)] = 32
    ef_construction: Annotated[int, Field(ge=8, le=2000)] = 200
    ef_search: Annotated[int, Field(ge=1, le=10_000)] = 128
    nlist: Annotated[int, Field(ge=1)] | None = None
    """Number of inverted lists; None takes about 4 * sqrt(rows)."""
    nprobe: Annotated[int, Field(ge=1)] = 16
    seed: int = 1234


class ShardArtifact(Record):
    """The files of one shard: `index.faiss` and `documents.arrow`, in the same row order."""

    shard: Annotated[int, Field(ge=0)]
    num_rows: Annotated[int, Field(ge=0)]
    files: tuple[ArtifactFile, ...]
    recall_at_10: float


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
    shards: tuple[ShardArtifact, ...]
    recall_at_10: float
    """Measured on a sample of rows against exact search, averaged over shards by rows."""
    built_at_ms: int


class ModelKind(StrEnum):
    EMBEDDER = "embedder"
    GENERATOR = "generator"


class ModelManifest(Record):
    """A model version: a Hugging Face folder as an artifact. Stored at `models/{version}.json`."""

    format: Literal[1] = 1
    kind: ModelKind
    name: str
    version: str
    """First 16 hex digits of the fingerprint."""
    fingerprint: Sha256
    """Hash over the paths and hashes of the files: two folders with equal content have equal
    fingerprints.
    """
    files: tuple[ArtifactFile, ...]
    dimension: int | None = None
    """Length of an embedder's vectors; None for a generator."""
