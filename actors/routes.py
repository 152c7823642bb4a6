"""From a region view to replica sets that can be asked, with weights that outlive the view."""

from __future__ import annotations

import random
from collections.abc import Sequence

from actors.replica_client import ActorEmbedder, ActorShardReplica
from cluster.balancing import OutcomeWeights
from cluster.clock import Clock
from cluster.fanout import ShardReplica
from cluster.region_view import CorpusView, RegionView, ReleaseView
from cluster.replica_set import ReplicaSet


class Routes:
    """The replica sets of all resident releases.

    Releases share replicas, so what one release has learned of a replica serves the next one, too.
    """

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._shards: dict[tuple[str, ...], ReplicaSet[ShardReplica]] = {}
        self._embedders: dict[tuple[str, ...], ReplicaSet[ActorEmbedder]] = {}

    def shards(self, corpus: CorpusView) -> Sequence[ReplicaSet[ShardReplica]]:
        """One set for each shard, in the order of the shards."""
        return [self._shard(names) for names in corpus.shards]

    def embedder(self, release: ReleaseView) -> ReplicaSet[ActorEmbedder]:
        names = release.embedders
        if names not in self._embedders:
            replicas = [ActorEmbedder(name) for name in names]
            self._embedders[names] = ReplicaSet(replicas, self._weights())
        return self._embedders[names]

    def retain(self, view: RegionView) -> None:
        """Forgets the sets that no release of the view uses."""
        releases = view.releases.values()
        shards = {s for r in releases for corpus in r.corpora.values() for s in corpus.shards}
        embedders = {r.embedders for r in releases}
        self._shards = {k: v for k, v in self._shards.items() if k in shards}
        self._embedders = {k: v for k, v in self._embedders.items() if k in embedders}

    def _shard(self, names: tuple[str, ...]) -> ReplicaSet[ShardReplica]:
        if names not in self._shards:
            replicas = [ActorShardReplica(name) for name in names]
            self._shards[names] = ReplicaSet(replicas, self._weights())
        return self._shards[names]

    def _weights(self) -> OutcomeWeights:
        return OutcomeWeights(now_s=self._clock.monotonic_s, rng=self._rng)
