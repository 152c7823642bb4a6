"""What happened in a simulation, as the checkers judge it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from cluster.coordination import Decide
from tests.simulation.faulty_store import Write


@dataclass(slots=True)
class Request:
    """What a person asked for, and what came of it."""

    kind: str
    region: str
    decide: Decide
    commit_ids: list[str] = field(default_factory=list)
    """Of every entry that was made for it."""
    outcome: str = "unknown"
    """ok, failed, or unknown (no reply, or the coordinator died)."""
    state_position: int = 0


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


@dataclass(slots=True)
class History:
    """All that the checkers judge by."""

    writes: list[Write] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    prepared: list[tuple[float, str, int]] = field(default_factory=list)
    """(moment, region, release)"""
    retired: list[tuple[str, int, int, int]] = field(default_factory=list)
    """(incarnation, release, position, wall_ms)"""
    faults: list[tuple[float, str, int]] = field(default_factory=list)
    """(moment, incarnation, release): what was found of a canary"""
    failures: list[str] = field(default_factory=list)
    """Why the quiet time did not end well."""
    content: dict[str, bytes] = field(default_factory=dict)

    def digest(self) -> str:
        told = [self.writes, self.observations, self.prepared, self.retired]
        told += [self.faults, self.failures]
        asked = [(r.kind, r.region, r.commit_ids, r.outcome) for r in self.requests]
        return hashlib.sha256(repr((told, asked)).encode()).hexdigest()
