"""A search through the Python client, as a function that can be timed."""

from __future__ import annotations

from collections.abc import Callable

import ray

from actors.region_client import connect
from cluster.arrays import Float32Array


def python_client() -> Callable[[Float32Array, str, int], None]:
    """Needs a process that has joined the region's cluster."""
    region = connect()

    def search(vectors: Float32Array, corpus: str, top_k: int) -> None:
        ray.get(region.search.remote(vectors=vectors, corpus=corpus, top_k=top_k))

    return search
