"""The systems that are compared, by the name that `--systems` takes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from bench.load.client import LoadGenerator
from bench.peers.contract import System
from bench.peers.vector_sets import VectorSet

_SYSTEMS = {
    "faiss-1": "in_process:one_thread",
    "faiss-2": "in_process:two_threads",
    "limit": "trivial:running",
    "raygion-1x1": "raygion:one_shard",
    "raygion-2x1": "raygion:two_shards",
    "raygion-2x1-hnsw": "raygion:two_shards_float32",
    "raygion-2x2": "raygion:two_shards_twice",
    "fastapi": "fastapi_faiss:running",
    "ray-serve": "ray_serve_faiss:one_replica",
    "ray-serve-2": "ray_serve_faiss:two_replicas",
    "pgvector": "pgvector:running",
    "chroma": "chroma:running",
    "lancedb": "lancedb:running",
    "milvus-lite": "milvus_lite:running",
}
NAMES = tuple(_SYSTEMS)

Running = Callable[[VectorSet, Path, LoadGenerator], AbstractContextManager[System]]


def running(
    name: str, data: VectorSet, folder: Path, load: LoadGenerator
) -> AbstractContextManager[System]:
    """Starts the system and gives it the vectors; every process of it is gone after the block.

    Raises NotMeasured when that cannot be.
    """
    module, _, function = _SYSTEMS[name].partition(":")
    start: Running = getattr(importlib.import_module(f"bench.peers.{module}"), function)
    return start(data, folder, load)
