"""The rules of the release log: which entries hold, and what they make of its state.

A pure fold, in which each state shares its memory with the one before it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, assert_never

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
    ReleaseStatus,
    Rollback,
    Switch,
)


def objection(state: LogState, entry: LogEntry) -> str | None:
    """The reason why `entry` is void in `state`; None when the entry holds."""
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
    is_void = objection(state, entry) is not None
    changes = {"num_void": state.num_void + 1} if is_void else _changes(state, entry)
    return replace(state, position=state.position + 1, **changes)


def _changes(state: LogState, entry: LogEntry) -> dict[str, Any]:
    """The fields of the state that an entry changes which holds."""
    proposals = state.proposals
    match entry:
        case Elect():
            return {"epoch": entry.epoch, "leader": entry.leader}
        case Propose():
            proposal = Proposal(
                release=entry.release,
                targets=entry.targets,
                prepare_by_ms=entry.prepare_by_ms,
                wait_for=entry.wait_for,
                auto_commit=entry.auto_commit,
                proposed_at_ms=entry.at_ms,
            )
            return {"proposals": proposals.having(proposal)}
        case Commit():
            committed = replace(proposals[entry.release], status=ReleaseStatus.COMMITTED)
            return {"proposals": proposals.having(committed), **_switch(state, entry)}
        case Rollback():
            return _switch(state, entry)
        case Abort():
            aborted = replace(
                proposals[entry.release], status=ReleaseStatus.ABORTED, reason=entry.reason
            )
            return {
                "proposals": proposals.having(aborted),
                "aborts": state.aborts.appended(entry.release),
                "canary": _canary_without(state, entry.release),
            }
        case Fence():
            proposal = proposals[entry.release]
            fenced = replace(proposal, fenced=proposal.fenced | {entry.region})
            return {"proposals": proposals.having(fenced)}
        case Canary():
            tried = replace(proposals[entry.release], tried=True)
            share = CanaryShare(release=entry.release, percent=entry.percent, at_ms=entry.at_ms)
            return {
                "proposals": proposals.having(tried),
                "canary": share if entry.percent else None,
            }
        case _:
            assert_never(entry)


def _switch(state: LogState, entry: Commit | Rollback) -> dict[str, Any]:
    """A canary goes on if it is open still, or is what is committed now."""
    position, at_ms, canary = state.position + 1, entry.switch_at_ms, state.canary
    is_over = canary is not None and state.proposals[canary.release] is not state.open_proposal()
    return {
        "switches": state.switches.appended(
            Switch(release=entry.release, at_ms=at_ms, position=position)
        ),
        "latest_ms": state.latest_ms.appended(max([at_ms, *state.latest_ms[-1:]])),
        "canary": None if is_over else canary,
    }


def _canary_without(state: LogState, release: int) -> CanaryShare | None:
    canary = state.canary
    return None if canary is not None and canary.release == release else canary
