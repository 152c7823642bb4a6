"""A node's copies of artifacts."""

from __future__ import annotations

from pathlib import Path

from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.cache import ArtifactCache
from cluster.store.object_store import ObjectStore


def node_cache(store: ObjectStore, folder: Path) -> ArtifactCache:
    return ArtifactCache(Artifacts(store), folder)
