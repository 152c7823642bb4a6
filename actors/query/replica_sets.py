"""From a region view to replica sets that can be asked, with weights that outlive the view."""

from __future__ import annotations

import random
from collections.abc import Sequence

from actors.query.actor_replicas import ActorEmbedder, ActorShardReplica
from actors.query.local_embedders import LocalEmbedders
from actors.query.local_shards import LocalShards
from cluster.balance.replica_set import ReplicaSet
from cluster.balance.weights import OutcomeWeights
from cluster.clock import Clock
from cluster.embedding.embedders import Embedders
from cluster.search.fanout import SearchableReplica, ShardAccess
from cluster.serving.view import CorpusView, RegionView, ReleaseView


class ReplicaSets:
    """The replica sets of all resident releases.

    Releases share replicas, so what one release has learned of a replica serves the next one, too.
    """

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        local: LocalShards | None = None,
        local_embedders: LocalEmbedders | None = None,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._local = local
        self._local_embedders = local_embedders
        self._shards: dict[tuple[bool, bool, tuple[str, ...]], ShardAccess] = {}
        self._embedders: dict[tuple[bool, tuple[str, ...]], Embedders] = {}
        self._weights: dict[tuple[str, ...], OutcomeWeights] = {}

    def shards(self, corpus: CorpusView) -> Sequence[ShardAccess]:
        """One access for each shard, in the order of the shards."""
        return [self._shard(corpus, number) for number in range(len(corpus.shards))]

    def embedders(self, release: ReleaseView) -> Embedders:
        names, local = release.embedders, None
        if self._local_embedders is not None:
            local = self._local_embedders.embedder(release.embedder)
        key = (local is not None, names)
        if key not in self._embedders:
            replicas = [ActorEmbedder(name) for name in names]
            self._embedders[key] = Embedders(replicas, self._weights_of(names), local)
        return self._embedders[key]

    def follow(self, view: RegionView) -> None:
        """Forgets what no release of the view uses; call it with each new view."""
        if self._local is not None:
            self._local.follow(view)
        if self._local_embedders is not None:
            self._local_embedders.follow(view)
        releases = view.releases.values()
        shards = {s for r in releases for corpus in r.corpora.values() for s in corpus.shards}
        embedders = {r.embedders for r in releases}
        self._shards = {k: v for k, v in self._shards.items() if k[-1] in shards}
        self._weights = {k: v for k, v in self._weights.items() if k in shards | embedders}
        self._embedders = {k: v for k, v in self._embedders.items() if k[-1] in embedders}

    def _shard(self, corpus: CorpusView, number: int) -> ShardAccess:
        names = corpus.shards[number]
        local = opening = None
        if self._local is not None:
            local = self._local.replica(corpus, number)
            opening = self._local.opening(corpus, number) if local is None else None
        key = (local is not None, opening is not None, names)
        if key not in self._shards:
            replicas: list[SearchableReplica] = [ActorShardReplica(name) for name in names]
            replicas += [here for here in (local, opening) if here is not None]
            replica_set = ReplicaSet(
                replicas, self._weights_of(names), preferred=local, reserve=opening
            )
            self._shards[key] = ShardAccess(replica_set, local)
        return self._shards[key]

    def _weights_of(self, names: tuple[str, ...]) -> OutcomeWeights:
        if names not in self._weights:
            self._weights[names] = OutcomeWeights(now_s=self._clock.monotonic_s, rng=self._rng)
        return self._weights[names]
