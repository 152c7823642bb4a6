"""The embedders of a release: a few texts go to one of them, a batch to all of them at once.

A text's vector does not depend on the texts beside it, so it is no matter how a batch is divided.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from cluster.arrays import Float32Array
from cluster.balance.replica_set import ReplicaSet
from cluster.balance.weights import OutcomeWeights
from cluster.clock import Deadline

_SHARE_TEXTS_MIN = 8
"""Fewer texts are not worth a call of their own."""

MadeT = TypeVar("MadeT")


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedVectors:
    """The vectors of texts, and how long the texts are."""

    vectors: Float32Array
    """float32 [n, d], one row a text"""
    num_tokens: int
    """Tokens of all texts together, without special tokens."""


class EmbedderReplica(Protocol):
    @property
    def replica_id(self) -> str: ...

    async def embed(self, texts: Sequence[str], timeout_s: float) -> Float32Array:
        """float32 [n, d], one row a text."""
        ...

    async def embed_passages(self, texts: Sequence[str], timeout_s: float) -> Float32Array:
        """float32 [n, d], one row a passage: as a build makes them. They differ from those of
        `embed` for texts that are longer than the model reads at once.
        """
        ...

    async def embed_counted(self, texts: Sequence[str], timeout_s: float) -> CountedVectors:
        """The vectors that `embed` makes, and the number of tokens."""
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
        shares = await self._shares(
            texts, deadline, lambda replica, share, timeout_s: replica.embed(share, timeout_s)
        )
        return _in_order(shares)

    async def embed_passages(self, texts: Sequence[str], deadline: Deadline) -> Float32Array:
        """float32 [n, d], row i for passage i, as a build makes it. Raises as `embed` does."""
        shares = await self._shares(
            texts,
            deadline,
            lambda replica, share, timeout_s: replica.embed_passages(share, timeout_s),
        )
        return _in_order(shares)

    async def embed_counted(self, texts: Sequence[str], deadline: Deadline) -> CountedVectors:
        """The vectors that `embed` makes, and the number of tokens. Raises as `embed` does."""
        shares = await self._shares(
            texts,
            deadline,
            lambda replica, share, timeout_s: replica.embed_counted(share, timeout_s),
        )
        return CountedVectors(
            vectors=_in_order([share.vectors for share in shares]),
            num_tokens=sum(share.num_tokens for share in shares),
        )

    async def _shares(
        self,
        texts: Sequence[str],
        deadline: Deadline,
        make: Callable[[EmbedderReplica, Sequence[str], float], Awaitable[MadeT]],
    ) -> list[MadeT]:
        """What replicas make of each share of the batch. Share i of n has the texts i, i + n, ...:
        they are dealt like cards, for long texts often stand side by side.
        """

        async def asked(replicas: ReplicaSet[EmbedderReplica], share: Sequence[str]) -> MadeT:
            return await replicas.ask(
                lambda replica, timeout_s: make(replica, share, timeout_s),
                deadline,
                # A batch takes as long as it is.
                learn_speed=len(share) == 1,
            )

        num_shares = min(len(self._each), len(texts) // _SHARE_TEXTS_MIN)
        if num_shares < 2:
            return [await asked(self._any, texts)]
        tasks = [
            asyncio.ensure_future(asked(replicas, texts[first::num_shares]))
            for first, replicas in enumerate(self._each[:num_shares])
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()


def _in_order(shares: Sequence[Float32Array]) -> Float32Array:
    """The rows of all shares, in the order of the texts before these were dealt."""
    if len(shares) == 1:
        return shares[0]
    vectors = np.empty((sum(map(len, shares)), shares[0].shape[1]), dtype=np.float32)
    for first, share in enumerate(shares):
        vectors[first :: len(shares)] = share
    return vectors
