"""Building one index file with Faiss: its training and its vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from actors.shards.faiss_index import faiss, filled_up, metric_of, one_thread
from cluster.arrays import Float32Array
from cluster.errors import InvalidArgument
from cluster.shards.index_parameters import IndexKind, IndexParameters

# k-means of Faiss warns below 39 training points for each centroid.
_POINTS_PER_LIST_MIN = 39
# Codes for each number of IVFSQ and HNSWSQ, between its least and its most in training.
_ONE_BYTE = faiss.ScalarQuantizer.QT_8bit
# A code book needs a point for each code, and with so many the clustering of Faiss takes another
# kernel, twelve times as fast for each: fewer points take longer. The same ones again will do.
_CODE_BOOK_POINTS = 1 << 15
# More rounds of clustering found no better code books (GloVe, 50,000 x 100).
_CODE_BOOK_ROUNDS = 10


def num_lists(num_rows: int, asked: int | None, num_trained_on: int | None = None) -> int:
    """Inverted lists of an IVF: as asked or 4 * sqrt(rows), but no more than can be trained."""
    wanted = round(4 * num_rows**0.5) if asked is None else asked
    points = num_rows if num_trained_on is None else min(num_rows, num_trained_on)
    return max(1, min(wanted, points // _POINTS_PER_LIST_MIN))


def num_subquantizers(dimension: int, asked: int | None, numbers_max: int = 4) -> int:
    """Parts that a product quantizer cuts a vector into: as asked, or the fewest that are no longer
    than `numbers_max`. Raises InvalidArgument for what does not divide the dimension.
    """
    if asked is not None and dimension % asked:
        raise InvalidArgument(f"must divide the vectors' {dimension} numbers", "index.pq_m")
    least = -(-dimension // numbers_max)
    return asked or next(m for m in range(least, dimension + 1) if dimension % m == 0)


def train_index(
    sample: Float32Array, parameters: IndexParameters, rows_per_shard: int
) -> bytes | None:
    """An empty index with its centroids, code book or ranges, for shards of so many rows; None for
    a kind without any. Equal input, equal bytes.

    sample: float32 [n, d], as the index stores vectors; n may be 0.
    """
    if not parameters.kind.is_trained:
        return None
    sample = filled_up(sample, parameters.kind)
    if parameters.kind is IndexKind.HNSW_SQ:
        return _trained_graph(sample, parameters)
    with one_thread():
        lists = num_lists(rows_per_shard, parameters.nlist, len(sample))
        index = _untrained_lists(sample.shape[1], lists, parameters)
        if len(sample):
            points = _CODE_BOOK_POINTS if parameters.kind is IndexKind.IVF_PQ else 0
            index.train(np.resize(sample, (max(len(sample), points), sample.shape[1])))
        return bytes(faiss.serialize_index(index))


def write_index(
    vectors: Float32Array, parameters: IndexParameters, path: Path, trained: bytes | None = None
) -> None:
    """Builds the index over float32 [n, d] and writes it; n may be 0. Equal input, equal bytes.

    trained: what `train_index` returned; None trains on the vectors themselves.

    One thread: HNSW inserts in the order of the threads otherwise, and shards are built side by
    side anyway.
    """
    num_rows, dimension = vectors.shape
    metric = metric_of(parameters)
    with one_thread():
        match parameters.kind:
            case IndexKind.FLAT:
                index = faiss.IndexFlat(dimension, metric)
            case IndexKind.IVF_FLAT | IndexKind.IVF_PQ | IndexKind.IVF_SQ | IndexKind.HNSW_SQ:
                data = trained or train_index(vectors, parameters, num_rows)
                assert data is not None
                index = faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
            case IndexKind.HNSW:
                index = faiss.IndexHNSWFlat(dimension, parameters.hnsw_m, metric)
        if parameters.kind.is_graph:
            index.hnsw.rng = faiss.RandomGenerator(_seed(parameters))
            index.hnsw.efConstruction = parameters.ef_construction
        if num_rows:
            index.add(filled_up(vectors, parameters.kind))
        faiss.write_index(index, str(path))


def _trained_graph(sample: Float32Array, parameters: IndexParameters) -> bytes:
    dimension, links = sample.shape[1], parameters.hnsw_m
    with one_thread():
        index = faiss.IndexHNSWSQ(dimension, _ONE_BYTE, links, metric_of(parameters))
        # An empty shard, too, must be written as one that takes vectors.
        index.train(sample if len(sample) else np.zeros((1, dimension), dtype=np.float32))
        return bytes(faiss.serialize_index(index))


def _untrained_lists(dimension: int, lists: int, parameters: IndexParameters) -> Any:
    metric = metric_of(parameters)
    quantizer = faiss.IndexFlat(dimension, metric)
    match parameters.kind:
        case IndexKind.IVF_PQ:
            subquantizers = num_subquantizers(dimension, parameters.pq_m)
            nbits = parameters.pq_nbits
            index = faiss.IndexIVFPQ(quantizer, dimension, lists, subquantizers, nbits, metric)
            index.pq.cp.seed = _seed(parameters)
            index.pq.cp.min_points_per_centroid = 1
            index.pq.cp.niter = _CODE_BOOK_ROUNDS
        case IndexKind.IVF_SQ:
            index = faiss.IndexIVFScalarQuantizer(quantizer, dimension, lists, _ONE_BYTE, metric)
        case _:
            index = faiss.IndexIVFFlat(quantizer, dimension, lists, metric)
    index.cp.seed = _seed(parameters)
    # Silences the warning for a single list over fewer rows than that.
    index.cp.min_points_per_centroid = 1
    return index


def _seed(parameters: IndexParameters) -> int:
    return parameters.seed & 0x7FFFFFFF
