"""The kinds of index, how one is built and searched, and how `auto` chooses one."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from cluster.records import Record, is_none
from cluster.vectors.metric import Metric

EF_SEARCH_MAX = 10_000
RESCORE_MAX = 1000
TARGET_RECALL = 0.95

TargetRecall = Annotated[float, Field(ge=0.5, le=1.0)]
EfSearch = Annotated[int, Field(ge=1, le=EF_SEARCH_MAX)]
Nprobe = Annotated[int, Field(ge=1)]
Rescore = Annotated[int, Field(ge=1, le=RESCORE_MAX)]


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


class _BuildParameters(Record):
    """The building of a shard's index."""

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
    nlist: Annotated[int, Field(ge=1)] | None = None
    """Number of inverted lists. `null`: about 4 * sqrt(rows)."""
    pq_m: Annotated[int, Field(ge=1)] | None = None
    """Parts that IVFPQ cuts a vector into, each of which becomes `pq_nbits` bits. It has to divide
    the dimension. `null`: parts of at most 4 numbers.
    """
    pq_nbits: Annotated[int, Field(ge=4, le=8)] = 8
    """Bits for each part of a vector in IVFPQ."""
    fallback: bool = False
    """Whether a query is compared with every row if its hits are fewer or weaker than those of the
    corpus's own passages, which the build has measured.
    """
    seed: int = 1234
    """Seed of the random choices of a build."""


class IndexParameters(_BuildParameters):
    """The building and searching of a shard's index. The effort of a search is `ef_search` for a
    graph, and `nprobe` and `rescore` for inverted lists.
    """

    ef_search: EfSearch = 128
    """Candidates that are kept while a graph is searched."""
    nprobe: Nprobe = 16
    """Inverted lists that a search looks into."""
    rescore: Rescore = 4
    """Candidates of IVFPQ and IVFSQ that are scored from their stored vectors, for each hit. Other
    kinds need no such number: a graph's candidate list is longer than the hits that were asked for.
    """
    target_recall: float | None = Field(default=None, exclude_if=is_none)
    """The recall@10 that the build has measured the effort for, or is to; None where the settings
    gave the effort.
    """

    def stretched(self, multiple: int) -> IndexParameters:
        """The same index, in which a search looks so many times as far."""
        return self.model_copy(
            update={
                "ef_search": min(EF_SEARCH_MAX, self.ef_search * multiple),
                "nprobe": self.nprobe * multiple,
                "rescore": min(RESCORE_MAX, self.rescore * multiple),
            }
        )

    def with_effort_of(self, others: Iterable[IndexParameters]) -> IndexParameters:
        """The same index, searched with the most effort of any of the others, one at least."""
        each = tuple(others)
        return self.model_copy(
            update={
                "ef_search": max(other.ef_search for other in each),
                "nprobe": max(other.nprobe for other in each),
                "rescore": max(other.rescore for other in each),
            }
        )


class NamedIndex(_BuildParameters):
    """The building and searching of a shard's index. The build measures how much effort a search
    needs to find `target_recall`, unless the effort is given here: `ef_search` for a graph,
    `nprobe` or `rescore` for inverted lists.
    """

    target_recall: TargetRecall = TARGET_RECALL
    """Share of the exact ten best passages that a search has to find on average; `recall` for
    short. It means nothing where the effort is given.
    """
    ef_search: EfSearch | None = None
    """Candidates that are kept while a graph is searched. `null`: as many as `target_recall`
    takes.
    """
    nprobe: Nprobe | None = None
    """Inverted lists that a search looks into. `null`: as many as `target_recall` takes, or 16 if
    `rescore` is given.
    """
    rescore: Rescore | None = None
    """Candidates of IVFPQ and IVFSQ that are scored from their stored vectors, for each hit. Other
    kinds need no such number: a graph's candidate list is longer than the hits that were asked for.
    `null`: as many as `target_recall` takes, or 4 if `nprobe` is given.
    """

    @property
    def is_tuned(self) -> bool:
        """True when the build measures the effort."""
        if self.kind.is_graph:
            return self.ef_search is None
        return self.kind.has_lists and self.nprobe is None and self.rescore is None

    @property
    def parameters(self) -> IndexParameters:
        """The parameters of the build; those of the search as given, and the usual ones for what
        is not.
        """
        given = self.model_dump(exclude_none=True)
        given["target_recall"] = self.target_recall if self.is_tuned else None
        return IndexParameters.model_validate(given)


class AutoIndex(Record):
    """The choice of an index by the build. It measures kinds and search parameters on a sample and
    takes the cheapest that reaches the recall within the memory.
    """

    kind: Literal["auto"] = "auto"
    """Word that leaves the choice to the build."""
    metric: Metric = Metric.COSINE
    """Comparison of vectors, as with a named kind."""
    target_recall: TargetRecall = TARGET_RECALL
    """Share of the exact ten best passages that a search has to find on average; `recall` for
    short.
    """
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
