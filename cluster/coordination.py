"""Drives a region's rollout over the log in the store: reads, decides, carries out.

    step      read the log -> exchange heartbeats -> decide -> carry out, again after each append
    request   read the log -> what a person asks for -> append
    observe   the outcome of an instruction -> decide -> carry out

The coordinator and the simulation run this same code. It has no threads, and nothing of it is lost
when it is abandoned at any point: the log and the heartbeats give it all back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, assert_never

from cluster.clock import Clock, Deadline
from cluster.errors import Conflict, Fenced, NotFound
from cluster.numbered_object import NumberedLog
from cluster.object_store import ObjectStore
from cluster.releases import LogState, Release, parse_entry
from cluster.rollout import Rollout
from cluster.rollout_events import (
    Append,
    EntryRead,
    Event,
    HeartbeatsRead,
    LogCaughtUp,
    Outcome,
    Prepare,
    RegionStatus,
    Retire,
)

_APPENDS_MAX = 8
"""Entries that one step appends at most; the next step goes on."""
_APPEND_TIMEOUT_S = 20.0
_REQUEST_ATTEMPTS = 5

Decide = Callable[[Rollout, int, str], Append]
"""What a person asks for: (rollout, now_ms, commit_id) -> the entry to append, or a typed error."""


class ReleaseHost(Protocol):
    """Loads and unloads releases. Both calls return quickly and raise nothing."""

    def prepare(self, release: Release) -> None:
        """Starts to prepare the release; the outcome comes back by `RolloutDriver.observe`."""
        ...

    def retire(self, number: int) -> None:
        """Unloads the release, if it is loaded."""
        ...


class RolloutDriver:
    """Owns a rollout. Not thread-safe: one thread makes all calls."""

    def __init__(
        self,
        *,
        rollout: Rollout,
        store: ObjectStore,
        log: NumberedLog,
        host: ReleaseHost,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self.rollout = rollout
        self._store = store
        self._log = log
        self._host = host
        self._clock = clock
        self._new_id = new_id

    def step(self, *, exchange_heartbeats: bool) -> None:
        """Reads what is new and does what follows from it.

        The first step must exchange heartbeats. After an error (Unavailable, OutcomeUnknown,
        DeadlineExceeded of the store) the next step goes on. Raises Fenced when another coordinator
        of this region has taken over: this one must end.
        """
        self._read_log()
        if self.rollout.superseded:
            raise Fenced(
                f"another coordinator of region {self.rollout.region} leads; this one ends"
            )
        if exchange_heartbeats:
            self._carry_out(self._exchange_heartbeats())
        self._carry_out(LogCaughtUp())

    def observe(self, event: Outcome) -> None:
        """Takes in how the preparing of a release ended, or how it did. Fails like `step`."""
        self._carry_out(event)

    def request(self, decide: Decide) -> LogState:
        """Appends what `decide` gives; decides again when another writer came first.

        Returns the state right after the entry. Raises what `decide` raises, and Conflict when
        others kept coming first. OutcomeUnknown alone leaves open whether the entry landed: any
        other error means that it did not and will not.
        """
        for _ in range(_REQUEST_ATTEMPTS):
            self._read_log()
            append = decide(self.rollout, self._clock.wall_ms(), self._new_id())
            if self._append(append):
                return self.rollout.state
        raise Conflict("other writers kept coming first; try again")

    def _carry_out(self, event: Event) -> None:
        for _ in range(_APPENDS_MAX):
            if not self._handle(event):
                return
            self._read_log()
            event = LogCaughtUp()

    def _handle(self, event: Event) -> bool:
        """Whether the log may have grown, so that there may be more to decide."""
        instructions = self.rollout.handle(
            event, now_ms=self._clock.wall_ms(), commit_id=self._new_id()
        )
        appended = False
        for instruction in instructions:
            match instruction:
                case Append():
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
        """Whether the entry landed; False when the place was taken by another writer."""
        entry = append.entry

        def is_mine(data: bytes) -> bool:
            return parse_entry(data, position=append.position).commit_id == entry.commit_id

        try:
            self._log.append_at(
                append.position,
                entry.to_bytes(),
                is_mine=is_mine,
                deadline=Deadline.after(_APPEND_TIMEOUT_S, self._clock),
            )
        except Conflict:
            return False
        # Known to stand in the log, so it is not read back: a read that fails here would tell the
        # caller of a failure that is none.
        self._handle(EntryRead(entry=entry))
        return True

    def _read_log(self) -> None:
        for position, data in self._log.read_after(self.rollout.state.position):
            self._handle(EntryRead(entry=parse_entry(data, position=position)))

    def _exchange_heartbeats(self) -> HeartbeatsRead:
        own = self.rollout.heartbeat(self._clock.wall_ms())
        self._store.put(_heartbeat_path(own.region), own.to_bytes())
        statuses = {own.region: own}
        for region in self._store.list_folders("regions"):
            if region != own.region:
                path = _heartbeat_path(region)
                try:
                    statuses[region] = RegionStatus.from_bytes(self._store.get(path), source=path)
                except NotFound:
                    continue
        return HeartbeatsRead(statuses=statuses)


def _heartbeat_path(region: str) -> str:
    return f"regions/{region}/status.json"
