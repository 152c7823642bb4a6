"""LanceDB, in the child process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lancedb  # type: ignore[import-not-found,unused-ignore]
import numpy as np
import pyarrow as pa

from bench.peers.libraries.library_loop import Library, Rows, Vectors

_TOP_K = 10
_HNSW_M = 16
_EF_CONSTRUCTION = 200


class _LanceDb:
    def __init__(self, data: Path, own: Path) -> None:
        self.index = f"IVF_HNSW_FLAT of one partition, m {_HNSW_M}"
        self.is_tuned = True
        started_s = time.perf_counter()
        vectors = np.load(data / "vectors.npy")
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        rows = pa.table({"id": pa.array(np.arange(len(vectors))), "vector": lists})
        self._table: Any = lancedb.connect(str(own / "lance")).create_table("vectors", rows)
        self._table.create_index(
            metric="dot",
            index_type="IVF_HNSW_FLAT",
            num_partitions=1,
            m=_HNSW_M,
            ef_construction=_EF_CONSTRUCTION,
        )
        self.build_s = time.perf_counter() - started_s

    def search(self, vectors: Vectors, ef_search: int) -> Rows:
        query = self._table.search(vectors[0] if len(vectors) == 1 else list(vectors))
        found = query.limit(_TOP_K).nprobes(1).ef(ef_search).select(["id", "_distance"]).to_arrow()
        rows = np.full((len(vectors), _TOP_K), -1)
        ids = found["id"].to_numpy()
        if len(vectors) == 1:
            rows[0, : len(ids)] = ids
            return rows
        of_query = found["query_index"].to_numpy()
        for query_number in range(len(vectors)):
            mine = ids[of_query == query_number]
            rows[query_number, : len(mine)] = mine
        return rows


def open_library(data: Path, own: Path) -> Library:
    return _LanceDb(data, own)
