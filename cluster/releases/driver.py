"""Drives a region's rollout over the log in the store: reads, decides, carries out.

    read      read the log
    decide    exchange heartbeats -> decide -> carry out, again after each append
    request   read the log -> take the lead -> what a person asks for -> append
    observe   the outcome of an instruction, which the next `decide` goes by

The coordinator and the simulation run this same code. It starts no threads, and nothing of it is
lost when it is abandoned at any point: the log and the heartbeats give it all back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, assert_never

from cluster.clock import Clock, Deadline
from cluster.errors import (
    Conflict,
    Fenced,
    LogUnreadable,
    OutcomeUnknown,
    RaygionError,
    Unavailable,
)
from cluster.logs.events import EventLog
from cluster.releases.entries import LogState, Release
from cluster.releases.events import (
    REGIONS,
    Append,
    DocumentsStatus,
    EntryRead,
    Event,
    HeartbeatsRead,
    LogCaughtUp,
    Prepare,
    RegionStatus,
    ReleaseOutcome,
    Retire,
    heartbeat_path,
)
from cluster.releases.region_name_watch import (
    NameState,
    RegionNameWatch,
    name_taken,
    read_heartbeats,
)
from cluster.releases.release_log import Freshness, ReleaseLog, without_looking_for_cycles
from cluster.releases.requests import ReleaseRequest
from cluster.releases.rollout import Rollout
from cluster.store.object_store import ObjectStore

log = EventLog(__name__)

_APPENDS_MAX = 8
"""Entries that one step appends at most; the next step goes on."""
_APPEND_TIMEOUT_S = 20.0
_REQUEST_ATTEMPTS = 8
_HEARTBEAT_S = 1.0
_SNAPSHOT_RETRY_S = 60.0
_REGIONS_LISTED_S = 5.0
"""Between two looks at which regions there are; their heartbeats are read at every exchange."""


class ReleaseHost(Protocol):
    """Loads and unloads releases. Both calls return quickly and raise nothing."""

    def prepare(self, release: Release) -> None:
        """Starts to prepare the release; the outcome comes back by `RolloutDriver.observe`."""
        ...

    def retire(self, number: int) -> None:
        """Unloads the release, if it is loaded."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """The state of a region that its heartbeat tells."""

    healthy: bool = True
    load: float = 0.0
    """Load of the region, in [0, 1]."""
    documents: Mapping[str, DocumentsStatus] = field(default_factory=dict)
    """By corpus."""


def _nobody() -> None:
    """Tells nobody of an append."""


def _starting() -> Conflict:
    return Conflict("this region is still starting; try again")


class RolloutDriver:
    """Owns a rollout. One thread makes all calls but `observe`, for which any may do.

    That one asks the store for nothing, so nothing that is observed waits for a store that hangs.
    """

    def __init__(
        self,
        *,
        rollout: Rollout,
        store: ObjectStore,
        log: ReleaseLog,
        host: ReleaseHost,
        clock: Clock,
        new_id: Callable[[], str],
        cluster_id: str = "",
        vitals: Callable[[], Vitals] = Vitals,
        appended: Callable[[], None] = _nobody,
    ) -> None:
        """`appended` is called after each entry that landed. It returns at once, raises nothing."""
        self.rollout = rollout
        self.deciding = threading.RLock()
        """Held while the rollout changes. Whoever looks at it in another thread holds it, too."""
        self.freshness = Freshness()
        """Freshness of the last complete reading of the log."""
        self.unreadable: LogUnreadable | None = None
        """The entry at which the last reading ended; until it is read, nothing is appended."""
        self._store = store
        self._log = log
        self._host = host
        self._clock = clock
        self._new_id = new_id
        self._cluster_id = cluster_id
        self._vitals = vitals
        self._appended = appended
        self._name_watch = RegionNameWatch(cluster_id)
        self._refusal: Conflict | None = _starting()
        """The reason why this region may not lead; None when it may."""
        self._regions: list[str] = []
        self._listed_s = float("-inf")
        self._heartbeat: RegionStatus | None = None
        self._written_s = float("-inf")
        self._snapshot_not_before_s = float("-inf")

    def read(self) -> None:
        """Reads what is new in the log; what follows from it waits for `decide`.

        After an error of the store (Unavailable, OutcomeUnknown, DeadlineExceeded) the next call
        goes on. Raises LogUnreadable at an entry that cannot be read: `decide` then still does what
        follows from those before it, but appends nothing. Raises Fenced when another coordinator of
        this region has taken over: this one must end.
        """
        self._read_log()
        if self.rollout.superseded:
            raise Fenced(
                f"another coordinator of region {self.rollout.region} leads; this one ends"
            )

    def decide(self, *, exchange_heartbeats: bool) -> None:
        """Does what follows from what was read; the first time it must exchange heartbeats.

        Raises the errors of `read`, and Conflict while another cluster runs under this region's
        name, or may: then nothing is written.
        """
        failure: Unavailable | OutcomeUnknown | None = None
        if exchange_heartbeats:
            try:
                heartbeats = self._exchange_heartbeats()
            except (Unavailable, OutcomeUnknown) as error:
                if self._heartbeat is None:
                    raise
                # A region that can only read still holds what the log wants it to hold.
                failure = error
            else:
                self._carry_out(heartbeats)
        self._carry_out(LogCaughtUp())
        if failure is not None:
            raise failure
        if self.rollout.leads:
            self._store_snapshot()

    def _store_snapshot(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s < self._snapshot_not_before_s:
            return
        try:
            self._log.store_snapshot(self.rollout.state.position)
        except RaygionError as error:
            # Nothing waits for it, and each attempt reads many entries.
            self._snapshot_not_before_s = now_s + _SNAPSHOT_RETRY_S
            log.warning(
                "release_log.no_snapshot",
                "there is no new snapshot of the release log: {error}",
                error=error,
            )

    def observe(self, event: ReleaseOutcome) -> None:
        """Takes in how the preparing of a release ended, or how it did; `decide` goes on from it.
        Raises nothing.
        """
        self._handle(event)

    def request(self, request: ReleaseRequest) -> LogState:
        """Appends what a person asks for; decides again when another writer came first. Has this
        region lead, whoever led before: so a person may ask for a change in any region.

        Returns the state right after the entry. Raises what `Rollout.decide` raises, and Conflict
        when this region may not lead, or others kept coming first. OutcomeUnknown alone leaves open
        whether the entry landed: any other error means that it did not and will not.
        """
        for _ in range(_REQUEST_ATTEMPTS):
            self._read_log()
            if not self.rollout.leads and not self._take_lead():
                continue
            now_ms, commit_id = self._clock.wall_ms(), self._new_id()
            if self._append(self.rollout.decide(request, now_ms=now_ms, commit_id=commit_id)):
                return self.rollout.state
        raise Conflict("other writers kept coming first; try again")

    def _take_lead(self) -> bool:
        """True when this region leads now; False when another writer came first."""
        if self._refusal is not None:
            raise self._refusal
        return self._append(self.rollout.take_lead(self._clock.wall_ms(), self._new_id()))

    def _carry_out(self, event: Event) -> None:
        for _ in range(_APPENDS_MAX):
            if not self._handle(event):
                return
            self._read_log()
            event = LogCaughtUp()

    def _handle(self, event: Event) -> bool:
        """True when the log may have grown, so that there may be more to decide."""
        with self.deciding:
            instructions = self.rollout.handle(
                event, now_ms=self._clock.wall_ms(), commit_id=self._new_id()
            )
        appended = False
        for instruction in instructions:
            match instruction:
                case Append():
                    if self.unreadable is None:
                        self._append(instruction)
                        appended = True
                case Prepare(release=release):
                    self._host.prepare(release)
                case Retire(release=number):
                    self._host.retire(number)
                case _:
                    assert_never(instruction)
        return appended

    def _append(self, append: Append) -> bool:
        """True when the entry landed; False when another writer had taken its position in the
        log.
        """
        entry = append.entry
        deadline = Deadline.after(_APPEND_TIMEOUT_S, self._clock)
        try:
            self._log.append_at(append.position, entry, deadline=deadline)
        except Conflict:
            return False
        # The entry is known to stand in the log, so it is not read back: a read that fails here
        # would report a failure to the caller although the append succeeded.
        self._handle(EntryRead(entry=entry))
        self._appended()
        return True

    def _read_log(self) -> None:
        begun_ms = self._clock.wall_ms()
        try:
            with without_looking_for_cycles():
                for entry in self._log.read_after(self.rollout.state.position):
                    self._handle(EntryRead(entry=entry))
        except LogUnreadable as error:
            self.unreadable = error
            raise
        self.unreadable = None
        self.freshness = Freshness(read_ms=begun_ms, position=self.rollout.state.position)

    def _exchange_heartbeats(self) -> HeartbeatsRead:
        now_s = self._clock.monotonic_s()
        region, state = self.rollout.region, self.rollout.state
        if now_s - self._listed_s >= _REGIONS_LISTED_S:
            self._regions = self._store.list_folders(REGIONS)
            self._listed_s = now_s
        # Those on which something hangs are looked at even if they have only just come.
        opened = state.open_proposal()
        needed = {region, *(opened.targets if opened is not None else ())}
        needed |= {state.leader} if state.leader is not None else set()
        names = sorted({*self._regions} | needed)
        statuses = read_heartbeats(self._store, names)
        own = statuses.get(region)
        name_state = self._name_watch.look(own, now_s)
        if name_state is not NameState.FREE:
            self._refusal = (
                name_taken(region, own) if name_state is NameState.TAKEN else _starting()
            )
            raise self._refusal
        statuses[region] = self._write_heartbeat(now_s)
        return HeartbeatsRead(statuses=statuses, at_s=now_s)

    def _write_heartbeat(self, now_s: float) -> RegionStatus:
        """This region's heartbeat: a new one each second, or when there is more to tell."""
        vitals = self._vitals()
        own = self.rollout.heartbeat(self._clock.wall_ms()).model_copy(
            update={
                "cluster_id": self._cluster_id,
                "healthy": vitals.healthy,
                "load": vitals.load,
                "documents": dict(vitals.documents),
            }
        )
        last = self._heartbeat
        if (
            last is not None
            and now_s - self._written_s < _HEARTBEAT_S
            and (own.prepared, own.failed, own.gave_up, own.at_fault)
            == (last.prepared, last.failed, last.gave_up, last.at_fault)
        ):
            return last
        self._store.put(heartbeat_path(own.region), own.to_bytes())
        self._heartbeat, self._written_s, self._refusal = own, now_s, None
        return own
