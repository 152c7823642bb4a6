"""A Faiss index behind a JSON interface: what one would write around it to serve it over HTTP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson

from actors.shards.faiss_index import faiss

_TOP_K = 10


class FaissAnswer:
    """`{"vector": [...]}` or `{"vectors": [[...]]}` in, ids and scores of the ten best out."""

    def __init__(self, index_file: Path, ef_search: int, threads: int) -> None:
        self._index = faiss.read_index(str(index_file))
        self._index.hnsw.efSearch = ef_search
        self._threads = threads
        faiss.omp_set_num_threads(threads)

    def __call__(self, body: bytes) -> bytes:
        asked = orjson.loads(body)
        is_batch = "vectors" in asked
        vectors = np.array(asked["vectors"] if is_batch else [asked["vector"]], dtype=np.float32)
        scores, rows = self._index.search(vectors, _TOP_K)
        results = [{"hits": _hits(*pair)} for pair in zip(scores, rows, strict=True)]
        return orjson.dumps({"results": results} if is_batch else results[0])


def _hits(scores: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> list[dict[str, object]]:
    pairs = zip(rows.tolist(), scores.tolist(), strict=True)
    return [{"id": str(row), "score": score} for row, score in pairs]
