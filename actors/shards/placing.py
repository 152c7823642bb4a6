"""Starts a shard replica as a Ray actor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.runtime.ray_environment import ONE_THREAD
from actors.runtime.wiring import detached_actor
from actors.shards.replica import ShardReplicaActor
from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.cache import ArtifactCache
from cluster.store.object_store import ObjectStore

_IN_FLIGHT_MAX = 512


def replica_actor(
    name: str, shard: int, node: str, *, store: ObjectStore, cache_folder: Path
) -> Any:
    """The actor of one shard replica: the running one, or a new one on that node."""
    return detached_actor(
        ShardReplicaActor,
        name,
        threads=_IN_FLIGHT_MAX,
        args=(shard, ArtifactCache(Artifacts(store), cache_folder)),
        runtime_env=ONE_THREAD,
        node=node,
    )
