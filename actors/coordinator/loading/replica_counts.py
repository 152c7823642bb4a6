"""The number of replicas of each corpus's shards in a region: at least as many as a person or the
settings ask for, and more where the load needs them.

Every change is an entry of the log `regions/{region}/replicas/`, so that a coordinator that starts
anew goes on with what there was. While the store does not answer, the numbers stay as they were
known last: a store that is away is no reason to end a replica.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from pydantic import Field

from cluster.balance.replica_scaling import ReplicaLoad, ReplicaScaler
from cluster.catalog.corpus_settings import REPLICAS_MAX
from cluster.clock import SYSTEM_CLOCK, Deadline
from cluster.config import Settings
from cluster.errors import Conflict, InvalidArgument, RaygionError
from cluster.logs.events import EventLog
from cluster.records import Record
from cluster.store.numbered_log import NumberedLog
from cluster.store.object_store import ObjectStore

log = EventLog(__name__)
_APPEND_TIMEOUT_S = 10.0
_APPEND_ATTEMPTS = 4


class CountsEntry(Record):
    """All counts of a region from here on."""

    commit_id: str = ""
    asked: dict[str, int] = Field(default_factory=dict)
    """Least number of replicas for each shard, by corpus, in place of the settings."""
    counts: dict[str, int] = Field(default_factory=dict)
    """Present number of replicas for each shard, by corpus."""


@dataclass(frozen=True, slots=True)
class _LatestEntry:
    """The newest entry that was read or written here, and its number; 0 before the first one."""

    number: int
    entry: CountsEntry


class ReplicaCounts:
    """Thread-safe. Nothing waits for the store but the very first count, and `ask_for`."""

    def __init__(
        self,
        settings: Settings,
        store: ObjectStore,
        region: str,
        *,
        sleep: Callable[[float], None] = SYSTEM_CLOCK.sleep,
    ) -> None:
        self._settings = settings
        self._log = NumberedLog(store, f"regions/{region}/replicas", sleep=sleep)
        self._latest_entry: _LatestEntry | None = None
        """Never forgotten, only replaced by a newer one: it is read without the lock."""
        self._scalers: dict[str, ReplicaScaler] = {}
        self._busy_shares: Mapping[str, float] = {}
        """Busy shares by corpus. The mapping is never changed, only replaced: `load` reads it
        without the lock.
        """
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="replica-counts")
        """Writes down what the load wants, so that the caller of `observe` need not wait."""
        self._writing: Future[None] | None = None
        self._lock = threading.Lock()
        """Never held while the store is asked."""

    def count(self, corpus: str) -> int:
        """Replicas of each shard of the corpus that there should be now.

        Raises Corrupt or Unavailable while no entry could be read since this process started: it
        would be wrong to end replicas because their number is not known yet.
        """
        return self._count(self._latest().entry, corpus)

    def ask_for(self, corpus: str, least: int) -> None:
        """From now on at least so many; exactly so many where the settings know no `replicas_max`.

        Raises InvalidArgument out of bounds; Conflict, OutcomeUnknown and Unavailable as the store
        does.
        """
        if not 1 <= least <= REPLICAS_MAX:
            raise InvalidArgument(f"must be in 1 ... {REPLICAS_MAX}", "replicas")
        self._change(lambda entry: _with_count(_with_asked(entry, corpus, least), corpus, least))

    def observe(
        self, corpus: str, loads: Sequence[ReplicaLoad], now_s: float
    ) -> Future[None] | None:
        """Lets the policy look at what the corpus's replicas have done. Returns the change that
        this began, which counts once it is written down.

        Raises Corrupt and Unavailable like `count`.
        """
        entry = self._latest().entry
        with self._lock:
            shares = [load.busy_share for load in loads]
            share = sum(shares) / max(1, len(shares))
            self._busy_shares = {**self._busy_shares, corpus: share}
            if self._writing is not None and not self._writing.done():
                return None
            count = self._count(entry, corpus)
            least, most = self._bounds(entry, corpus)
            scaler = self._scalers.setdefault(corpus, ReplicaScaler())
            wanted = scaler.wanted(count, loads, least=least, most=most, now_s=now_s)
            if wanted == count:
                return None
            self._writing = self._writer.submit(self._follow_load, corpus, count, wanted)
            return self._writing

    def load(self) -> float:
        """The recent average load of the replicas of the busiest corpus, in [0, 1].

        Waits for nothing, since the load goes into heartbeats.
        """
        return max(self._busy_shares.values(), default=0.0)

    def forget_all_but(self, corpora: Collection[str]) -> None:
        """Forgets all other corpora, which have no replicas any more."""
        with self._lock:
            shares = self._busy_shares
            self._busy_shares = {corpus: shares[corpus] for corpus in shares if corpus in corpora}

    def _bounds(self, entry: CountsEntry, corpus: str) -> tuple[int, int]:
        settings = self._settings.corpus(corpus)
        least = entry.asked.get(corpus, settings.replicas)
        return least, max(least, settings.replicas_max or least)

    def _count(self, entry: CountsEntry, corpus: str) -> int:
        least, most = self._bounds(entry, corpus)
        return min(max(entry.counts.get(corpus, least), least), most)

    def _follow_load(self, corpus: str, count: int, wanted: int) -> None:
        log.info(
            "replicas.scaled",
            "{corpus}: from {before} to {wanted} replicas a shard",
            corpus=corpus,
            before=count,
            wanted=wanted,
        )
        try:
            self._change(lambda entry: _with_count(entry, corpus, wanted))
        except RaygionError as error:
            # The number stays as it is; the policy will want the change again.
            log.warning(
                "replicas.not_scaled",
                "the number of replicas cannot be changed: {error}",
                error=error,
            )

    def _latest(self) -> _LatestEntry:
        return self._latest_entry or self._read()

    def _read(self) -> _LatestEntry:
        number = self._log.latest()
        if not number:
            return self._learn(_LatestEntry(0, CountsEntry()))
        data = self._log.read(number)
        return self._learn(
            _LatestEntry(number, CountsEntry.from_bytes(data, source=self._log.path(number)))
        )

    def _learn(self, found: _LatestEntry) -> _LatestEntry:
        """The newest of what is known; several threads may come with what they found."""
        with self._lock:
            if self._latest_entry is None or found.number > self._latest_entry.number:
                self._latest_entry = found
            return self._latest_entry

    def _change(self, change: Callable[[CountsEntry], CountsEntry]) -> None:
        """Appends what `change` makes of the newest entry; again when another writer came first."""
        known = self._latest()
        for _ in range(_APPEND_ATTEMPTS):
            changed = change(known.entry).model_copy(update={"commit_id": uuid.uuid4().hex})
            try:
                self._append(_LatestEntry(known.number + 1, changed))
            except Conflict:
                known = self._read()
            else:
                return
        raise Conflict("the numbers of replicas were changed by others meanwhile; try again")

    def _append(self, new: _LatestEntry) -> None:
        data = new.entry.to_bytes()
        self._log.append_at(
            new.number,
            data,
            is_mine=lambda found: found == data,
            deadline=Deadline.after(_APPEND_TIMEOUT_S),
        )
        self._learn(new)


def _with_asked(entry: CountsEntry, corpus: str, least: int) -> CountsEntry:
    return entry.model_copy(update={"asked": {**entry.asked, corpus: least}})


def _with_count(entry: CountsEntry, corpus: str, count: int) -> CountsEntry:
    return entry.model_copy(update={"counts": {**entry.counts, corpus: count}})
