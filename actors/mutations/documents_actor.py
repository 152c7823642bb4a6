"""Starts the region's documents actor."""

from __future__ import annotations

from typing import Any

from actors.mutations.documents import Documents
from actors.runtime import names
from actors.runtime.calls import NamedActor
from actors.runtime.wiring import detached_actor
from cluster.artifacts.cache import ArtifactCache
from cluster.config import Settings
from cluster.store.object_store import ObjectStore

_IN_FLIGHT_MAX = 1024


def documents_actor(
    settings: Settings, region: str, store: ObjectStore, cache: ArtifactCache
) -> Any:
    """The actor: the running one, or a new one."""
    return detached_actor(
        Documents,
        names.DOCUMENTS,
        threads=_IN_FLIGHT_MAX,
        args=(settings, region, store, cache, NamedActor(names.COORDINATOR)),
    )
