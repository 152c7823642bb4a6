"""The values of the query path: what a caller asks, what a shard answers, what the caller gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cluster.arrays import BytesArray, Float32Array, Int64Array, Mask
from cluster.metadata import Metadata
from cluster.query.filters import Filter
from cluster.query.provenance import HasProvenance
from cluster.query.request import Embedded, Request

TOP_K_DEFAULT = 10
REPLY_BYTES_MAX = 64 * 2**20
"""Longest reply to one search. So that its texts do not fill the memory before that is known, a
shard sends no more of them at once, either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchEffort:
    """The effort of a search in an approximate index; None: the effort that the build chose."""

    ef_search: int | None = None
    """Length of the candidate list of an HNSW graph."""
    nprobe: int | None = None
    """Inverted lists that an IVF index looks into."""
    exact: bool = False
    """Compares with every row, whatever the index."""


AS_TUNED = SearchEffort()


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest(Request):
    """One search or a batch of them. Exactly one of `queries` and `vectors` is given."""

    queries: tuple[str, ...] | None = None
    vectors: Float32Array | None = None
    """float32 [n, d]; or flat, [n * d], to be cut into rows of the index's dimension."""
    top_k: int = TOP_K_DEFAULT
    fields: tuple[str, ...] | None = None
    """Metadata fields to return; None returns all."""
    timeout_s: float = 5.0
    partial_share: float = 0.8
    """Share of the time in which shards that may be missing are waited for; the later steps need
    the rest.
    """
    effort: SearchEffort = AS_TUNED
    passages: bool = True
    """False leaves texts and metadata out, and the hits are arrays."""


# Not frozen: a batch makes thousands, and freezing doubles what one costs.
@dataclass(slots=True, kw_only=True)
class Hit:
    id: str
    score: float
    text: str
    metadata: Metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult(HasProvenance):
    results: tuple[tuple[Hit, ...], ...]
    """One list of hits, best first, for each query of the batch; empty where `arrays` is not."""
    took_ms: float
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    """Time of each stage: embed, wait, scatter, merge, fetch."""
    arrays: MergedHits | None = None
    """The hits of a request without `passages`."""
    fell_back: tuple[bool, ...] = ()
    """For each query: True when some shard compared the query with all of its rows, since its index
    had found too few or too weak hits. Empty if no shard has such a fallback.
    """

    @property
    def hits(self) -> tuple[Hit, ...]:
        """The hits of the first (often the only) query."""
        return self.results[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingResult(HasProvenance):
    embedded: Embedded
    num_tokens: int
    """Tokens of all texts, without the special ones that the embedder adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentsSeen:
    """The live documents that a search sees: those of one version (`cluster.deltas`)."""

    epoch: str
    version: int
    embedder: str | None
    """Model version of the vectors that are compared; None: callers brought them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardQuery:
    """One batch for one shard, pinned to an index version."""

    corpus: str
    index_version: str
    vectors: Float32Array
    """float32 [n, d], C-contiguous; already normalised where the metric is cosine."""
    top_k: int
    filter: Filter | None = None
    effort: SearchEffort = SearchEffort()
    documents: DocumentsSeen | None = None
    """A shard leaves out the rows that these replace; None: it has all its rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardHits:
    """The hits of one shard: row i belongs to query i, best first by (score descending, id
    ascending).

    Short rows are padded at the end with score -inf, row -1 and an empty id.
    """

    scores: Float32Array
    """float32 [n, k], higher is better"""
    rows: Int64Array
    """int64 [n, k], row numbers inside the shard"""
    ids: BytesArray
    """bytes [n, k], passage ids in UTF-8"""
    fell_back: Mask | None = None
    """bool [n]: whether the index's hits were too few or too weak, and all rows were compared; None
    where the index has no fallback.
    """

    @classmethod
    def joined(cls, each: Sequence[ShardHits]) -> ShardHits:
        """The hits of several batches of queries, one or more, as those of one batch."""
        marks = [one.fell_back for one in each if one.fell_back is not None]
        return cls(
            scores=np.concatenate([one.scores for one in each]),
            rows=np.concatenate([one.rows for one in each]),
            ids=np.concatenate([one.ids for one in each]),
            fell_back=np.concatenate(marks) if marks else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedHits:
    """The best k over all shards, in the order and with the padding of ShardHits; `shards` is -1
    where padded.
    """

    scores: Float32Array
    rows: Int64Array
    ids: BytesArray
    shards: npt.NDArray[np.int32]

    def of_queries(self, start: int, end: int) -> MergedHits:
        """The hits of the queries from `start` to before `end`."""
        queries = slice(start, end)
        return MergedHits(
            scores=self.scores[queries],
            rows=self.rows[queries],
            ids=self.ids[queries],
            shards=self.shards[queries],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Passages:
    """Texts and metadata of rows of one shard, in the order that was asked; of the first rows only,
    where those of all are longer than `REPLY_BYTES_MAX`.
    """

    texts: tuple[str, ...]
    metadata: tuple[Metadata, ...]
