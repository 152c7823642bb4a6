"""Stand-ins that implement the core's protocols and remember what was asked of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cluster.arrays import Int64Array
from cluster.catalog.manifests import ManifestRef
from cluster.clock import Deadline
from cluster.errors import RaygionError
from cluster.generation.generator import ChatMessage
from cluster.query.provenance import Provenance
from cluster.query.search import Passages, ShardHits, ShardQuery
from cluster.releases.entries import (
    Abort,
    Canary,
    Commit,
    Elect,
    Fence,
    Propose,
    Release,
    ReleaseContents,
    Rollback,
)


def provenance_of(region: str = "a", **facts: Any) -> Provenance:
    """That of a reply which the region made to a request of its own, but for these facts."""
    usual = {"release": 1, "coverage": 1.0, "trace_id": "t", "staleness_ms": 0, "session": ""}
    return Provenance(**{"region": region, "served_by": region, **usual, **facts})


class SimClock:
    """A clock that moves when it is told to, or when somebody sleeps on it."""

    def __init__(self, start_s: float = 1000.0) -> None:
        self.now_s = start_s

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return int(self.now_s * 1000)

    def sleep(self, wait_s: float) -> None:
        self.now_s += wait_s


def hits_of(*ids: bytes) -> ShardHits:
    """One query's hits, best first."""
    return ShardHits(
        scores=np.arange(len(ids), 0, -1, dtype=np.float32)[None, :],
        rows=np.arange(len(ids), dtype=np.int64)[None, :],
        ids=np.array([ids], dtype=np.bytes_),
    )


A_QUERY = ShardQuery(
    corpus="c", index_version="1", vectors=np.zeros((1, 4), dtype=np.float32), top_k=2
)


@dataclass
class FakeReplica:
    """Answers each search by the next of its outcomes, the last one for ever.

    An outcome is the hits, an error to raise, or None: it hangs until it is cancelled.
    """

    replica_id: str
    outcomes: Sequence[ShardHits | RaygionError | None] = (hits_of(b"a"),)
    timeouts_s: list[float] = field(default_factory=list)
    cancelled: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def search(self, query: ShardQuery, timeout_s: float) -> ShardHits:
        self.timeouts_s.append(timeout_s)
        self.asked.set()
        outcome = self.outcomes[min(len(self.timeouts_s), len(self.outcomes)) - 1]
        if isinstance(outcome, RaygionError):
            raise outcome
        if outcome is None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        assert outcome is not None
        return outcome

    async def passages(
        self,
        index_version: str,
        rows: Int64Array,
        fields: tuple[str, ...] | None,
        timeout_s: float,
    ) -> Passages:
        raise AssertionError("nobody asks this replica for passages")

    @property
    def calls(self) -> int:
        return len(self.timeouts_s)


@dataclass(frozen=True)
class FakeTokenizer:
    """Tokens are runs of `chars_per_token` characters; every message costs `overhead` more."""

    chars_per_token: int = 1
    overhead: int = 3

    @property
    def token_chars_max(self) -> int:
        return 8 * self.chars_per_token

    def count(self, messages: tuple[ChatMessage, ...]) -> int:
        return self.overhead + sum(self.overhead + self._tokens(m.content) for m in messages)

    def truncate(self, text: str, tokens_max: int) -> str:
        return text[: max(0, tokens_max) * self.chars_per_token]

    def _tokens(self, text: str) -> int:
        return -(-len(text) // self.chars_per_token)


def never_reached() -> Deadline:
    """A deadline of a minute on the system's clock."""
    return Deadline.after(60.0)


def contents(version: str = "1") -> ReleaseContents:
    return ReleaseContents(indexes={"c": ManifestRef(version=version, sha256="0" * 64)})


class Entries:
    """Makes log entries with consecutive commit ids; the keyword arguments are the entry's."""

    def __init__(self) -> None:
        self._count = 0

    def _id(self) -> str:
        self._count += 1
        return f"entry-{self._count}"

    def elect(self, leader: str, epoch: int) -> Elect:
        return Elect(leader=leader, epoch=epoch, commit_id=self._id(), at_ms=0)

    def propose(
        self,
        number: int,
        epoch: int = 1,
        *,
        targets: tuple[str, ...] = ("a", "b"),
        prepare_by_ms: int = 10_000,
        auto_commit: bool = True,
    ) -> Propose:
        return Propose(
            release=Release(number=number, contents=contents(str(number))),
            targets=targets,
            prepare_by_ms=prepare_by_ms,
            auto_commit=auto_commit,
            epoch=epoch,
            commit_id=self._id(),
            at_ms=0,
        )

    def commit(self, number: int, epoch: int = 1, *, switch_at_ms: int = 0) -> Commit:
        return Commit(
            release=number, switch_at_ms=switch_at_ms, epoch=epoch, commit_id=self._id(), at_ms=0
        )

    def rollback(self, number: int, epoch: int = 1, *, switch_at_ms: int = 0) -> Rollback:
        return Rollback(
            release=number, switch_at_ms=switch_at_ms, epoch=epoch, commit_id=self._id(), at_ms=0
        )

    def abort(self, number: int, epoch: int = 1) -> Abort:
        return Abort(release=number, reason="", epoch=epoch, commit_id=self._id(), at_ms=0)

    def canary(self, number: int, percent: int, epoch: int = 1, *, at_ms: int = 0) -> Canary:
        return Canary(
            release=number, percent=percent, epoch=epoch, commit_id=self._id(), at_ms=at_ms
        )

    def fence(self, number: int, region: str, epoch: int = 1) -> Fence:
        return Fence(
            release=number,
            region=region,
            reason="late",
            epoch=epoch,
            commit_id=self._id(),
            at_ms=0,
        )


def counting_ids(prefix: str = "id") -> Callable[[], str]:
    """Unique ids in a row."""
    numbers = iter(range(1, 1 << 30))
    return lambda: f"{prefix}-{next(numbers)}"
