"""Starts an embedder replica as a Ray actor."""

from __future__ import annotations

from typing import Any

from actors.models.embedding_worker import EmbeddingWorker
from actors.runtime.wiring import detached_actor
from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.manifests import ModelManifest

_IN_FLIGHT_MAX = 512


def embedder_actor(name: str, model: ModelManifest, node: str, cache: ArtifactCache) -> Any:
    """The actor of one embedder replica: the running one, or a new one on that node."""
    return detached_actor(
        EmbeddingWorker,
        name,
        threads=_IN_FLIGHT_MAX,
        args=(model, cache),
        node=node,
    )
