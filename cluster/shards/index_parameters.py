"""The kinds of index, how one is built and searched, and how `auto` chooses one."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from cluster.records import Record, is_none
from cluster.vectors.metric import Metric

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
        """True for a kind that searches `nprobe` inverted lists, whose centroids are trained."""
        return self in (IndexKind.IVF_FLAT, IndexKind.IVF_PQ, IndexKind.IVF_SQ)

    @property
    def is_graph(self) -> bool:
        """True for a kind that walks a graph, with a candidate list of `ef_search`."""
        return self in (IndexKind.HNSW, IndexKind.HNSW_SQ)

    @property
    def is_trained(self) -> bool:
        """True for a kind that has to see a sample before it takes the first vector."""
        return self.has_lists or self is IndexKind.HNSW_SQ

    @property
    def is_quantized(self) -> bool:
        return self in (IndexKind.IVF_PQ, IndexKind.IVF_SQ, IndexKind.HNSW_SQ)


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
    """The measurement of one kind of index, at the least effort that reached the recall."""

    parameters: IndexParameters
    recall_at_10: float
    recall_at_10_least: float | None = Field(default=None, exclude_if=is_none)
    """Recall in the stratum in which least was found; None in older manifests."""
    query_us: float
    """One thread, one shard; extrapolated from the sample to the rows of a shard."""
    memory_bytes: int
    """Size of the index files of all shards, extrapolated likewise."""
    is_chosen: bool = False


class IndexTuning(Record):
    """The measurements by which `index: auto` came to its choice."""

    asked: AutoIndex
    rows_sampled: int
    trials: tuple[IndexTrial, ...]
