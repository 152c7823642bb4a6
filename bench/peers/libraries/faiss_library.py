"""Faiss itself, in the child process."""

from __future__ import annotations

import json
from pathlib import Path

from actors.shards.faiss_index import faiss
from bench.peers.libraries.library_loop import Library, Rows, Vectors

_TOP_K = 10


class _Faiss:
    def __init__(self, data: Path) -> None:
        facts = json.loads((data / "facts.json").read_text())
        self.index = f"Faiss HNSW, efSearch {facts['ef_search']}"
        self.is_tuned = False
        self.build_s: float = facts["build_s"]
        self._searched = faiss.read_index(str(data / "index.faiss"))
        self._searched.hnsw.efSearch = facts["ef_search"]

    def search(self, vectors: Vectors, ef_search: int) -> Rows:
        # The setting is each thread's own; here the clients are what searches in parallel.
        faiss.omp_set_num_threads(1)
        rows: Rows = self._searched.search(vectors, _TOP_K)[1]
        return rows


def open_library(data: Path, own: Path) -> Library:
    return _Faiss(data)
