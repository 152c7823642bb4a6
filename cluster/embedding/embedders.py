"""The embedders of a release: questions stay in this process where it has the model, a few texts go
to one replica, a batch to all of them at once.

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
_LOCAL_CHARS_MAX = 2000
"""Texts of more characters together are more than a piece of an embedder, and go to replicas."""
LOCAL_TEXTS_A_THREAD = 32
"""Texts that may be under way in this process, for each thread: some 0.1 s of waiting. Replicas on
the same machine would only take the same cores, and divide the pieces, but there may be others.
"""

EmbedderT = TypeVar("EmbedderT", bound="QuestionEmbedder")
MadeT = TypeVar("MadeT")


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedVectors:
    """The vectors of texts, and how long the texts are."""

    vectors: Float32Array
    """float32 [n, d], one row a text"""
    num_tokens: int
    """Tokens of all texts together, without special tokens."""


class QuestionEmbedder(Protocol):
    @property
    def replica_id(self) -> str: ...

    async def embed(self, texts: Sequence[str], timeout_s: float) -> Float32Array:
        """float32 [n, d], one row a text."""
        ...

    async def embed_counted(self, texts: Sequence[str], timeout_s: float) -> CountedVectors:
        """The vectors that `embed` makes, and the number of tokens."""
        ...


class EmbedderReplica(QuestionEmbedder, Protocol):
    async def embed_passages(self, texts: Sequence[str], timeout_s: float) -> Float32Array:
        """float32 [n, d], one row a passage: as a build makes them. They differ from those of
        `embed` for texts that are longer than the model reads at once.
        """
        ...


class LocalEmbedder(QuestionEmbedder, Protocol):
    """The model in this process."""

    @property
    def num_threads(self) -> int: ...

    @property
    def num_texts(self) -> int:
        """Number of texts under way here: those that are computed, and those that wait."""
        ...


class Embedders:
    """Asks the replicas of one embedder, as `ReplicaSet` does."""

    def __init__(
        self,
        replicas: Sequence[EmbedderReplica],
        weights: OutcomeWeights,
        local: LocalEmbedder | None = None,
    ) -> None:
        """`local` is asked for a few short texts, and `replicas` for all others."""
        self._local = local
        self._any = ReplicaSet(replicas, weights)
        self._each = [ReplicaSet(replicas, weights, preferred=replica) for replica in replicas]
        everywhere: list[QuestionEmbedder] = [*replicas] if local is None else [local, *replicas]
        self._local_first = ReplicaSet(everywhere, weights, preferred=local)

    async def embed(self, texts: Sequence[str], deadline: Deadline) -> Float32Array:
        """float32 [n, d], row i for text i.

        Each share of a batch goes to a replica of its own, and to another one where that fails.
        Raises what a replica raises, Unavailable and DeadlineExceeded.
        """
        shares = await self._questions(
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
        shares = await self._questions(
            texts,
            deadline,
            lambda replica, share, timeout_s: replica.embed_counted(share, timeout_s),
        )
        return CountedVectors(
            vectors=_in_order([share.vectors for share in shares]),
            num_tokens=sum(share.num_tokens for share in shares),
        )

    async def _questions(
        self,
        texts: Sequence[str],
        deadline: Deadline,
        make: Callable[[QuestionEmbedder, Sequence[str], float], Awaitable[MadeT]],
    ) -> list[MadeT]:
        if self._stays_here(texts):
            return [await _asked(self._local_first, make, texts, deadline)]
        return await self._shares(texts, deadline, make)

    def _stays_here(self, texts: Sequence[str]) -> bool:
        if self._local is None or len(texts) >= _SHARE_TEXTS_MIN:
            return False
        num_texts = self._local.num_texts + len(texts)
        if num_texts > LOCAL_TEXTS_A_THREAD * self._local.num_threads:
            return False
        return sum(map(len, texts)) <= _LOCAL_CHARS_MAX

    async def _shares(
        self,
        texts: Sequence[str],
        deadline: Deadline,
        make: Callable[[EmbedderReplica, Sequence[str], float], Awaitable[MadeT]],
    ) -> list[MadeT]:
        """What replicas make of each share of the batch. Share i of n has the texts i, i + n, ...:
        they are dealt like cards, for long texts often stand side by side.
        """
        num_shares = min(len(self._each), len(texts) // _SHARE_TEXTS_MIN)
        if num_shares < 2:
            return [await _asked(self._any, make, texts, deadline)]
        tasks = [
            asyncio.ensure_future(_asked(replicas, make, texts[first::num_shares], deadline))
            for first, replicas in enumerate(self._each[:num_shares])
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()


async def _asked(
    replicas: ReplicaSet[EmbedderT],
    make: Callable[[EmbedderT, Sequence[str], float], Awaitable[MadeT]],
    texts: Sequence[str],
    deadline: Deadline,
) -> MadeT:
    return await replicas.ask(
        lambda replica, timeout_s: make(replica, texts, timeout_s),
        deadline,
        # A batch takes as long as it is.
        learn_speed=len(texts) == 1,
    )


def _in_order(shares: Sequence[Float32Array]) -> Float32Array:
    """The rows of all shares, in the order of the texts before these were dealt."""
    if len(shares) == 1:
        return shares[0]
    vectors = np.empty((sum(map(len, shares)), shares[0].shape[1]), dtype=np.float32)
    for first, share in enumerate(shares):
        vectors[first :: len(shares)] = share
    return vectors
