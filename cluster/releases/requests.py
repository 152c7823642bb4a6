"""The requests of people to the release log, as values.

`Rollout.decide` gives the entry that a request leads to, or a typed error. The command line, the
coordinator and the simulation all send these values.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.releases.entries import LogState, ReleaseContents
from cluster.releases.settings import RolloutPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposeRelease:
    """Have the target regions prepare a new release."""

    contents: ReleaseContents
    targets: tuple[str, ...]
    auto_commit: bool
    """True: the release is committed as soon as no region has to be waited for any more."""
    policy: RolloutPolicy | None = None
    """Policy of the rollout; None takes that of the settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetShare:
    """Give a prepared release a share of the traffic, as a canary."""

    release: int
    percent: int
    """Share in percent, 0 to 99; 0 ends the trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRelease:
    """Make a prepared release current in every region."""

    release: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortRelease:
    """Give up an open release for good."""

    release: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBackTo:
    """Make a committed release current again, in one switch."""

    release: int | None = None
    """Release to go back to; None is the one that was current before the last one."""
    force: bool = False
    """True: switch even where a region has not loaded the release, or an open one would follow."""


ReleaseRequest = ProposeRelease | SetShare | CommitRelease | AbortRelease | RollBackTo


def release_of(request: ReleaseRequest, after: LogState) -> int:
    """Number of the release that a granted request is about. `after`: the state right after the
    request's entry.
    """
    match request:
        case ProposeRelease():
            return after.next_release - 1
        case RollBackTo():
            return after.switches[-1].release
        case _:
            return request.release
