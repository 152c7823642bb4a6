"""A region's summary of itself: its releases, shards, replicas and machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from cluster.regions.divergence_report import DivergenceReport
from cluster.regions.overview import RegionLine


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSummary:
    corpus: str
    index_version: str
    num_passages: int
    recall_at_10: float
    shards: int
    replicas: int
    """Replicas wanted, over all shards."""
    replicas_serving: int
    """Replicas that hold the index version and answer."""
    recall_at_10_least: float | None = None
    """Recall in the stratum in which least is found; None for an index of an older version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSummary:
    release: int
    corpora: tuple[CorpusSummary, ...]
    model: str | None
    """The generator's name, or None where the release only searches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanarySummary:
    release: int
    percent: int
    """Share of the traffic that the canary gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSummary:
    """One machine of the region, or one node of its Ray cluster where a machine has several."""

    address: str
    node: str
    """The id that Ray gave it."""
    replicas: Mapping[str, int]
    """Shard replicas that run there and answer, by corpus."""
    embedders: int
    gateways: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentsSummary:
    """The documents of a corpus that were written one by one."""

    corpus: str
    watermark: Mapping[str, int]
    """Position in each region's log up to which they are applied."""
    read_ms: int
    """Wall clock before the last reading of all logs that was complete; 0 before one."""
    digest: str
    """Equal in regions that have applied the same, for equal documents."""
    rows: int
    """Passages, and deletes, that the index does not hold yet."""
    size_bytes: int
    waiting: int
    """Writes that wait to be stored."""
    unreadable: Mapping[str, str]
    """Why the logs of regions cannot be read further, by region."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionSummary:
    region: str
    release: int | None
    """The current release, or None before the first commit."""
    resident: tuple[ReleaseSummary, ...]
    leader: str | None
    epoch: int
    log_position: int
    healthy: bool
    canary: CanarySummary | None = None
    regions: tuple[RegionLine, ...] = ()
    """All regions, as far as this one knows."""
    divergence: DivergenceReport | None = None
    """Comparison of the regions' answers; None where nothing is compared."""
    machines: tuple[MachineSummary, ...] = ()
    """Machines that were alive when last seen."""
    log_trouble: str | None = None
    """The entry of the release log that this region cannot read, and what to do; None: it can."""
    documents: tuple[DocumentsSummary, ...] | None = None
    """Corpora to which single documents were written; None where that is not known."""


class StatusSource(Protocol):
    """Gives the status of a region."""

    async def status(self) -> RegionSummary:
        """Raises Unavailable while the region's coordinator is away."""
        ...
