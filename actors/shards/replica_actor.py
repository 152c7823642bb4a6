"""Starts a shard replica as a Ray actor."""

from __future__ import annotations

from typing import Any

from actors.runtime import names
from actors.runtime.calls import NamedActor
from actors.runtime.ray_environment import ONE_THREAD
from actors.runtime.wiring import detached_actor
from actors.shards.replica import ShardReplica
from cluster.artifacts.cache import ArtifactCache

_IN_FLIGHT_MAX = 512


def replica_actor(name: str, shard: int, node: str, cache: ArtifactCache) -> Any:
    """The actor of one shard replica: the running one, or a new one on that node."""
    return detached_actor(
        ShardReplica,
        name,
        threads=_IN_FLIGHT_MAX,
        args=(shard, cache, NamedActor(names.DOCUMENTS)),
        runtime_env=ONE_THREAD,
        node=node,
    )
