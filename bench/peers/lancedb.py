"""LanceDB in the process that asks, from threads."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from bench.load.client import LoadGenerator
from bench.peers.contract import System
from bench.peers.libraries.library import library_system
from bench.peers.vector_sets import VectorSet


def running(data: VectorSet, folder: Path, load: LoadGenerator) -> AbstractContextManager[System]:
    return library_system(
        "LanceDB, embedded", "bench.peers.libraries.lancedb_library", data, folder
    )
