"""Faiss in the process that asks: what any server can at most reach."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from bench.load.client import LoadGenerator
from bench.peers.contract import Case, System
from bench.peers.libraries.library import library_system
from bench.peers.vector_sets import VectorSet


def running(
    data: VectorSet, folder: Path, load: LoadGenerator, *, threads: int
) -> AbstractContextManager[System]:
    return library_system(
        f"Faiss in process, {threads} thread" + ("s" if threads > 1 else ""),
        "bench.peers.libraries.faiss_library",
        data,
        folder,
        cases=(Case(clients=threads, batch=1), Case(clients=threads, batch=64)),
        in_peers_environment=False,
    )


one_thread = partial(running, threads=1)
two_threads = partial(running, threads=2)
