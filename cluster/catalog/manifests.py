"""The store's records of corpora, index versions and model versions: manifests that name artifacts
by hash.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, PlainSerializer, PlainValidator, TypeAdapter

from cluster.artifacts.files import ArtifactFile, Sha256
from cluster.errors import InvalidArgument
from cluster.metadata import ColumnType
from cluster.mutations.watermark import HeldMutations, Watermark
from cluster.records import Name, Record, is_none
from cluster.shards.index_parameters import IndexKind, IndexParameters, IndexTuning
from cluster.shards.recall import Recall, RecallStratum

SOURCES_MAX = 100
"""A manifest that named every source would grow with every ingest."""
TOMBSTONES_FILE = "tombstones.arrow"
"""File in a shard's folder with the ids of documents that do not count."""


def _is_empty(value: tuple[object, ...]) -> bool:
    return not value


def _is_start(value: object) -> bool:
    return value == Watermark()


def _is_nothing(value: object) -> bool:
    return value == HeldMutations()


_TIMES = TypeAdapter(dict[str, str])
_POSITIONS = TypeAdapter(dict[str, Annotated[int, Field(ge=1)]])


def _watermark(value: object) -> Watermark:
    if isinstance(value, Watermark):
        return value
    return Watermark.of(_POSITIONS.validate_python(value))


LogPosition = Annotated[
    Watermark,
    PlainValidator(_watermark, json_schema_input_type=dict[str, int]),
    PlainSerializer(Watermark.as_dict, return_type=dict[str, int]),
]
"""A watermark, in JSON an object of positions by region. Left out where no log was read, so that
manifests from before there were logs keep their bytes.
"""


def _held(value: object) -> HeldMutations:
    if isinstance(value, HeldMutations):
        return value
    try:
        return HeldMutations.of(_TIMES.validate_python(value))
    except InvalidArgument as error:
        raise ValueError(str(error)) from error


Held = Annotated[
    HeldMutations,
    PlainValidator(_held, json_schema_input_type=dict[str, str]),
    PlainSerializer(HeldMutations.as_dict, return_type=dict[str, str]),
]
"""Mutations that a base holds, in JSON an object of times by region. Left out as a watermark is."""


class ManifestRef(Record):
    """Names one manifest in the store, and the hash that its bytes must have."""

    version: str
    sha256: Sha256


class CorpusManifest(Record):
    """One position of a corpus: all its documents, as an ordered list of parts.

    A part is a Parquet file of documents, as `cluster.documents.passages` says. Where two parts
    hold the same document, the later part wins whole; a document that the tombstones name counts in
    none of them. Stored at `corpora/{corpus}/{position:020}.json`.
    """

    format: Literal[1] = 1
    corpus: Name
    position: Annotated[int, Field(ge=1)]
    parts: tuple[ArtifactFile, ...]
    tombstones: ArtifactFile | None = Field(default=None, exclude_if=is_none)
    """Ids of the deleted documents that parts still hold; see `cluster.documents.tombstones`."""
    num_documents: Annotated[int, Field(ge=0)]
    num_passages: Annotated[int, Field(ge=0)]
    """Rows of the parts that count: one for each document, but for those that an older version had
    cut before it stored them.
    """
    metadata_schema: dict[str, ColumnType]
    vector_dimension: int | None
    """Length of the ready-made vectors, or None when the passages are to be embedded."""
    sources: tuple[str, ...]
    """Sources of the corpus's documents: the latest SOURCES_MAX."""
    watermark: LogPosition = Field(default=Watermark(), exclude_if=_is_start)
    """How far the logs of mutations count in these documents: what they say up to there is in the
    parts and tombstones, or was replaced by a later ingest or delete.
    """
    held: Held = Field(default=HeldMutations(), exclude_if=_is_nothing)
    """The mutations up to the watermark."""
    spans: tuple[ArtifactFile, ...] = Field(default=(), exclude_if=_is_empty)
    """Each named `{region}/{position}`: which mutations of the region's log up to that position
    count, without contents, as one batch of the log. A compaction goes on from there.
    """
    created_at_ms: int

    @property
    def is_dropped(self) -> bool:
        """True when the corpus was dropped: only a drop leaves a position without parts."""
        return not self.parts and not self.num_documents

    def content(self) -> CorpusManifest:
        """Equal for equal documents, whenever and wherever they were read."""
        return self.model_copy(
            update={
                "position": 1,
                "created_at_ms": 0,
                "sources": (),
                "watermark": Watermark(),
                "held": HeldMutations(),
                "spans": (),
            }
        )


class ShardArtifact(Record):
    """The files of one shard: `index.faiss` and `documents.arrow`; where rows share vectors,
    `vector_rows.arrow`; where it is partitioned, `partitions.arrow` and `partitions/{n}.faiss`;
    where documents were deleted since it was built, `tombstones.arrow`.
    """

    shard: Annotated[int, Field(ge=0)]
    num_rows: Annotated[int, Field(ge=0)]
    """Rows of the files, deleted ones included."""
    files: tuple[ArtifactFile, ...]
    recall_at_10: float
    strata: tuple[RecallStratum, ...] = Field(default=(), exclude_if=_is_empty)
    """Strata that the average is made of; empty for Flat, which finds all, and in older manifests.
    """
    kind: IndexKind | None = Field(default=None, exclude_if=is_none)
    """Kind that the shard was built as, if the index's kind would have had a hole over these rows,
    or missed the recall that was asked for.
    """

    @property
    def recall(self) -> Recall:
        return Recall(recall_at_10=self.recall_at_10, strata=self.strata)

    @property
    def built_files(self) -> tuple[ArtifactFile, ...]:
        """The files that the build wrote, without the tombstones."""
        return tuple(file for file in self.files if file.path != TOMBSTONES_FILE)

    @property
    def tombstones(self) -> ArtifactFile | None:
        return next((file for file in self.files if file.path == TOMBSTONES_FILE), None)

    @property
    def folders(self) -> tuple[tuple[ArtifactFile, ...], ...]:
        """The files that a node keeps as one folder each. Tombstones have a folder of their own,
        because the build's files may be there, and open, long before the tombstones are.
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
    num_averaged: int | None = Field(default=None, exclude_if=is_none)
    """Passages longer than the embedder reads, whose vectors are means over windows; those that a
    later part replaces are counted too. None: no passage was.
    """
    shards: tuple[ShardArtifact, ...]
    recall_at_10: float
    """Measured against exact search, averaged over shards by rows: of queries that were held out of
    the index. In older manifests: of a sample of the distinct vectors, and of queries near them.
    """
    recall_at_10_least: float | None = Field(default=None, exclude_if=is_none)
    """Recall in the shard and the stratum of queries in which least is found; None in older
    manifests.
    """
    tuning: IndexTuning | None = None
    """None where the settings named the kind. A search may look further than the chosen trial did,
    where the whole index would have missed the recall otherwise.
    """
    partition_by: str | None = None
    """The metadata field by whose value documents were given to shards; None: by their ids."""
    base: str | None = Field(default=None, exclude_if=is_none)
    """The version whose files these are, where documents were deleted from it, or the watermark
    has come further, and nothing was built anew.
    """
    watermark: LogPosition = Field(default=Watermark(), exclude_if=_is_start)
    """That of the corpus position: what the logs say up to there need not be read beside this."""
    held: Held = Field(default=HeldMutations(), exclude_if=_is_nothing)
    """The mutations up to the watermark."""
    built_at_ms: int

    def parameters_of(self, shard: ShardArtifact) -> IndexParameters:
        """Parameters by which a shard of this index was built and is searched."""
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


class Runtime(StrEnum):
    """The library that computes an embedder's vectors. Those of two libraries differ in their last
    bits, so the runtime belongs to the model version, not to the machine.
    """

    TORCH = "torch"
    """computes every model"""
    OPENVINO = "openvino"
    """computes a graph that is made when the model is stored"""


class RuntimeTrial(Record):
    """What was measured of one runtime when an embedder was stored, on one thread."""

    runtime: Runtime
    question_ms: float
    """Milliseconds for a question of one sentence."""
    passages_per_s: float
    """Passages of a hundred tokens or so in a second."""
    cosine_min: float
    """Least cosine between a vector and that of PyTorch in float32."""


# These are left out of manifests and fingerprints, so that the models from before there was a
# choice keep theirs.
def _is_float32(value: object) -> bool:
    return value is Precision.FLOAT32


def _is_torch(value: object) -> bool:
    return value is Runtime.TORCH


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
    """Hash over the paths and hashes of the source's files, and an embedder's precision and
    runtime: two folders with equal content that are computed alike have equal fingerprints.
    """
    files: tuple[ArtifactFile, ...]
    """Files of the source, and those that the runtime needs besides."""
    dimension: int | None = None
    """Length of an embedder's vectors; None for a generator."""
    precision: Precision = Field(default=Precision.FLOAT32, exclude_if=_is_float32)
    """Precision of an embedder; it means nothing for a generator."""
    runtime: Runtime = Field(default=Runtime.TORCH, exclude_if=_is_torch)
    """Runtime of an embedder, PyTorch in older manifests; it means nothing for a generator."""
    trials: tuple[RuntimeTrial, ...] = Field(default=(), exclude_if=_is_empty)
    """Runtimes of which this one was taken, as measured; empty where none was measured."""

    @property
    def run_files(self) -> tuple[ArtifactFile, ...]:
        """The files that the model runs from. Where it runs without PyTorch, the weights of the
        source are only kept for other runtimes.
        """
        if self.runtime is Runtime.TORCH:
            return self.files
        return tuple(file for file in self.files if not file.path.endswith(".safetensors"))


Manifest = CorpusManifest | IndexManifest | ModelManifest


def blobs_of(manifest: Manifest) -> tuple[ArtifactFile, ...]:
    """The blobs that a manifest needs, each as a file stored whole."""
    match manifest:
        case CorpusManifest():
            deleted = () if manifest.tombstones is None else (manifest.tombstones,)
            files = (*manifest.parts, *deleted, *manifest.spans)
        case IndexManifest():
            files = tuple(file for shard in manifest.shards for file in shard.files)
        case ModelManifest():
            files = manifest.files
    return tuple(blob for file in files for blob in file.blobs)
