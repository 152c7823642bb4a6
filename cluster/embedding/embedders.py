"""The embedders of a release: a few texts go to one of them, a batch to all of them at once.

A text's vector does not depend on the texts beside it, so it is no matter how a batch is divided.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from cluster.arrays import Float32Array
from cluster.balance.replica_set import ReplicaSet
from cluster.balance.weights import OutcomeWeights
from cluster.clock import Deadline

_SHARE_TEXTS_MIN = 8
"""Fewer texts are not worth a call of their own."""


class EmbedderReplica(Protocol):
    @property
    def replica_id(self) -> str: ...

    async def embed(self, texts: Sequence[str], timeout_s: float) -> Float32Array:
        """float32 [n, d], one row a text."""
        ...

    async def count_tokens(self, texts: Sequence[str], timeout_s: float) -> int:
        """Number of tokens of all texts together, without special tokens."""
        ...


class Embedders:
    """Asks the replicas of one embedder, as `ReplicaSet` does."""

    def __init__(self, replicas: Sequence[EmbedderReplica], weights: OutcomeWeights) -> None:
        self._any = ReplicaSet(replicas, weights)
        self._each = [ReplicaSet(replicas, weights, preferred=replica) for replica in replicas]

    async def embed(self, texts: Sequence[str], deadline: Deadline) -> Float32Array:
        """float32 [n, d], row i for text i.

        Each share of a batch goes to a replica of its own, and to another one where that fails.
        Raises what a replica raises, Unavailable and DeadlineExceeded.
        """
        num_shares = min(len(self._each), len(texts) // _SHARE_TEXTS_MIN)
        if num_shares < 2:
            return await _asked(self._any, texts, deadline)
        # Dealt like cards, for long texts often stand side by side.
        tasks = [
            asyncio.ensure_future(_asked(replicas, texts[first::num_shares], deadline))
            for first, replicas in enumerate(self._each[:num_shares])
        ]
        try:
            made = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        vectors = np.empty((len(texts), made[0].shape[1]), dtype=np.float32)
        for first, share in enumerate(made):
            vectors[first::num_shares] = share
        return vectors

    async def count_tokens(self, texts: Sequence[str], deadline: Deadline) -> int:
        """Number of tokens of all texts together. Raises as `embed` does."""
        return await self._any.ask(
            lambda replica, timeout_s: replica.count_tokens(texts, timeout_s),
            deadline,
            learn_speed=False,
        )


async def _asked(
    replicas: ReplicaSet[EmbedderReplica], texts: Sequence[str], deadline: Deadline
) -> Float32Array:
    return await replicas.ask(
        lambda replica, timeout_s: replica.embed(texts, timeout_s),
        deadline,
        # A batch takes as long as it is.
        learn_speed=len(texts) == 1,
    )
