"""The release log as it stands in the store, read by way of its snapshots.

    releases/{n:020}.json             entry n
    releases/snapshots/{n:020}.json   entries n - 999 to n once more, in one object

The log alone is the truth: a snapshot only saves requests. One that is damaged, or whose last entry
is not the one that the log has there, is ignored, and its entries are read one by one.
"""

from __future__ import annotations

import gc
import hashlib
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from cluster.artifacts.files import Sha256
from cluster.clock import SYSTEM_CLOCK, Deadline
from cluster.errors import Conflict, Corrupt, LogUnreadable, NotFound, OutcomeUnknown
from cluster.logs.events import EventLog
from cluster.records import Record
from cluster.releases.entries import RELEASE_LOG, LogEntry, LogState
from cluster.releases.fold import fold
from cluster.releases.log_entries import damaged, entry_bytes, parse_entry
from cluster.store.numbered_log import NumberedLog, read_each
from cluster.store.object_store import ObjectStore

log = EventLog(__name__)

SNAPSHOTS = f"{RELEASE_LOG}/snapshots"
SNAPSHOT_ENTRIES = 1000
_SNAPSHOT_NAME = re.compile(r"([0-9]{20})\.json")


class LogSnapshot(Record):
    """Entries of the log, as their objects hold them."""

    format: Literal[1] = 1
    first: Annotated[int, Field(ge=1)]
    """The number of the first one."""
    entries: Annotated[tuple[str, ...], Field(min_length=1)]
    sha256: Sha256
    """Hash of the entries, one a line."""

    def as_stored(self) -> list[bytes | None]:
        return [entry.encode() for entry in self.entries]

    @property
    def last(self) -> int:
        return self.first + len(self.entries) - 1


def snapshot_path(last: int) -> str:
    """Path in the store of the snapshot whose last entry is `last`."""
    return f"{SNAPSHOTS}/{last:020}.json"


def snapshot_of(first: int, entries: Sequence[bytes]) -> LogSnapshot:
    texts = tuple(entry.decode() for entry in entries)
    return LogSnapshot(first=first, entries=texts, sha256=_digest_of(texts))


class ReleaseLog:
    """One reader's and writer's hold on the log. Not thread-safe."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        rng: random.Random | None = None,
        sleep: Callable[[float], None] = SYSTEM_CLOCK.sleep,
        snapshot_entries: int = SNAPSHOT_ENTRIES,
    ) -> None:
        """`snapshot_entries`: entries of each snapshot that it stores."""
        self._store = store
        self._snapshot_entries = snapshot_entries
        self._log = NumberedLog(store, RELEASE_LOG, rng=rng, sleep=sleep)
        self._snapshots_end = 0
        """The last entry that a snapshot ends with, as far as they were looked at."""

    def read_after(self, n: int) -> Iterator[LogEntry]:
        """The entries after `n`, in order. Raises LogUnreadable when it comes to one that cannot be
        read, or is missing, and what the store raises.
        """
        snapshots = self._snapshots() if n == 0 else {}
        latest = self._log.latest(at_least=max((s.last for s in snapshots.values()), default=0))
        while n < latest:
            snapshot = snapshots.get(n + 1)
            numbers = range(n + 1, min(n + self._snapshot_entries, latest) + 1)
            entries = self._log.read_range(numbers) if snapshot is None else snapshot.as_stored()
            for entry in entries:
                n += 1
                if entry is None:
                    raise damaged(n, "is missing, though there are later ones")
                yield parse_entry(entry, position=n)

    def append_at(self, n: int, entry: LogEntry, *, deadline: Deadline) -> None:
        """Makes `entry` the one after the latest. Raises the errors of `NumberedLog.append_at`, and
        OutcomeUnknown when what was written there cannot be read back.
        """

        def is_mine(data: bytes) -> bool:
            try:
                return parse_entry(data, position=n).commit_id == entry.commit_id
            except LogUnreadable as error:
                raise OutcomeUnknown(f"{error.message} (it may be what was asked for)") from error

        self._log.append_at(n, entry_bytes(entry), is_mine=is_mine, deadline=deadline)

    def store_snapshot(self, position: int) -> None:
        """Stores the next snapshot, if the log up to `position`, which has been read, has enough
        entries for it. Raises LogUnreadable when one of them has changed since, and what the store
        raises.
        """
        numbers = range(self._snapshots_end + 1, self._snapshots_end + self._snapshot_entries + 1)
        last = numbers[-1]
        if last > position:
            return
        entries: list[bytes] = []
        for n, entry in zip(numbers, self._log.read_range(numbers), strict=True):
            parse_entry(entry or b"", position=n)
            entries.append(entry or b"")
        try:
            data = snapshot_of(numbers[0], entries).to_bytes()
            self._store.put_if_absent(snapshot_path(last), data)
        except Conflict:
            # By another coordinator; or it is a bad one, and stays.
            log.debug(
                "release_log.snapshot_exists",
                "there is a snapshot up to entry {entry} already",
                entry=last,
            )
        self._snapshots_end = last

    def _snapshots(self) -> Mapping[int, LogSnapshot]:
        """The snapshots that can be used, by their first entry."""
        names = self._store.list_names(SNAPSHOTS)
        ends = [int(match[1]) for name in names if (match := _SNAPSHOT_NAME.fullmatch(name))]
        found = read_each(self._snapshot, ends)
        usable = {snapshot.first: snapshot for snapshot in found if snapshot is not None}
        self._snapshots_end = max((snapshot.last for snapshot in usable.values()), default=0)
        return usable

    def _snapshot(self, last: int) -> LogSnapshot | None:
        path = snapshot_path(last)
        try:
            snapshot = LogSnapshot.from_bytes(self._store.get(path), source=path)
            if snapshot.last != last or _digest_of(snapshot.entries) != snapshot.sha256:
                raise Corrupt(f"{path} does not have the content that its hash says")
            if self._log.read(last) != snapshot.entries[-1].encode():
                raise Corrupt(f"{path} is of another log")
        except (Corrupt, NotFound) as error:
            log.warning(
                "release_log.snapshot_ignored",
                "a snapshot of the release log is ignored: {error}",
                error=error,
            )
            return None
        return snapshot


def read_release_log(store: ObjectStore) -> LogState:
    """The state of all releases: no region needs to run. Raises LogUnreadable for an entry that
    cannot be read, and what the store raises.
    """
    state = LogState()
    with without_looking_for_cycles():
        for entry in ReleaseLog(store).read_after(0):
            state = fold(state, entry)
    return state


@contextmanager
def without_looking_for_cycles() -> Iterator[None]:
    """Turns Python's garbage collector off for the reading of many entries, none of which is
    garbage: looking through them again and again takes as long as all other work.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _digest_of(entries: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """The last complete reading of the log. It stays as it is while the store does not answer."""

    read_ms: int = 0
    """The region's wall clock when its last complete reading of the release log began; 0 before the
    first one.
    """
    position: int = 0
    """Number of the last entry that this reading found."""
