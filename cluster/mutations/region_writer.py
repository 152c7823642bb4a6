"""What the writer of one region's log decides, without I/O.

    submit ──► queue ──► next_append ──► a batch under way ──► landed ──► settled
                 ▲                              │    │
                 └─────── lost ─────────────────┘    └── in doubt: the same append once more

A batch stays under way, unchanged, until its append says what became of it: it has landed; or
another writer has its position, and the writes wait for the next one, where they are checked and
stamped anew; or it certainly had no effect. So two writers of one region lose no write and double
none, whichever of them is meant to be there.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from cluster.errors import (
    ClockAhead,
    Conflict,
    DeadlineExceeded,
    InvalidArgument,
    OutcomeUnknown,
    RaygionError,
)
from cluster.mutations.batch import Batch
from cluster.mutations.conflicts import ConflictPolicy, Versions, merged, seen_of
from cluster.mutations.fold import DocumentFold
from cluster.mutations.group_commit import GroupCommit, PendingWrite
from cluster.mutations.hybrid_clock import HybridClock, HybridTime
from cluster.mutations.mutation import IfVersion, Mutation, Write
from cluster.mutations.recent_keys import KnownKey, RecentKeys, fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A write that is in the log."""

    version: HybridTime
    position: int
    """Position in the log of the version's region; a state that has come so far has the write."""
    is_repeated: bool = False
    """True when a write of the same key was in the log already, and this one was not appended."""


Outcome: TypeAlias = Written | RaygionError
"""The end of a write. An error says that it is not in the log, and never will be; OutcomeUnknown
alone says that it may be there.
"""


@dataclass(frozen=True, slots=True)
class _UnderWay:
    batch: Batch
    group: tuple[PendingWrite, ...]
    """The writes that the batch's mutations were made of, in the same order."""


class RegionWriter:
    """The writer of one corpus in one region. Not thread-safe."""

    def __init__(
        self,
        corpus: str,
        region: str,
        *,
        policy: ConflictPolicy,
        clock: HybridClock,
        queue: GroupCommit | None = None,
    ) -> None:
        """`queue`: what waits already, for an earlier writer that has come to its end."""
        self.fold = DocumentFold(policy)
        self.queue = GroupCommit() if queue is None else queue
        self._corpus = corpus
        self._region = region
        self._clock = clock
        self._keys = RecentKeys()
        self._under_way: _UnderWay | None = None
        self._in_doubt = False
        """Whether an append of the batch under way has ended without an answer."""
        self._settled: list[tuple[int, Outcome]] = []

    def submit(self, pending: PendingWrite) -> None:
        """Has a write wait for its turn. Raises TooLarge or Overloaded."""
        self.queue.offer(pending)

    def take_in(self, batch: Batch) -> bool:
        """Takes the next batch of any region's log into the state. False when batches before it are
        missing, and have to be read from the log.
        """
        is_new = batch.last > self.fold.position(batch.region)
        if not self.fold.apply(batch):
            return False
        for mutation in batch.mutations if is_new else ():
            if mutation.key is not None:
                used_for = fingerprint(mutation.document, mutation.content)
                self._keys.add(mutation.key, KnownKey(mutation.time, batch.last, used_for))
        if batch.mutations:
            # A time too far ahead counts all the same; what would have to be later is refused.
            with suppress(ClockAhead):
                self._clock.observe(batch.mutations[-1].time)
        return True

    def next_append(self, now_s: float) -> Batch | None:
        """The batch to append now: the one under way, or else one of the writes that wait; None
        when there is none. Writes that must not be appended are settled.
        """
        while self._under_way is None and len(self.queue):
            self._under_way = self._planned(now_s)
        return None if self._under_way is None else self._under_way.batch

    def landed(self) -> None:
        """The batch under way is in the log."""
        assert self._under_way is not None
        batch, group = self._under_way.batch, self._under_way.group
        self._end_append()
        self.take_in(batch)
        for pending, mutation in zip(group, batch.mutations, strict=True):
            written = Written(version=mutation.time, position=batch.last)
            self._settled.append((pending.ticket, written))

    def lost(self) -> None:
        """Another batch has the position of the one under way: it has to be read and taken in."""
        assert self._under_way is not None
        self.queue.put_back(self._under_way.group)
        self._end_append()

    def failed(self, error: RaygionError) -> None:
        """The append has certainly had no effect. That settles its writes, unless an earlier append
        of the same batch is in doubt.
        """
        assert self._under_way is not None
        if self._in_doubt:
            return
        self._settled += [(pending.ticket, error) for pending in self._under_way.group]
        self._end_append()

    def left_in_doubt(self) -> None:
        """The append has ended without an answer: it has to be repeated."""
        self._in_doubt = True

    def give_up(self, reason: RaygionError) -> None:
        """This writer has come to its end: what becomes of the batch under way is not known."""
        if self._under_way is None:
            return
        unknown = OutcomeUnknown(
            f"whether the write is stored is not known ({reason}); ask again with the same key"
        )
        self._settled += [(pending.ticket, unknown) for pending in self._under_way.group]
        self._end_append()

    def settled(self) -> list[tuple[int, Outcome]]:
        """What became of writes since the last call, by their tickets."""
        settled, self._settled = self._settled, []
        return settled

    def _end_append(self) -> None:
        self._under_way, self._in_doubt = None, False

    def _planned(self, now_s: float) -> _UnderWay | None:
        """The next batch, of those writes of the next group that may be appended."""
        plan = _Plan(self.fold, self._region)
        group: list[PendingWrite] = []
        twins: list[PendingWrite] = []
        for pending in self.queue.take():
            write = pending.write
            try:
                if (known := self._known_key(write)) is not None:
                    written = Written(version=known.time, position=known.position, is_repeated=True)
                    self._settled.append((pending.ticket, written))
                elif write.key is not None and write.key in plan.keys:
                    twins.append(pending)
                elif now_s > pending.expires_s:
                    raise DeadlineExceeded("time ran out before the write could be stored")
                else:
                    plan.add(write, self._clock)
                    group.append(pending)
            except RaygionError as error:
                self._settled.append((pending.ticket, error))
        # Their key is known when the batch has landed.
        self.queue.put_back(twins)
        if not group:
            return None
        return _UnderWay(plan.batch(self._corpus), tuple(group))

    def _known_key(self, write: Write) -> KnownKey | None:
        known = None if write.key is None else self._keys.get(write.key)
        if known is not None and known.fingerprint != fingerprint(write.document, write.content):
            raise InvalidArgument(
                "this key was used for another write before; give each write one of its own", "key"
            )
        return known


class _Plan:
    """The next batch of a region's log, as it grows: later writes of it see the earlier ones."""

    def __init__(self, fold: DocumentFold, region: str) -> None:
        self.keys: set[str] = set()
        self._fold = fold
        self._region = region
        self._mutations: list[Mutation] = []
        self._versions: dict[str, Versions] = {}

    def add(self, write: Write, clock: HybridClock) -> None:
        """Raises Conflict when the document does not have the version that the write demands, and
        ClockAhead when the write would not count as later than what the region has read.
        """
        versions = self._versions.get(write.document, self._fold.versions(write.document))
        _check_version(write, versions)
        own = self._fold.latest_time(self._region)
        for earlier in (*(version.time for version in versions), *([own] if own else [])):
            clock.observe(earlier)
        time = clock.stamp()
        policy = self._fold.policy
        mutation = Mutation(
            document=write.document,
            time=time,
            content=write.content,
            key=write.key,
            timestamp_ms=write.timestamp_ms,
            seen=seen_of(versions) if policy.keeps_siblings else (),
        )
        self._mutations.append(mutation)
        self._versions[write.document] = merged(policy, versions, mutation)
        if write.key is not None:
            self.keys.add(write.key)

    def batch(self, corpus: str) -> Batch:
        position = self._fold.position(self._region) + 1
        return Batch(
            corpus=corpus,
            region=self._region,
            first=position,
            last=position,
            mutations=tuple(self._mutations),
        )


def _check_version(write: Write, versions: Versions) -> None:
    current = versions[-1] if versions else None
    exists = current is not None and current.content is not None
    match write.if_version:
        case None:
            return
        case IfVersion.ABSENT:
            holds = not exists
        case version:
            holds = exists and current is not None and current.time == version
    if not holds:
        has = f"version {current.time}" if exists and current is not None else "no version"
        raise Conflict(
            f"{write.document[:64]!r} has {has}, not what `if_version` demands; read it again"
        )
