"""What happened in a simulation, as the checkers judge it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from cluster.releases.requests import ReleaseRequest, RollBackTo
from tests.simulation.world.faulty_store import Write


@dataclass(slots=True)
class Request:
    """What a person asked of the release log, and what came of it."""

    at_s: float
    region: str
    asked: ReleaseRequest
    makes_sense: bool = True
    """False: it has to be refused, whatever the state of the log."""
    commit_ids: list[str] = field(default_factory=list)
    """Of every entry that was made for it."""
    was_loaded: bool = True
    """Of a roll-back: whether whoever wrote the last one of `commit_ids` had the release loaded."""
    outcome: str = "unknown"
    """ok, failed, or unknown (no reply, or the coordinator died)."""

    @property
    def kind(self) -> str:
        is_forced = isinstance(self.asked, RollBackTo) and self.asked.force
        return f"{'forced ' if is_forced else ''}{type(self.asked).__name__}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What an incarnation of a coordinator held to be true at a moment."""

    at_s: float
    region: str
    incarnation: str
    position: int
    epoch: int
    leader: str | None
    leads: bool
    switches: tuple[tuple[int, int], ...]
    wall_ms: int
    current: int | None
    """The release that is current at `wall_ms`."""
    open_release: int | None
    canary: tuple[int, int] | None
    """Release and percentage by the log, whatever the region."""
    tries: int | None
    """The release to which this region sends a share of its traffic."""
    num_void: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a client asks of a region."""

    query_id: int
    asked_s: float
    region: str
    """The one that is asked."""
    level: str
    """A level of consistency, or `release`: a named one."""
    answer: bool
    """Whether an answer is asked for; else a search."""
    timeout_s: float
    token_position: int | None = None
    """Of the session token that goes along."""
    max_staleness_ms: int | None = None
    release: int | None = None
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """An answer as one region made it, for whomever."""

    at_s: float
    query_id: int
    region: str
    release: int
    position: int
    """Of its session token; 0 where there is none."""
    staleness_ms: int
    hits: str
    level: str
    """Of the query; or `release` for an answer whose release a quorum has named."""
    canary: bool
    """Whether it was made by a release on trial."""
    is_held: bool
    """Whether the region's replicas had the release loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """A region that took a query up."""

    at_s: float
    query_id: int
    region: str
    chain: tuple[str, ...]
    """The regions that handed it on, the first one first."""
    sent_s: float
    """When it was handed on to this region."""
    remaining_s: float
    """The time it was given here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A region cannot answer a query by itself."""

    at_s: float
    query_id: int
    region: str
    level: str
    reason: str
    could_serve: bool
    """Whether its replicas held, all the while, a release that had come into force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a client got."""

    query: Query
    at_s: float
    serving: Serving | None
    error: str = ""
    """The error's class, where there is no answer; `lost` when nothing came."""
    reason: str = ""


@dataclass(slots=True)
class History:
    """All that the checkers judge by."""

    regions: tuple[str, ...] = ()
    writes: list[Write] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    prepared: list[tuple[float, str, int]] = field(default_factory=list)
    """(moment, region, release)"""
    given_up: list[tuple[float, str, int]] = field(default_factory=list)
    """(moment, region, release): what failed to prepare in a way that does not pass"""
    retired: list[tuple[str, int, int, int]] = field(default_factory=list)
    """(incarnation, release, position, wall_ms)"""
    faults: list[tuple[float, str, int]] = field(default_factory=list)
    """(moment, incarnation, release): what was found of a canary"""
    servings: list[Serving] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    hops: list[Hop] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    accidents: list[tuple[float, str]] = field(default_factory=list)
    quiet_from_s: float = 0.0
    """From then on nothing disturbs, and all has settled."""
    failures: list[str] = field(default_factory=list)
    """Why the quiet time did not end well."""
    errors: int = 0
    """Steps of coordinators that failed."""
    content: dict[str, bytes] = field(default_factory=dict)

    def digest(self) -> str:
        told = [self.writes, self.observations, self.prepared, self.retired, self.faults]
        told += [self.given_up]
        told += [
            self.servings,
            self.refusals,
            self.hops,
            self.replies,
            self.accidents,
            self.failures,
        ]
        asked = [(r.kind, r.region, r.commit_ids, r.outcome) for r in self.requests]
        return hashlib.sha256(repr((told, asked)).encode()).hexdigest()
