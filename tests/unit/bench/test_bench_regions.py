"""What the benchmark of several regions makes of its replies. Nothing here is timed."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from bench.regions.report import RegionLoss, RegionsReport, Times, tables_of
from bench.regions.run import first_answers_ms, found_under_load
from bench.regions.world import RegionsWorld, other_contents
from bench.reports import environment_now
from cluster.clock import SYSTEM_CLOCK
from cluster.releases.entries import (
    Commit,
    Elect,
    LogEntry,
    LogState,
    Propose,
    Release,
    ReleaseContents,
    Rollback,
)
from cluster.releases.fold import fold
from deployments.demo.traffic import Reply, Traffic
from tests.support.fakes import contents

ONE = contents()
OTHER = contents().model_copy(update={"prompt": ONE.prompt.model_copy(update={"system": "Else."})})
COMMON: dict[str, Any] = {"epoch": 1, "at_ms": 0}


def log_of(*entries: LogEntry) -> LogState:
    state = fold(LogState(), Elect(leader="a", commit_id="elect", **COMMON))
    for entry in entries:
        state = fold(state, entry)
    return state


def committed(number: int, made_of: ReleaseContents) -> tuple[LogEntry, LogEntry]:
    release = Release(number=number, contents=made_of)
    return (
        Propose(release=release, targets=("a",), prepare_by_ms=9, commit_id=f"p{number}", **COMMON),
        Commit(release=number, switch_at_ms=number, commit_id=f"c{number}", **COMMON),
    )


def test_a_commit_brings_the_index_that_does_not_serve() -> None:
    both = (ONE, OTHER)
    assert other_contents(LogState(), both) == ONE
    two = (*committed(1, ONE), *committed(2, OTHER))
    assert other_contents(log_of(*two[:2]), both) == OTHER
    assert other_contents(log_of(*two), both) == ONE
    # After each rollback too, whatever number comes next.
    back = Rollback(release=1, switch_at_ms=3, commit_id="r", **COMMON)
    assert other_contents(log_of(*two, back), both) == OTHER


def test_every_query_gets_its_turn() -> None:
    asked = []
    queries = np.eye(3, dtype=np.float32)
    ask = RegionsWorld(drivers={}, queries=queries).asker(lambda _, body: asked.append(body) or {})
    for _ in range(4):
        ask()
    assert [body["vector"] for body in asked] == queries[[0, 1, 2, 0]].tolist()


def test_a_region_whose_first_answer_was_asked_for_too_early_is_waited_for() -> None:
    early, answered = threading.Event(), threading.Event()

    def hesitant() -> dict[str, Any]:
        early.set()
        answered.wait()
        return reply_by(2)

    def reply_by(release: int) -> dict[str, Any]:
        return {"release": release, "served_by": "a", "staleness_ms": 0.0, "hits": []}

    with Traffic({"a": lambda: reply_by(2), "b": hesitant}, pause_s=0.001) as traffic:
        early.wait()
        since_ms = float(SYSTEM_CLOCK.wall_ms()) + 1
        answered.set()
        traffic.wait_for_release(2)
        came = first_answers_ms(traffic, ("a", "b"), 2, since_ms)
    assert came.keys() == {"a", "b"}
    assert min(came.values()) >= since_ms


def reply(asked_ms: float, took_ms: float, error: str = "") -> Reply:
    return Reply(asked="a", asked_ms=asked_ms, took_ms=took_ms, error=error)


def test_the_queries_under_switches_are_counted_apart_from_the_quiet_ones() -> None:
    found = found_under_load(
        quiet=[reply(1, 5), reply(2, 7), reply(3, 6, "lost")],
        quiet_s=1.5,
        busy=[reply(10, 1), reply(20, 40), reply(30, 50, "lost"), reply(31, 30), reply(99, 2)],
        switching=[(15, 22), (29, 40)],
    )
    assert (found.switches, found.queries, found.failed) == (2, 5, 1)
    assert (found.quiet_queries, found.quiet_failed, found.queries_per_s) == (3, 1, 2.0)
    assert (found.quiet_p50_ms, found.switching_p50_ms) == (6, 40)

    times = Times.of([1.0, 2.0])
    report = RegionsReport(
        environment=environment_now(quick=True, repetitions=2),
        num_vectors=10,
        start_s={"all": 1.0},
        quiet_mib={"a": 1.0},
        peak_mib={"a": 2.0},
        skew_ms=times,
        late_ms=times,
        commit_ms=times,
        rollback_ms=times,
        under_load=found,
        leader_killed_ms=times,
        losses=(RegionLoss(moved_ms=1, log_moved_ms=1, queries=7, failed=2, back_s=1),),
    )
    page = tables_of(report)
    for row, cell in (
        ("quiet", "1 of 3"),
        ("2 commits and rollbacks", "1 of 5"),
        ("1 regions killed, their users", "2 of 7"),
    ):
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {row} |")]
        assert line.endswith(f"| {cell} |")


def test_times_of_one_thing() -> None:
    assert Times.of([3.0, 1.0, 2.0]) == Times(count=3, p50=2.0, p99=3.0, most=3.0)
    with pytest.raises(IndexError):
        Times.of([])
