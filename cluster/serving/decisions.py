"""What a region does about a request, one step after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from cluster.errors import RaygionError
from cluster.mutations.watermark import Watermark


class Reading(StrEnum):
    """The state of a request's own reading of a log, begun after the request came."""

    NOT_ASKED = "not asked"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve:
    """Answer with `release`, or with what a later switch leads to."""

    release: int
    position: int
    """Position of the switch in force in the release log; nothing older may serve."""
    staleness_ms: int
    exactly: bool = False
    """True when this release alone may serve: no newer one, and no canary."""
    documents_floor: Mapping[str, Watermark] = field(default_factory=dict)
    """How far the live documents that serve must have come, by corpus."""


Log: TypeAlias = str | None
"""A corpus stands for the logs of its documents, of all regions; None for the release log."""
RELEASE_LOG: Final = None


@dataclass(frozen=True, slots=True)
class Refresh:
    """Read these logs to their ends, each once for each request."""

    logs: tuple[Log, ...] = (RELEASE_LOG,)


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until the wall clock here has reached this moment."""

    until_ms: int


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """This region cannot; `error` is for the caller when no other one does."""

    error: RaygionError


Decision = Serve | Refresh | Wait | Elsewhere
