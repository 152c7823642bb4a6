"""The report of `bench.regions.run`: as JSON under `bench/results/`, and as a table in the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from bench.load.client import quantile_of
from bench.markdown import heading, number, table
from bench.reports import RESULTS, Environment
from bench.tables import DOCS, with_tables
from cluster.records import Record

BEGIN = "<!-- regions: begin -->"
END = "<!-- regions: end -->"


class Times(Record):
    """Times of repetitions of one thing, in ms."""

    count: int
    p50: float
    p99: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        ordered = sorted(values)
        return cls(
            count=len(ordered),
            p50=quantile_of(ordered, 0.5),
            p99=quantile_of(ordered, 0.99),
            most=ordered[-1],
        )


class UnderLoad(Record):
    """Switches while every region is asked steadily."""

    switches: int
    queries: int
    """Queries from before the first switch until after the last one."""
    failed: int
    quiet_queries: int
    quiet_failed: int
    queries_per_s: float
    """Queries a second of all regions together, while nothing switches."""
    quiet_p50_ms: float
    quiet_p99_ms: float
    switching_p50_ms: float
    """Median from the request for a switch until all regions are whole again."""
    switching_p99_ms: float


class RegionLoss(Record):
    """The region that leads, killed while a user beside it asks."""

    moved_ms: float
    """Time until another region answered the user."""
    log_moved_ms: float
    """Time until a request was in the log again."""
    queries: int
    failed: int
    back_s: float
    """Time from the region's start until it served the current release again."""


class RegionsReport(Record):
    environment: Environment
    num_vectors: int
    start_s: dict[str, float]
    quiet_mib: dict[str, float]
    peak_mib: dict[str, float]
    """Most memory while a release is prepared and switched to."""
    skew_ms: Times
    late_ms: Times
    """Times from the moment in the log to the last region's first answer."""
    commit_ms: Times
    """Times from the request to the last region's first answer: prepared, committed, switched."""
    rollback_ms: Times
    under_load: UnderLoad
    leader_killed_ms: Times
    losses: tuple[RegionLoss, ...]


def report_path() -> Path:
    return RESULTS / "regions.json"


def tables_of(report: RegionsReport) -> str:
    what = (
        f"Three regions (Ray clusters) on one machine, {report.num_vectors:,} vectors of 384 "
        "dimensions in 2 shards, releases of an HNSW and an IVF index in turn. "
        "`python -m bench.regions.run`"
    )
    load = report.under_load
    moved = Times.of([loss.moved_ms for loss in report.losses])
    log_moved = Times.of([loss.log_moved_ms for loss in report.losses])
    times = table(
        ("", "times", "p50 ms", "p99 ms", "most ms", "aim"),
        [
            _row("commit: skew, first to last region", report.skew_ms, "p99 1,000 ms"),
            _row("commit: last region after the moment in the log", report.late_ms, ""),
            _row("commit: request to last region, preparing included", report.commit_ms, ""),
            _row("rollback: request to last region", report.rollback_ms, "2,000 ms"),
            _row("leader's coordinator killed to log moving", report.leader_killed_ms, "5,000 ms"),
            _row("leading region killed to log moving", log_moved, "5,000 ms"),
            _row("region killed to its user served elsewhere", moved, "5,000 ms"),
        ],
    )
    ratio = load.switching_p99_ms / load.quiet_p99_ms
    lost_queries = sum(loss.queries for loss in report.losses)
    lost = sum(loss.failed for loss in report.losses)
    loaded = table(
        ("", "p50 ms", "p99 ms", "failed"),
        [
            (
                "quiet",
                number(load.quiet_p50_ms),
                number(load.quiet_p99_ms),
                f"{load.quiet_failed} of {load.quiet_queries:,}",
            ),
            (
                f"{load.switches} commits and rollbacks",
                number(load.switching_p50_ms),
                f"{number(load.switching_p99_ms)}, {number(ratio)}x",
                f"{load.failed} of {load.queries:,}",
            ),
            (f"{len(report.losses)} regions killed, their users", "", "",
             f"{lost} of {lost_queries:,}"),
        ],
    )  # fmt: skip
    memory = table(
        ("region", "PSS at rest, MiB", "most while switching, MiB"),
        [
            (name, f"{mib:,.0f}", f"{report.peak_mib[name]:,.0f}")
            for name, mib in report.quiet_mib.items()
        ],
    )
    started = ", ".join(f"{what} {took:.0f} s" for what, took in report.start_s.items())
    return "\n\n".join(
        (
            heading("Three regions on one machine", report.environment, what, timed=False),
            times,
            f"Under a steady {load.queries_per_s:.0f} queries/s over all regions:",
            loaded,
            f"Memory of all processes of a region. From nothing to served: {started}.",
            memory,
        )
    )


def show(report: RegionsReport, *, write_docs: bool) -> None:
    tables = tables_of(report)
    print(tables)
    if not write_docs:
        return
    DOCS.write_text(with_tables(DOCS.read_text(), tables, BEGIN, END))
    print(f"\nwritten to docs/{DOCS.name}")


def _row(what: str, times: Times, aim: str) -> tuple[str, ...]:
    return (what, str(times.count), number(times.p50), number(times.p99), number(times.most), aim)
