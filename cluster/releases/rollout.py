"""The region coordinator's decisions as a state machine: events in, instructions out, no I/O.

    request (ProposeRelease, SetShare, ...)     --> Append --> EntryRead --> the log's new state
    open proposal names this region             --> Prepare --> Prepared | PrepareFailed, and again
    every target prepared or fenced (leader)    --> Append(Commit)
    deadline over, or a region gave up (leader) --> Append(Fence | Abort)
    a canary is at fault somewhere (leader)     --> Append(Abort)
    a release is no longer resident             --> Retire

Every coordinator runs this machine over the same log. Only the leader appends; which one leads is
itself in the log. The machine holds nothing that the log and the heartbeats cannot give back, so a
coordinator may be killed at any step: its successor reads the log and goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

from pydantic import ValidationError

from cluster.errors import Conflict, InvalidArgument
from cluster.releases.entries import (
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
    ReleaseStatus,
    Rollback,
)
from cluster.releases.events import (
    Append,
    CanaryFaulted,
    EntryRead,
    Event,
    HeartbeatsRead,
    Instruction,
    LogCaughtUp,
    Prepared,
    PrepareFailed,
    RegionStatus,
)
from cluster.releases.fold import fold, objection
from cluster.releases.heartbeats import Heartbeats
from cluster.releases.requests import (
    AbortRelease,
    CommitRelease,
    ProposeRelease,
    ReleaseRequest,
    RollBackTo,
    SetShare,
)
from cluster.releases.residents import Residents
from cluster.releases.rollback import check_stays, earlier_release, known_release
from cluster.releases.settings import RolloutPolicy, RolloutSettings

_LATE = "not prepared by the deadline"


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
    policy: RolloutPolicy = field(default_factory=RolloutPolicy)
    """Policy of a proposal that brings none."""
    state: LogState = field(default_factory=LogState)
    _heartbeats: Heartbeats = field(default_factory=Heartbeats)
    _residents: Residents = field(init=False)
    _at_fault: dict[int, str] = field(default_factory=dict)
    """Found of canaries here. It holds for good, since a release never changes."""
    _caught_up: bool = False
    _epoch_led: int | None = None
    """The epoch that this very incarnation won; a predecessor's epoch is not ours."""
    _elected_as: str | None = None
    superseded: bool = False
    """True when another incarnation of this region took over the lead. This one then never stands
    for election again: two incarnations that live at once would take turns for ever.
    """

    def __post_init__(self) -> None:
        self._residents = Residents(
            region=self.region,
            retry_s=self.settings.prepare_retry_s,
            retry_max_s=self.settings.prepare_retry_max_s,
        )

    @property
    def heartbeats(self) -> Mapping[str, RegionStatus]:
        """The last one of each region."""
        return self._heartbeats.statuses

    @property
    def leads(self) -> bool:
        return self._epoch_led == self.state.epoch

    def handle(self, event: Event, *, now_ms: int, commit_id: str) -> list[Instruction]:
        """Takes one event and returns what to do about it, in order.

        An outcome is only taken in: it may come at any moment, also while something is being
        appended. What follows from it is decided with the next LogCaughtUp.
        """
        match event:
            case Prepared() | PrepareFailed():
                return self._residents.settle(event, now_ms)
            case CanaryFaulted(release=release, reason=reason):
                self._at_fault[release] = reason
                return []
            case EntryRead(entry=entry):
                self._take_in(entry)
            case LogCaughtUp():
                self._caught_up = True
            case HeartbeatsRead():
                self._heartbeats.take(event, now_ms)
            case _:
                assert_never(event)
        if not self._caught_up:
            return []
        instructions = self._residents.reconcile(self.state, now_ms)
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

    # The releases that this region holds.

    def prepared(self) -> frozenset[int]:
        """The releases that this region can serve."""
        return self._residents.prepared()

    def heartbeat(self, now_ms: int) -> RegionStatus:
        failures = self._residents.failures()
        return RegionStatus(
            region=self.region,
            position=self.state.position,
            prepared=tuple(sorted(self.prepared())),
            failed={number: failure.reason for number, failure in failures.items()},
            gave_up=tuple(n for n, failure in failures.items() if not failure.retryable),
            at_fault=dict(self._at_fault),
            current=self.state.current(now_ms),
            at_ms=now_ms,
        )

    def canary(self, now_ms: int) -> CanaryShare | None:
        """The canary to send traffic to here: one at fault gets none, even before its abort."""
        canary = self.state.canary_in(self.region, now_ms)
        return None if canary is None or canary.release in self._at_fault else canary

    # Leading.

    def _stand(self, now_ms: int, commit_id: str) -> list[Instruction]:
        """Stands for election when nobody else leads."""
        if self.superseded:
            return []
        leader = self.state.leader
        if leader is not None and leader != self.region and not self._lapsed(leader):
            return []
        return [self._election(now_ms, commit_id)]

    def take_lead(self, now_ms: int, commit_id: str) -> Append:
        """Stands for election whoever leads. Raises Conflict when this one may not lead."""
        if self.superseded:
            raise Conflict(f"another coordinator of region {self.region} leads; ask again shortly")
        return self._election(now_ms, commit_id)

    def _election(self, now_ms: int, commit_id: str) -> Append:
        self._elected_as = commit_id
        entry = Elect(
            epoch=self.state.epoch + 1, commit_id=commit_id, at_ms=now_ms, leader=self.region
        )
        return Append(position=self.state.position + 1, entry=entry)

    def _lapsed(self, region: str) -> bool:
        """True when the region has been silent for so long that it is taken for lost."""
        return self._heartbeats.silent_s(region) > self.settings.leader_lapse_s

    def _lead(self, now_ms: int, commit_id: str) -> list[Instruction]:
        """Moves the open proposal on by at most one entry."""
        proposal = self.state.open_proposal()
        entry = None if proposal is None else self._next_entry(proposal, now_ms, commit_id)
        return [] if entry is None else [Append(position=self.state.position + 1, entry=entry)]

    def _next_entry(self, proposal: Proposal, now_ms: int, commit_id: str) -> LogEntry | None:
        number = proposal.release.number
        if (fault := self._fault(number)) is not None:
            return self._abort_entry(number, fault, now_ms, commit_id)
        prepared = self.regions_prepared(number)
        missing = proposal.waits_for(prepared)
        statuses = self._statuses()
        failed = {r: s.failed[number] for r, s in statuses.items() if number in s.failed}
        gave_up = {r for r, s in statuses.items() if number in s.gave_up}
        # A canary was prepared in time: a region that restarts meanwhile prepares it once more.
        late = now_ms > proposal.prepare_by_ms and not proposal.tried
        if missing and proposal.wait_for != "all":
            could = frozenset(proposal.targets) - gave_up
            lost = missing if late else proposal.waits_for(could | prepared)
            if not lost:
                return None
            return self._abort_entry(number, _shortfall(lost, failed), now_ms, commit_id)
        for region in missing:
            if region in gave_up or late:
                reason = failed.get(region, _LATE)
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
        return frozenset(r for r, status in self._statuses().items() if number in status.prepared)

    def _fault(self, number: int) -> str | None:
        """A region's reason against the canary."""
        faults = {
            r: s.at_fault[number] for r, s in self._statuses().items() if number in s.at_fault
        }
        return next((f"canary in {region}: {faults[region]}" for region in sorted(faults)), None)

    def _statuses(self) -> dict[str, RegionStatus]:
        """The regions' status; this region's own is known without its last heartbeat."""
        return {**self.heartbeats, self.region: self.heartbeat(now_ms=0)}

    # Requests of people.

    def decide(self, request: ReleaseRequest, *, now_ms: int, commit_id: str) -> Append:
        """The entry that does what a person asks for.

        Raises Conflict where this region does not lead, or the releases stand so that the request
        makes no sense now; InvalidArgument; NotFound.
        """
        self._check_leads()
        entry = self._entry(request, now_ms, commit_id)
        if (reason := objection(self.state, entry)) is not None:
            raise Conflict(reason)
        return Append(position=self.state.position + 1, entry=entry)

    def _entry(self, request: ReleaseRequest, now_ms: int, commit_id: str) -> LogEntry:
        match request:
            case ProposeRelease():
                return self._propose_entry(request, now_ms, commit_id)
            case SetShare():
                return self._canary_entry(request, now_ms, commit_id)
            case CommitRelease(release=number):
                self._check_prepared(known_release(self.state, number))
                return self._commit_entry(number, now_ms, commit_id)
            case AbortRelease(release=number, reason=reason):
                known_release(self.state, number)
                return self._abort_entry(number, reason, now_ms, commit_id)
            case RollBackTo():
                return self._rollback_entry(request, now_ms, commit_id)
            case _:
                assert_never(request)

    def _propose_entry(self, request: ProposeRelease, now_ms: int, commit_id: str) -> Propose:
        targets, policy = request.targets, request.policy or self.policy
        if isinstance(policy.wait_for, tuple) and not set(policy.wait_for) <= set(targets):
            strangers = ", ".join(sorted(set(policy.wait_for) - set(targets)))
            raise InvalidArgument(f"is no target of the release: {strangers}", "wait_for")
        if len(set(targets)) < len(targets):
            raise InvalidArgument("must name each region once", "targets")
        try:
            return Propose(
                epoch=self.state.epoch,
                commit_id=commit_id,
                at_ms=now_ms,
                release=Release(number=self.state.next_release, contents=request.contents),
                targets=targets,
                wait_for=policy.wait_for,
                prepare_by_ms=now_ms + int(policy.prepare_timeout_s * 1000),
                auto_commit=request.auto_commit,
            )
        except ValidationError as error:
            raise InvalidArgument(error.errors()[0]["msg"], "targets") from error

    def _canary_entry(self, request: SetShare, now_ms: int, commit_id: str) -> Canary:
        proposal = known_release(self.state, request.release)
        if request.percent:
            self._check_prepared(proposal)
        if not 0 <= request.percent <= 99:
            raise InvalidArgument("must be 0 to 99; for all of the traffic, commit", "percent")
        return Canary(
            epoch=self.state.epoch,
            commit_id=commit_id,
            at_ms=now_ms,
            release=request.release,
            percent=request.percent,
        )

    def _rollback_entry(self, request: RollBackTo, now_ms: int, commit_id: str) -> Rollback:
        earlier = earlier_release(self.state, request.release).release.number
        if not request.force:
            check_stays(self.state, earlier)
            self._check_loaded(earlier)
        return Rollback(
            epoch=self.state.epoch,
            commit_id=commit_id,
            at_ms=now_ms,
            release=earlier,
            switch_at_ms=self._switch_at_ms(now_ms),
        )

    def _check_loaded(self, number: int) -> None:
        """Regions that are lost, or cut off from the store, are asked nothing."""
        missing = [
            region
            for region, status in sorted(self._statuses().items())
            if number not in status.prepared and (region == self.region or not self._lapsed(region))
        ]
        if missing:
            raise Conflict(
                f"release {number} is not loaded in: {', '.join(missing)}. Say --again to prepare "
                "its contents first, as a new release, or --force to switch at once"
            )

    def _check_prepared(self, proposal: Proposal) -> None:
        number = proposal.release.number
        missing = proposal.waits_for(self.regions_prepared(number))
        if proposal.status is ReleaseStatus.OPEN and missing:
            raise Conflict(f"release {number} is not prepared yet in: {', '.join(missing)}")

    def _check_leads(self) -> None:
        if not self.leads:
            leader = self.state.leader or "nobody yet"
            raise Conflict(f"this region does not lead: {leader} does; try there, or again shortly")


def _shortfall(missing: list[str], failed: Mapping[str, str]) -> str:
    """The regions that did not prepare a release, each with the reason."""
    return "; ".join(f"{region}: {failed.get(region, _LATE)}" for region in missing)
