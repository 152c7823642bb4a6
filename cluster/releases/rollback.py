"""The release that a roll-back leads to, and the check whether it would stay current."""

from __future__ import annotations

from cluster.errors import Conflict, InvalidArgument, NotFound
from cluster.releases.entries import LogState, Proposal, ReleaseStatus


def known_release(state: LogState, number: int) -> Proposal:
    """The proposal of a release. Raises InvalidArgument for a number below 1, NotFound for one that
    no release has.
    """
    if number < 1:
        raise InvalidArgument("release numbers start at 1", "release")
    proposal = state.proposals.get(number)
    if proposal is None:
        raise NotFound(f"there is no release {number}; the last one is {state.next_release - 1}")
    return proposal


def earlier_release(state: LogState, number: int | None) -> Proposal:
    """The committed release of that number; of None, the one that was current before the last one,
    even if the last one's moment is still to come.

    Raises Conflict when it was not committed, or there is none before; InvalidArgument, NotFound.
    """
    proposal = known_release(state, _one_before(state) if number is None else number)
    if proposal.status is not ReleaseStatus.COMMITTED:
        raise Conflict(
            f"release {proposal.release.number} is {proposal.status}, not committed; choose a "
            "release that was committed"
        )
    return proposal


def check_stays(state: LogState, number: int) -> None:
    """Raises Conflict when a release is about to take over from `number` by itself."""
    opened = state.open_proposal()
    if opened is not None and opened.auto_commit:
        raise Conflict(
            f"release {opened.release.number} is being prepared and would take over from release "
            f"{number} by itself: abort it first, or say --force"
        )


def _one_before(state: LogState) -> int:
    last: int | None = None
    for switch in reversed(state.switches):
        if last is not None and switch.release != last:
            return switch.release
        last = switch.release
    raise Conflict("there is no earlier release to roll back to")
