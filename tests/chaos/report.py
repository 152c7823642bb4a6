"""What chaos found, as Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from bench.markdown import table
from tests.chaos.deaths import Death
from tests.chaos.overload import OverloadReport
from tests.chaos.steady_load import SLOW_S, Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One scenario, one kind of query."""

    scenario: str
    local_first: bool
    asked: str
    counts: Counts
    recovered_s: float
    failed_until_s: float
    """From the break to the last search that failed."""
    lost_s: float
    """For how long they may."""
    note: str
    problem: str
    """Why the region did not come back; empty when it did."""

    @property
    def failed_too_long(self) -> bool:
        return bool(self.counts.failed) and self.failed_until_s > self.lost_s


def as_markdown(rows: list[Row], deaths: list[Death], overload: OverloadReport | None) -> str:
    parts = ["# Chaos report"]
    for local_first in (False, True):
        turn = [row for row in rows if row.local_first is local_first]
        if turn:
            on = "on" if local_first else "off"
            parts.append(f"## `local_first` {on}\n\n{_table_of(turn)}\n\n{_notes_of(turn)}".strip())
    if deaths:
        parts.append(f"## The end of a region, watched\n\n{_table_of_deaths(deaths)}")
    if overload is not None:
        parts.append(f"## Overload\n\n{_overload(overload)}")
    return "\n\n".join(parts) + "\n"


def _table_of(rows: list[Row]) -> str:
    columns = (
        "what happened", "asked", "sent", "failed", "refused", "wrong",
        f"slow (> {SLOW_S:g} s)", "slowest, s", "whole again after, s",
    )  # fmt: skip
    return table(
        columns,
        (
            (
                row.scenario,
                row.asked,
                row.counts.sent,
                row.counts.failed,
                row.counts.refused,
                row.counts.wrong,
                row.counts.slow,
                f"{row.counts.slowest_s:.2f}",
                f"{row.recovered_s:.1f}",
            )
            for row in rows
        ),
    )


def _table_of_deaths(deaths: list[Death]) -> str:
    columns = ("killed", "searches fail after, s", "and are answered again after, s", "wrong")
    return table(
        columns,
        (
            (death.victim, f"{death.failed_s:.1f}", f"{death.back_s:.1f}", death.wrong)
            for death in deaths
        ),
    )


def _notes_of(rows: list[Row]) -> str:
    notes = {row.scenario: row.note for row in rows if row.note}
    notes |= {row.scenario: f"did not come back: {row.problem}" for row in rows if row.problem}
    failures = [
        f"- {row.scenario}, first failure of {row.asked}: `{row.counts.first_failure}`; the last "
        f"after {row.failed_until_s:.2f} s"
        for row in rows
        if row.counts.failed
    ]
    return "\n".join([*(f"- {name}: {note}" for name, note in notes.items()), *failures])


def _overload(found: OverloadReport) -> str:
    lines = [
        f"- capacity: {found.capacity_per_s:,.0f} searches/s at {found.clients} clients",
        f"- at {found.factor:g} times that, {found.offered_per_s:,.0f} requests/s, for "
        f"{found.duration_s:g} s: {found.goodput_per_s:,.0f} answers/s, "
        f"{found.goodput_share:.0%} of the capacity; {found.wrong} of {found.judged} that were "
        "judged are wrong",
        f"- answers: p50 {found.answered_p50_s * 1e3:.0f} ms, p99 {found.answered_p99_s * 1e3:.0f} "
        "ms from the moment at which they were due",
        f"- {found.refused:,} refusals, {found.refused_without_hint} without Retry-After: p50 "
        f"{found.refused_p50_s * 1e3:.1f} ms, p99 {found.refused_p99_s * 1e3:.1f} ms",
        f"- {found.broken} broken or otherwise failed, {found.unsent} for which the client had no "
        "connection left",
        f"- as quick as before {found.recovered_s:.2f} s after the load",
        f"- {found.left} clients that went away: nothing in flight after {found.left_s:.2f} s",
    ]
    return "\n".join(lines)
