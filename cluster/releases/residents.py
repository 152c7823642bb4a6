"""The releases that a region holds, and those that it loads and unloads next."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from cluster.releases.entries import LogState, ReleaseStatus
from cluster.releases.events import Instruction, Prepare, Prepared, PrepareFailed, Retire


class ResidentState(StrEnum):
    """The progress of a resident release in this region."""

    PREPARING = "preparing"
    PREPARED = "prepared"
    FAILED = "failed"


@dataclass(slots=True)
class _Local:
    progress: ResidentState
    failure: PrepareFailed | None = None
    """Failure of the last attempt, until one succeeds."""
    failures: int = 0
    """Failures in a row."""
    since_ms: int = 0
    """Wall clock of the last failure."""


@dataclass(slots=True, kw_only=True)
class Residents:
    """The releases of one region, as far as the log wants them here."""

    region: str
    retry_s: float
    """Time from a first failure to the next attempt; each further failure doubles it."""
    retry_max_s: float
    _local: dict[int, _Local] = field(default_factory=dict)

    def prepared(self) -> frozenset[int]:
        """The releases that this region can serve."""
        return frozenset(
            n for n, local in self._local.items() if local.progress is ResidentState.PREPARED
        )

    def failures(self) -> dict[int, PrepareFailed]:
        """The releases that it has not prepared so far, and what the last attempt failed with."""
        return {n: local.failure for n, local in self._local.items() if local.failure is not None}

    def settle(self, event: Prepared | PrepareFailed, now_ms: int) -> list[Instruction]:
        """Takes in how the preparing of a release ended."""
        if event.release not in self._local:
            # It was retired while it was being prepared: what has been loaded since then goes, too.
            return [Retire(release=event.release)]
        match event:
            case Prepared(release=number):
                self._local[number] = _Local(ResidentState.PREPARED)
            case PrepareFailed(release=number):
                failures = self._local[number].failures + 1
                self._local[number] = _Local(ResidentState.FAILED, event, failures, now_ms)
        return []

    def reconcile(self, state: LogState, now_ms: int) -> list[Instruction]:
        """The releases to unload and to load, so that the region holds the releases that the log
        wants here.
        """
        resident = [n for n in state.resident(now_ms) if self._is_for_us(state, n)]
        kept = self._may_serve(state, now_ms).union(resident)
        retired = [n for n in self._local if n not in kept]
        current = state.current(now_ms)
        # After a restart queries wait for the current release, for the others nobody does.
        wanted = sorted(
            (n for n in resident if self._is_wanted(state, n, now_ms)),
            key=lambda n: (n != current, n),
        )
        for number in retired:
            del self._local[number]
        for number in wanted:
            before = self._local.get(number, _Local(ResidentState.PREPARING))
            self._local[number] = replace(before, progress=ResidentState.PREPARING)
        return [
            *(Retire(release=n) for n in retired),
            *(Prepare(release=state.proposals[n].release) for n in wanted),
        ]

    def _may_serve(self, state: LogState, now_ms: int) -> set[int]:
        """The releases that this region may answer from while no newer current one is loaded.

        After a restart, before any release is prepared, these may be all releases that were ever
        current: until then the gateways go on with the view of the coordinator before this one.
        """
        past = (switch.release for switch in reversed(state.switches) if switch.at_ms <= now_ms)
        prepared, passed = self.prepared(), set()
        for release in past:
            if release in prepared:
                # The switches before it need no look: there may be very many.
                return {release}
            passed.add(release)
        return passed

    def _is_wanted(self, state: LogState, number: int, now_ms: int) -> bool:
        local = self._local.get(number)
        if local is None:
            return True
        if local.progress is not ResidentState.FAILED:
            return False
        assert local.failure is not None, "what has failed has its reason"
        # A committed release is tried until it works; an open one as long as that may help, and the
        # leader decides how long it is waited for.
        committed = state.proposals[number].status is ReleaseStatus.COMMITTED
        wait_s = min(self.retry_max_s, self.retry_s * 2.0 ** min(local.failures - 1, 64))
        rested = now_ms - local.since_ms >= wait_s * 1000
        return rested and (committed or local.failure.retryable)

    def _is_for_us(self, state: LogState, number: int) -> bool:
        proposal = state.proposals[number]
        # A committed release is for everyone: a region that was fenced out catches up later.
        return self.region in proposal.targets or proposal.status is ReleaseStatus.COMMITTED
