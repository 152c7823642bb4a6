"""The region coordinator's decisions as a state machine: events in, instructions out, no I/O.

    request (propose, canary, commit, ...)      --> Append --> EntryRead --> the log's new state
    open proposal names this region             --> Prepare --> Prepared | PrepareFailed
    every target prepared or fenced (leader)    --> Append(Commit)
    deadline over (leader)                      --> Append(Fence | Abort)
    a canary is at fault somewhere (leader)     --> Append(Abort)
    a release is no longer resident             --> Retire

Every coordinator runs this machine over the same log. Only the leader appends; which one leads is
itself in the log. The machine holds nothing that the log and the heartbeats cannot give back, so a
coordinator may be killed at any step: its successor reads the log and goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never

from pydantic import ValidationError

from cluster.errors import Conflict, InvalidArgument, NotFound
from cluster.releases import (
    Abort,
    Canary,
    CanaryShare,
    Commit,
    Elect,
    Fence,
    LogEntry,
    LogState,
    Proposal,
    Propose,
    Release,
    ReleaseContents,
    ReleaseStatus,
    Rollback,
    fold,
    objection,
)
from cluster.rollout_events import (
    Append,
    CanaryFaulted,
    EntryRead,
    Event,
    HeartbeatsRead,
    Instruction,
    LogCaughtUp,
    Prepare,
    Prepared,
    PrepareFailed,
    RegionStatus,
    Retire,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings:
    prepare_timeout_s: float = 600.0
    """How long target regions have to prepare a release before they are fenced out of it."""
    prepare_retry_s: float = 5.0
    """How long after a failure a committed release is tried again."""
    switch_margin_s: float = 2.0
    """From commit to switch: enough for every region to read the commit before its moment, so more
    than the time between two readings of the log.
    """
    leader_lapse_s: float = 10.0
    """A leader whose heartbeat is older than this may be replaced."""


class Standing(StrEnum):
    """Where a resident release stands in this region."""

    PREPARING = "preparing"
    PREPARED = "prepared"
    FAILED = "failed"


@dataclass(slots=True)
class _Local:
    standing: Standing
    reason: str = ""
    since_ms: int = 0


@dataclass(slots=True)
class Rollout:
    """One region's view of all releases, and its next steps.

    The caller brings the time and unique ids, and feeds back the outcome of every instruction as an
    event. `state` changes only through `handle`. Decisions are made from the log as far as it goes:
    after every EntryRead and after every Append that was handed out, nothing is decided until
    LogCaughtUp.
    """

    region: str
    settings: RolloutSettings = field(default_factory=RolloutSettings)
    state: LogState = field(default_factory=LogState)
    heartbeats: Mapping[str, RegionStatus] = field(default_factory=dict)
    _local: dict[int, _Local] = field(default_factory=dict)
    _at_fault: dict[int, str] = field(default_factory=dict)
    """Found of canaries here. It holds for good, since a release never changes."""
    _caught_up: bool = False
    _epoch_led: int | None = None
    """The epoch that this very incarnation won; a predecessor's epoch is not ours."""
    _elected_as: str | None = None
    superseded: bool = False
    """Whether another incarnation of this very region took the lead over from this one. It never
    stands again: two that live at once would take turns for ever.
    """

    @property
    def leads(self) -> bool:
        return self._epoch_led is not None and self._epoch_led == self.state.epoch

    def handle(self, event: Event, *, now_ms: int, commit_id: str) -> list[Instruction]:
        """Takes one event and returns what to do about it, in order."""
        instructions: list[Instruction] = []
        match event:
            case EntryRead(entry=entry):
                self._take_in(entry)
            case LogCaughtUp():
                self._caught_up = True
            case HeartbeatsRead(statuses=statuses):
                self.heartbeats = statuses
            case Prepared(release=release):
                instructions += self._settle(release, _Local(Standing.PREPARED))
            case PrepareFailed(release=release, reason=reason):
                instructions += self._settle(release, _Local(Standing.FAILED, reason, now_ms))
            case CanaryFaulted(release=release, reason=reason):
                self._at_fault[release] = reason
            case _:
                assert_never(event)
        if not self._caught_up:
            return instructions
        instructions += self._reconcile_residents(now_ms)
        append = self._lead(now_ms, commit_id) if self.leads else self._stand(now_ms, commit_id)
        self._caught_up = not append
        return [*instructions, *append]

    def _take_in(self, entry: LogEntry) -> None:
        led = self.leads
        self.state = fold(self.state, entry)
        self._caught_up = False
        if not isinstance(entry, Elect):
            return
        if entry.commit_id == self._elected_as:
            self._epoch_led = entry.epoch
        elif led and not self.leads and entry.leader == self.region:
            self.superseded = True

    # What this region holds.

    def prepared(self) -> frozenset[int]:
        """The releases that this region can serve."""
        return frozenset(
            n for n, local in self._local.items() if local.standing is Standing.PREPARED
        )

    def heartbeat(self, now_ms: int) -> RegionStatus:
        return RegionStatus(
            region=self.region,
            position=self.state.position,
            prepared=tuple(sorted(self.prepared())),
            failed={n: x.reason for n, x in self._local.items() if x.standing is Standing.FAILED},
            at_fault=dict(self._at_fault),
            current=self.state.current(now_ms),
            at_ms=now_ms,
        )

    def canary(self, now_ms: int) -> CanaryShare | None:
        """The canary to send traffic to here: one at fault gets none, even before its abort."""
        canary = self.state.canary_in(self.region, now_ms)
        return None if canary is None or canary.release in self._at_fault else canary

    def _settle(self, release: int, local: _Local) -> list[Instruction]:
        if release not in self._local:
            # It was retired while it was being prepared: what has been loaded since then goes, too.
            return [Retire(release=release)]
        self._local[release] = local
        return []

    def _reconcile_residents(self, now_ms: int) -> list[Instruction]:
        resident = [n for n in self.state.resident(now_ms) if self._is_target(n)]
        retired = [n for n in self._local if n not in resident]
        current = self.state.current(now_ms)
        # After a restart queries wait for the current release, for the others nobody does.
        wanted = sorted(
            (n for n in resident if self._is_wanted(n, now_ms)), key=lambda n: (n != current, n)
        )
        for number in retired:
            del self._local[number]
        for number in wanted:
            self._local[number] = _Local(Standing.PREPARING)
        return [
            *(Retire(release=n) for n in retired),
            *(Prepare(release=self.state.proposals[n].release) for n in wanted),
        ]

    def _is_wanted(self, number: int, now_ms: int) -> bool:
        local = self._local.get(number)
        if local is None:
            return True
        # What failed to be proposed is reported once; what is committed is tried until it works.
        committed = self.state.proposals[number].status is ReleaseStatus.COMMITTED
        rested = now_ms - local.since_ms >= self.settings.prepare_retry_s * 1000
        return committed and rested and local.standing is Standing.FAILED

    def _is_target(self, number: int) -> bool:
        proposal = self.state.proposals[number]
        # A committed release is for everyone: a region that was fenced out catches up later.
        return self.region in proposal.targets or proposal.status is ReleaseStatus.COMMITTED

    # Leading.

    def _stand(self, now_ms: int, commit_id: str) -> list[Instruction]:
        """Stands for election when nobody else leads."""
        if self.superseded:
            return []
        leader = self.state.leader
        if leader is not None and leader != self.region and not self._lapsed(leader, now_ms):
            return []
        self._elected_as = commit_id
        entry = Elect(
            epoch=self.state.epoch + 1, commit_id=commit_id, at_ms=now_ms, leader=self.region
        )
        return [Append(position=self.state.position + 1, entry=entry)]

    def _lapsed(self, leader: str, now_ms: int) -> bool:
        heartbeat = self.heartbeats.get(leader)
        lapse_ms = self.settings.leader_lapse_s * 1000
        return heartbeat is None or now_ms - heartbeat.at_ms > lapse_ms

    def _lead(self, now_ms: int, commit_id: str) -> list[Instruction]:
        """Moves the open proposal on by at most one entry."""
        proposal = self.state.open_proposal()
        entry = None if proposal is None else self._next_entry(proposal, now_ms, commit_id)
        return [] if entry is None else [Append(position=self.state.position + 1, entry=entry)]

    def _next_entry(self, proposal: Proposal, now_ms: int, commit_id: str) -> LogEntry | None:
        number = proposal.release.number
        if (fault := self._fault(number)) is not None:
            return self._abort_entry(number, fault, now_ms, commit_id)
        missing = proposal.waits_for(self.regions_prepared(number))
        failed = {r: s.failed[number] for r, s in self._said().items() if number in s.failed}
        # A canary was prepared in time: a region that restarts meanwhile prepares it once more.
        late = now_ms > proposal.prepare_by_ms and not proposal.tried
        for region in missing:
            if region in failed or late:
                reason = failed.get(region, "not prepared by the deadline")
                if proposal.fenced | {region} >= set(proposal.targets):
                    return self._abort_entry(number, reason, now_ms, commit_id)
                return Fence(
                    epoch=self.state.epoch,
                    commit_id=commit_id,
                    at_ms=now_ms,
                    release=number,
                    region=region,
                    reason=reason,
                )
        if missing or not proposal.auto_commit:
            return None
        return self._commit_entry(number, now_ms, commit_id)

    def _commit_entry(self, number: int, now_ms: int, commit_id: str) -> Commit:
        return Commit(
            epoch=self.state.epoch,
            commit_id=commit_id,
            at_ms=now_ms,
            release=number,
            switch_at_ms=self._switch_at_ms(now_ms),
        )

    def _abort_entry(self, number: int, reason: str, now_ms: int, commit_id: str) -> Abort:
        return Abort(
            epoch=self.state.epoch,
            commit_id=commit_id,
            at_ms=now_ms,
            release=number,
            reason=reason,
        )

    def _switch_at_ms(self, now_ms: int) -> int:
        return now_ms + int(self.settings.switch_margin_s * 1000)

    def regions_prepared(self, number: int) -> frozenset[str]:
        """The regions that say they hold the release."""
        return frozenset(r for r, said in self._said().items() if number in said.prepared)

    def _fault(self, number: int) -> str | None:
        """What a region has against the canary."""
        faults = {r: s.at_fault[number] for r, s in self._said().items() if number in s.at_fault}
        return next((f"canary in {region}: {faults[region]}" for region in sorted(faults)), None)

    def _said(self) -> dict[str, RegionStatus]:
        """What the regions say of releases; of this one we know without its last heartbeat."""
        return {**self.heartbeats, self.region: self.heartbeat(now_ms=0)}

    # Requests of people: each gives the entry to append, or a typed error.

    def propose(
        self,
        contents: ReleaseContents,
        *,
        targets: tuple[str, ...],
        auto_commit: bool,
        now_ms: int,
        commit_id: str,
    ) -> Append:
        """Raises InvalidArgument for targets that are none, Conflict."""
        self._check_leads()
        if len(set(targets)) < len(targets):
            raise InvalidArgument("a region is named twice", "targets")
        try:
            entry = Propose(
                epoch=self.state.epoch,
                commit_id=commit_id,
                at_ms=now_ms,
                release=Release(number=self.state.next_release, contents=contents),
                targets=targets,
                prepare_by_ms=now_ms + int(self.settings.prepare_timeout_s * 1000),
                auto_commit=auto_commit,
            )
        except ValidationError as error:
            raise InvalidArgument(error.errors()[0]["msg"], "targets") from error
        return self._checked(entry)

    def commit(self, number: int, *, now_ms: int, commit_id: str) -> Append:
        self._check_prepared(self._known(number))
        return self._checked(self._commit_entry(number, now_ms, commit_id))

    def share(self, number: int, percent: int, *, now_ms: int, commit_id: str) -> Append:
        """Gives the open release a share of the traffic, as a canary; 0 ends that."""
        proposal = self._known(number)
        if percent:
            self._check_prepared(proposal)
        if not 0 <= percent <= 99:
            raise InvalidArgument("must be 0 to 99; for all of the traffic, commit", "percent")
        return self._checked(
            Canary(
                epoch=self.state.epoch,
                commit_id=commit_id,
                at_ms=now_ms,
                release=number,
                percent=percent,
            )
        )

    def abort(self, number: int, *, reason: str, now_ms: int, commit_id: str) -> Append:
        self._known(number)
        return self._checked(self._abort_entry(number, reason, now_ms, commit_id))

    def rollback(self, number: int | None, *, now_ms: int, commit_id: str) -> Append:
        """Back to release `number`, or to the one that was current before (None)."""
        if number is None:
            # Counted from the last switch, even if its moment is still to come.
            switched = [switch.release for switch in self.state.switches]
            earlier = [release for release in switched if release != switched[-1]]
            if not earlier:
                raise Conflict("there is no earlier release to roll back to")
            number = earlier[-1]
        self._known(number)
        return self._checked(
            Rollback(
                epoch=self.state.epoch,
                commit_id=commit_id,
                at_ms=now_ms,
                release=number,
                switch_at_ms=self._switch_at_ms(now_ms),
            )
        )

    def _known(self, number: int) -> Proposal:
        if number < 1:
            raise InvalidArgument("release numbers start at 1", "release")
        proposal = self.state.proposals.get(number)
        if proposal is None:
            raise NotFound(
                f"there is no release {number}; the last one is {self.state.next_release - 1}"
            )
        return proposal

    def _check_prepared(self, proposal: Proposal) -> None:
        number = proposal.release.number
        missing = proposal.waits_for(self.regions_prepared(number))
        if proposal.status is ReleaseStatus.OPEN and missing:
            raise Conflict(f"release {number} is not prepared yet in: {', '.join(missing)}")

    def _check_leads(self) -> None:
        if not self.leads:
            leader = self.state.leader or "nobody yet"
            raise Conflict(f"this region does not lead: {leader} does; try there, or again shortly")

    def _checked(self, entry: LogEntry) -> Append:
        self._check_leads()
        if (reason := objection(self.state, entry)) is not None:
            raise Conflict(reason)
        return Append(position=self.state.position + 1, entry=entry)
