"""The rules of the release log: which entries hold, and what they make of its state.

A pure fold, in which each state shares its memory with the one before it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

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
    ReleaseStatus,
    Rollback,
    Switch,
)


def objection(state: LogState, entry: LogEntry) -> str | None:
    """Why `entry` is void in `state`, or None when it holds."""
    if isinstance(entry, Elect):
        return None if entry.epoch > state.epoch else f"epoch {state.epoch} is already taken"
    if entry.epoch != state.epoch:
        return f"epoch {entry.epoch} is fenced: epoch {state.epoch} leads"
    if isinstance(entry, Propose):
        return _objection_to_propose(state, entry)
    proposal = state.proposals.get(entry.release)
    if proposal is None:
        return f"there is no release {entry.release}"
    if isinstance(entry, Rollback):
        committed = proposal.status is ReleaseStatus.COMMITTED
        return None if committed else f"release {entry.release} is {proposal.status}, not committed"
    if proposal.status is not ReleaseStatus.OPEN:
        return f"release {entry.release} is {proposal.status}, not open"
    if isinstance(entry, Fence) and entry.region not in proposal.targets:
        return f"region {entry.region} is no target of release {entry.release}"
    if isinstance(entry, Canary):
        return _objection_to_canary(state, proposal)
    return None


def _objection_to_canary(state: LogState, proposal: Proposal) -> str | None:
    number = proposal.release.number
    if proposal.auto_commit:
        return f"release {number} is committed as soon as it is prepared: it cannot be a canary"
    if not state.switches:
        return f"there is no committed release beside which release {number} could be tried"
    return None


def _objection_to_propose(state: LogState, entry: Propose) -> str | None:
    if (proposal := state.open_proposal()) is not None:
        return f"release {proposal.release.number} is still open: commit or abort it first"
    if entry.release.number != state.next_release:
        return f"the next release is {state.next_release}, not {entry.release.number}"
    return None


def fold(state: LogState, entry: LogEntry) -> LogState:
    """The state after one more entry."""
    state = replace(state, position=state.position + 1)
    if objection(state, entry) is not None:
        return replace(state, num_void=state.num_void + 1)
    match entry:
        case Elect():
            return replace(state, epoch=entry.epoch, leader=entry.leader)
        case Propose():
            proposal = Proposal(
                release=entry.release,
                targets=entry.targets,
                prepare_by_ms=entry.prepare_by_ms,
                wait_for=entry.wait_for,
                auto_commit=entry.auto_commit,
                proposed_at_ms=entry.at_ms,
            )
            return _with_proposal(state, proposal)
        case Commit():
            committed = replace(state.proposals[entry.release], status=ReleaseStatus.COMMITTED)
            return _after_switch(_switched(_with_proposal(state, committed), entry), entry)
        case Rollback():
            return _after_switch(_switched(state, entry), entry)
        case Abort():
            proposal = state.proposals[entry.release]
            aborted = replace(proposal, status=ReleaseStatus.ABORTED, reason=entry.reason)
            state = replace(
                _with_proposal(state, aborted), aborts=state.aborts.appended(entry.release)
            )
            return _without_canary_of(entry.release, state)
        case Fence():
            proposal = state.proposals[entry.release]
            fenced = replace(proposal, fenced=proposal.fenced | {entry.region})
            return _with_proposal(state, fenced)
        case Canary():
            tried = replace(state.proposals[entry.release], tried=True)
            share = CanaryShare(release=entry.release, percent=entry.percent, at_ms=entry.at_ms)
            canary = share if entry.percent else None
            return replace(_with_proposal(state, tried), canary=canary)
        case _:
            assert_never(entry)


def _switched(state: LogState, entry: Commit | Rollback) -> LogState:
    switch = Switch(release=entry.release, at_ms=entry.switch_at_ms, position=state.position)
    latest_ms = max([switch.at_ms, *state.latest_ms[-1:]])
    return replace(
        state,
        switches=state.switches.appended(switch),
        latest_ms=state.latest_ms.appended(latest_ms),
    )


def _after_switch(state: LogState, entry: Commit | Rollback) -> LogState:
    """The canary goes on if it is still open, or has just been committed."""
    canary = state.canary
    if canary is None or state.proposals[canary.release].status is ReleaseStatus.OPEN:
        return state
    if isinstance(entry, Commit) and entry.release == canary.release:
        return state
    return _without_canary_of(canary.release, state)


def _without_canary_of(release: int, state: LogState) -> LogState:
    if state.canary is None or state.canary.release != release:
        return state
    return replace(state, canary=None)


def _with_proposal(state: LogState, proposal: Proposal) -> LogState:
    return replace(state, proposals=state.proposals.having(proposal))
