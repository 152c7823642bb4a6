"""What goes into the rollout (events), what comes out (instructions), the heartbeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from cluster.records import Record
from cluster.releases import LogEntry, Release


class RegionStatus(Record):
    """A region's heartbeat, at `regions/{region}/status.json`."""

    region: str
    position: int
    """How far this region has read the release log."""
    prepared: tuple[int, ...]
    failed: dict[int, str] = Field(default_factory=dict)
    """Open releases that this region cannot prepare, and why."""
    at_fault: dict[int, str] = Field(default_factory=dict)
    """Releases that did worse as a canary here than the current one, and in what."""
    current: int | None
    healthy: bool = True
    at_ms: int


# Events: what happened.


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryRead:
    """The next entry of the log was read."""

    entry: LogEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCaughtUp:
    """The whole log has been read; decisions may be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatsRead:
    statuses: Mapping[str, RegionStatus]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    release: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareFailed:
    release: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryFaulted:
    """Requests that the canary served here went worse than those of the current release."""

    release: int
    reason: str


Outcome = Prepared | PrepareFailed | CanaryFaulted
"""What a region finds out about a release."""
Event = EntryRead | LogCaughtUp | HeartbeatsRead | Outcome

# Instructions: what the shell is to do.


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """Write `entry` at `position`. Losing the place to another writer is no error: read on."""

    position: int
    entry: LogEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Fetch, verify, load and warm up the release beside those that serve."""

    release: Release


@dataclass(frozen=True, slots=True, kw_only=True)
class Retire:
    """Unload the release."""

    release: int


Instruction = Append | Prepare | Retire
