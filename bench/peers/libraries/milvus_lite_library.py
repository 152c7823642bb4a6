"""Milvus Lite, in the child process, through its client."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from pymilvus import DataType, MilvusClient  # type: ignore[import-not-found,unused-ignore]

from bench.peers.libraries.library_loop import Library, Rows, Vectors

_TOP_K = 10
_HNSW_M = 16
_EF_CONSTRUCTION = 200
_ROWS_EACH = 10_000
_NAME = "vectors"


class _MilvusLite:
    def __init__(self, data: Path, own: Path) -> None:
        self.index = f"HNSW, M {_HNSW_M}, efConstruction {_EF_CONSTRUCTION}"
        self.is_tuned = True
        started_s = time.perf_counter()
        vectors = np.load(data / "vectors.npy")
        self._client = MilvusClient(str(own / "milvus.db"))
        schema = self._client.create_schema()
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
        self._client.create_collection(_NAME, schema=schema)
        for start in range(0, len(vectors), _ROWS_EACH):
            rows = vectors[start : start + _ROWS_EACH]
            entries = [{"id": start + n, "vector": row} for n, row in enumerate(rows)]
            self._client.insert(_NAME, entries)
        self._client.flush(_NAME)
        index = self._client.prepare_index_params()
        index.add_index(
            "vector",
            index_type="HNSW",
            metric_type="IP",
            params={"M": _HNSW_M, "efConstruction": _EF_CONSTRUCTION},
        )
        self._client.create_index(_NAME, index)
        self._client.load_collection(_NAME)
        self.build_s = time.perf_counter() - started_s

    def search(self, vectors: Vectors, ef_search: int) -> Rows:
        found = self._client.search(
            _NAME, list(vectors), limit=_TOP_K, search_params={"params": {"ef": ef_search}}
        )
        rows = np.full((len(vectors), _TOP_K), -1)
        for number, hits in enumerate(found):
            ids = [hit["id"] for hit in hits]
            rows[number, : len(ids)] = ids
        return rows


def open_library(data: Path, own: Path) -> Library:
    return _MilvusLite(data, own)
