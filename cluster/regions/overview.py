"""All regions at one glance: what each told of itself last, against what the release log says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.releases.entries import LogState
from cluster.releases.events import RegionStatus

SILENT_AFTER_S = 5.0
"""Without a heartbeat for so long a region is taken for silent: it tells one each second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionLine:
    """One region."""

    region: str
    release: int | None
    """The current one there, as it told last."""
    prepared: tuple[int, ...]
    failed: Mapping[str, str]
    """Releases that the region could not prepare, by number, with the reason."""
    log_lag: int | None
    """Entries of the log that it had not read; None for a region that never told of itself."""
    heard_s: float | None
    """Seconds since its last heartbeat, by the clock of the one who looks; None: there is none."""
    silent: bool
    healthy: bool
    load: float
    """Load of the region, in [0, 1]."""
    leads: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionsOverview:
    release: int | None
    """The current release by the log."""
    open_release: int | None
    """The one that is being prepared."""
    leader: str | None
    epoch: int
    log_position: int
    regions: tuple[RegionLine, ...]
    """Regions by name."""


def overview(
    state: LogState, heartbeats: Mapping[str, RegionStatus], named: Iterable[str], now_ms: int
) -> RegionsOverview:
    """`named`: the regions of the settings, which may have told nothing of themselves yet."""
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


def _line(name: str, told: RegionStatus | None, state: LogState, now_ms: int) -> RegionLine:
    leads = state.leader == name
    if told is None:
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
    heard_s = max(0.0, (now_ms - told.at_ms) / 1000)
    silent = heard_s > SILENT_AFTER_S
    return RegionLine(
        region=name,
        release=told.current,
        prepared=told.prepared,
        failed={str(number): why for number, why in told.failed.items()},
        log_lag=max(0, state.position - told.position),
        heard_s=heard_s,
        silent=silent,
        healthy=told.healthy and not silent,
        load=told.load,
        leads=leads,
    )
