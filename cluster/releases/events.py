"""The events that go into the rollout, the instructions that come out, and the heartbeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field

from cluster.records import Record
from cluster.releases.entries import LogEntry, Release

REGIONS = "regions"
"""The folder of the store with a folder for each region."""


def heartbeat_path(region: str) -> str:
    """Path in the store of the region's heartbeat."""
    return f"{REGIONS}/{region}/status.json"


class DocumentsStatus(Record):
    """How far a region has come with the live documents of a corpus, and what it holds then."""

    model_config = ConfigDict(extra="ignore")

    watermark: dict[str, Annotated[int, Field(ge=0)]]
    """Position in the log of each region."""
    documents_digest: str
    """The same in all regions with this watermark."""


class RegionStatus(Record):
    """A region's heartbeat."""

    # Regions are brought up to date one after the other: a newer one may tell more.
    model_config = ConfigDict(extra="ignore")

    region: str
    position: int
    """Number of the last entry of the release log that this region has read."""
    prepared: tuple[int, ...]
    failed: dict[int, str] = Field(default_factory=dict)
    """Releases that this region has not prepared so far, and why its last attempt failed."""
    gave_up: tuple[int, ...] = ()
    """Releases of `failed` that the region will not try again while they are open."""
    at_fault: dict[int, str] = Field(default_factory=dict)
    """Releases that did worse here as a canary than the current release, with the fault found."""
    current: int | None
    healthy: bool = True
    load: float = 0.0
    """Load of the region, in [0, 1], as far as its replicas tell."""
    documents: dict[str, DocumentsStatus] = Field(default_factory=dict)
    """By corpus; those without a log are left out."""
    cluster_id: str = ""
    """Id of the Ray cluster in which the region runs, by which another cluster under the same name
    is noticed.
    """
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
    at_s: float
    """Time of the reading, on the reader's monotonic clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    release: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareFailed:
    release: int
    reason: str
    retryable: bool
    """True when another attempt may succeed. A fault of what the store holds stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryFaulted:
    """Requests that the canary served here went worse than those of the current release."""

    release: int
    reason: str


ReleaseOutcome = Prepared | PrepareFailed | CanaryFaulted
"""A region's finding about a release."""
Event = EntryRead | LogCaughtUp | HeartbeatsRead | ReleaseOutcome

# Instructions: what the shell is to do.


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """Write `entry` at `position`. Losing the position to another writer is no error: read on."""

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
