"""All regions at a glance: the last heartbeat of each one, compared with the release log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.releases.entries import LogState
from cluster.releases.events import RegionStatus

SILENT_AFTER_S = 5.0
"""Time without a heartbeat after which a region counts as silent; one comes each second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionLine:
    """One region."""

    region: str
    release: int | None
    """Release that is current there, by the region's last heartbeat."""
    prepared: tuple[int, ...]
    failed: Mapping[str, str]
    """Releases that the region could not prepare, by number, with the reason."""
    log_lag: int | None
    """Entries of the log that the region had not read; None before its first heartbeat."""
    heard_s: float | None
    """Seconds since the region's last heartbeat, by the reader's clock; None before the first
    one.
    """
    silent: bool
    healthy: bool
    load: float
    """Load of the region, in [0, 1]."""
    leads: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionsOverview:
    release: int | None
    """Current release, by the log."""
    open_release: int | None
    """Release that is being prepared."""
    leader: str | None
    epoch: int
    log_position: int
    regions: tuple[RegionLine, ...]
    """Regions by name."""


def overview(
    state: LogState, heartbeats: Mapping[str, RegionStatus], named: Iterable[str], now_ms: int
) -> RegionsOverview:
    """The overview at a moment. `named`: the regions of the settings, which may have no heartbeat
    yet.
    """
    opened = state.open_proposal()
    names = sorted({*named, *heartbeats})
    return RegionsOverview(
        release=state.current(now_ms),
        open_release=None if opened is None else opened.release.number,
        leader=state.leader,
        epoch=state.epoch,
        log_position=state.position,
        regions=tuple(_line(name, heartbeats.get(name), state, now_ms) for name in names),
    )


def _line(name: str, status: RegionStatus | None, state: LogState, now_ms: int) -> RegionLine:
    leads = state.leader == name
    if status is None:
        return RegionLine(
            region=name,
            release=None,
            prepared=(),
            failed={},
            log_lag=None,
            heard_s=None,
            silent=True,
            healthy=False,
            load=0.0,
            leads=leads,
        )
    heard_s = max(0.0, (now_ms - status.at_ms) / 1000)
    silent = heard_s > SILENT_AFTER_S
    return RegionLine(
        region=name,
        release=status.current,
        prepared=status.prepared,
        failed={str(number): why for number, why in status.failed.items()},
        log_lag=max(0, state.position - status.position),
        heard_s=heard_s,
        silent=silent,
        healthy=status.healthy and not silent,
        load=status.load,
        leads=leads,
    )
