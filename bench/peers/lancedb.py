"""LanceDB in the process that asks, from threads."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from bench.load import LoadGenerator
from bench.peers.contract import System
from bench.peers.library import library_system
from bench.serve_data import VectorSet


def running(data: VectorSet, folder: Path, load: LoadGenerator) -> AbstractContextManager[System]:
    return library_system("LanceDB, embedded", "bench.peers.lancedb_library", data, folder)
