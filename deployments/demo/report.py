"""The findings of the demo of several regions, as tables or as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from deployments.demo.live_note import LiveNote, live_note_table
from deployments.installation import Installation
from deployments.terminal import Steps, out, print_json, table


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedSwitch:
    """A switch between releases while every region was asked."""

    what: str
    at_ms: int
    """The moment that the release log names."""
    first_reply_ms: Mapping[str, float]
    """Time of the first reply by the release, for each region."""
    queries: int
    failed: int

    @property
    def skew_ms(self) -> float:
        """Time from the first region's switch to the last one's."""
        return max(self.first_reply_ms.values()) - min(self.first_reply_ms.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A region without the store while the others switched."""

    region: str
    release_meanwhile: int
    release_of_others: int
    staleness_ms: Mapping[str, Sequence[float]]
    """Staleness in the answers of each region, one a second."""
    bounded_served_by: str
    """Region that answered when the region was asked for at most 2 s of staleness."""
    caught_up_s: float
    queries: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """A region whose processes were all killed while a user beside it asked."""

    region: str
    processes: int
    served_by: str
    """Region that served the lost region's users afterwards."""
    moved_s: float
    """Time from the kill to the first answer from there."""
    queries: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    question: str
    hits: Mapping[str, dict[str, Any]]
    """Reply to `/v1/search` in each region."""
    same_hits: bool
    note: LiveNote
    switches: Sequence[ObservedSwitch]
    cut: Cut
    killed: Killed
    answer: dict[str, Any] | None
    """Answer of a region that runs no language model. None: every region runs one."""


def report(
    findings: Findings,
    steps: Steps,
    installations: Sequence[Installation],
    took_s: float,
    *,
    as_json: bool,
) -> None:
    urls = {installation.region: installation.url for installation in installations}
    if as_json:
        print_json(
            {
                "regions": urls,
                "hits": {name: found["hits"] for name, found in findings.hits.items()},
                "same_hits": findings.same_hits,
                "note": findings.note,
                "switches": [
                    {**_fields(switch), "skew_ms": switch.skew_ms} for switch in findings.switches
                ],
                "cut": findings.cut,
                "killed": findings.killed,
                "answer": findings.answer,
                "seconds": {**steps.seconds, "all": took_s},
            }
        )
        return
    _show_hits(findings)
    out.print(live_note_table(findings.note))
    out.print(_switches(findings.switches, list(urls)))
    out.print(_cut(findings.cut))
    _show_killed(findings.killed)
    if findings.answer is not None:
        _show_answer(findings.answer)
    rows = [(s, f"{took:.1f}", steps.notes.get(s, "")) for s, took in steps.seconds.items()]
    out.print(table("Times", ("step", "seconds", ""), [*rows, ("all", f"{took_s:.1f}", "")]))


def _show_hits(findings: Findings) -> None:
    out.print(f"\nQ {findings.question}", style="bold", markup=False, soft_wrap=True)
    rows = [
        (name, found["release"], f"{hit['score']:.6f}", hit["id"])
        for name, found in findings.hits.items()
        for hit in found["hits"]
    ]
    same = "the same in every region" if findings.same_hits else "THEY DIFFER"
    out.print(table(f"Hits: {same}", ("region", "release", "score", "id"), rows))


def _switches(switches: Sequence[ObservedSwitch], regions: Sequence[str]) -> Any:
    rows = [
        (
            switch.what,
            _moment(switch.at_ms),
            *(_after(switch, name) for name in regions),
            f"{switch.skew_ms:.0f}",
            f"{switch.failed} of {switch.queries}",
        )
        for switch in switches
    ]
    columns = ("switch to", "at (UTC)", *regions, "skew ms", "failed")
    return table("First answer after the moment of the switch, ms", columns, rows)


def _after(switch: ObservedSwitch, region: str) -> str:
    at_ms = switch.first_reply_ms.get(region)
    return "never" if at_ms is None else f"+{at_ms - switch.at_ms:.0f}"


def _cut(cut: Cut) -> Any:
    seconds = range(0, len(cut.staleness_ms[cut.region]), 2)
    rows = [
        (name, *(f"{known[second] / 1000:.1f}" for second in seconds))
        for name, known in cut.staleness_ms.items()
    ]
    title = (
        f"{cut.region} without the store: release {cut.release_meanwhile}, the others "
        f"{cut.release_of_others}; staleness in s\n"
        f"asked for at most 2 s, {cut.bounded_served_by} answers; let back in, it caught up in "
        f"{cut.caught_up_s:.1f} s; {cut.failed} of {cut.queries} queries failed"
    )
    return table(title, ("region", *(f"after {second} s" for second in seconds)), rows)


def _show_killed(killed: Killed) -> None:
    out.print(
        f"{killed.region} killed ({killed.processes} processes): its users are served by "
        f"{killed.served_by} after {killed.moved_s:.1f} s; {killed.failed} of {killed.queries} "
        "queries failed",
        soft_wrap=True,
    )


def _show_answer(answer: dict[str, Any]) -> None:
    out.print(f"\nA {answer['answer']}", markup=False, soft_wrap=True)
    remark = f"retrieved in {answer['served_by']}, where no language model runs"
    out.print(f"  {remark}", style="dim", markup=False, soft_wrap=True)


def _moment(at_ms: float) -> str:
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC).strftime("%H:%M:%S")


def _fields(switch: ObservedSwitch) -> dict[str, object]:
    return {
        "to": switch.what,
        "at_ms": switch.at_ms,
        "first_reply_ms": dict(switch.first_reply_ms),
        "queries": switch.queries,
        "failed": switch.failed,
    }
