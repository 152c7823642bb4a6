"""Starts an embedder replica as a Ray actor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.models.embedding_worker import EmbeddingWorker
from actors.runtime.wiring import detached_actor
from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.manifests import ModelManifest
from cluster.store.object_store import ObjectStore

_IN_FLIGHT_MAX = 512


def embedder_actor(
    name: str, model: ModelManifest, node: str, *, store: ObjectStore, cache_folder: Path
) -> Any:
    """The actor of one embedder replica: the running one, or a new one on that node."""
    return detached_actor(
        EmbeddingWorker,
        name,
        threads=_IN_FLIGHT_MAX,
        args=(model, ArtifactCache(Artifacts(store), cache_folder)),
        node=node,
    )
