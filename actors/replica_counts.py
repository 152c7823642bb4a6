"""How many replicas the shards of each corpus have in a region: at least what a person asked for or
the settings say, and more where the load wants it.

Every change is an entry of the log `regions/{region}/replicas/`, so that a coordinator that starts
anew goes on with what there was.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Collection, Mapping, Sequence

from pydantic import Field

from cluster.clock import Deadline
from cluster.config import Settings
from cluster.corpus_settings import REPLICAS_MAX
from cluster.errors import InvalidArgument, RaygionError
from cluster.numbered_object import NumberedLog
from cluster.object_store import ObjectStore
from cluster.records import Record
from cluster.replica_scaling import ReplicaLoad, ReplicaScaler

log = logging.getLogger(__name__)
_APPEND_TIMEOUT_S = 10.0


class CountsEntry(Record):
    """All counts of a region from here on."""

    commit_id: str = ""
    asked: dict[str, int] = Field(default_factory=dict)
    """By corpus: the least number of replicas a shard, in place of what the settings say."""
    counts: dict[str, int] = Field(default_factory=dict)
    """By corpus: the number of replicas a shard at the moment."""


class ReplicaCounts:
    """Thread-safe. While the store is away, the settings count."""

    def __init__(self, settings: Settings, store: ObjectStore, region: str) -> None:
        self._settings = settings
        self._log = NumberedLog(store, f"regions/{region}/replicas")
        self._entry: CountsEntry | None = None
        self._scalers: dict[str, ReplicaScaler] = {}
        self._busy_shares: Mapping[str, float] = {}
        """By corpus. Never changed, only replaced: `load` reads it without the lock."""
        self._lock = threading.Lock()

    def count(self, corpus: str) -> int:
        """Replicas of each shard of the corpus that there should be now."""
        with self._lock:
            return self._count(self._current(), corpus)

    def ask_for(self, corpus: str, least: int) -> None:
        """From now on at least so many; exactly so many where the settings know no `replicas_max`.

        Raises InvalidArgument out of bounds; Conflict, OutcomeUnknown and Unavailable as the store
        does.
        """
        if not 1 <= least <= REPLICAS_MAX:
            raise InvalidArgument(f"must be in 1 ... {REPLICAS_MAX}", "replicas")
        with self._lock:
            entry = self._current()
            asked = {**entry.asked, corpus: least}
            self._append(entry.model_copy(update={"asked": asked}), {corpus: least})

    def observe(self, corpus: str, loads: Sequence[ReplicaLoad], now_s: float) -> None:
        """Lets the policy look at what the corpus's replicas have done."""
        with self._lock:
            shares = [load.busy_share for load in loads]
            share = sum(shares) / max(1, len(shares))
            self._busy_shares = {**self._busy_shares, corpus: share}
            entry = self._current()
            count = self._count(entry, corpus)
            least, most = self._bounds(entry, corpus)
            scaler = self._scalers.setdefault(corpus, ReplicaScaler())
            wanted = scaler.wanted(count, loads, least=least, most=most, now_s=now_s)
            if wanted == count:
                return
            log.info("%s: from %d to %d replicas a shard", corpus, count, wanted)
            try:
                self._append(entry, {corpus: wanted})
            except RaygionError as error:
                # Whoever looks after the replicas has more to do; the policy will want it again.
                log.warning("the number of replicas cannot be changed: %s", error)

    def load(self) -> float:
        """How busy the replicas of the busiest corpus were lately, on average; in [0, 1].

        Waits for nothing: heartbeats tell of it, and the store may be slow.
        """
        return max(self._busy_shares.values(), default=0.0)

    def forget_all_but(self, corpora: Collection[str]) -> None:
        """Of the others there are no replicas any more."""
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

    def _current(self) -> CountsEntry:
        if self._entry is not None:
            return self._entry
        try:
            number = self._log.latest()
            data = self._log.read(number) if number else CountsEntry().to_bytes()
            self._entry = CountsEntry.from_bytes(data, source=self._log.path(number))
        except RaygionError as error:
            log.warning("the numbers of replicas cannot be read, the settings count: %s", error)
            return CountsEntry()
        return self._entry

    def _append(self, entry: CountsEntry, changed: dict[str, int]) -> None:
        counts = {**entry.counts, **changed}
        entry = entry.model_copy(update={"commit_id": uuid.uuid4().hex, "counts": counts})
        data = entry.to_bytes()
        # Should it fail, what the store holds is read anew.
        self._entry = None
        self._log.append_at(
            self._log.latest() + 1,
            data,
            is_mine=lambda found: found == data,
            deadline=Deadline.after(_APPEND_TIMEOUT_S),
        )
        self._entry = entry
