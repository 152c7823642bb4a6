"""What folding the release log costs: the same for each entry, however long the log is."""

from __future__ import annotations

import sys
import tracemalloc
from types import FrameType
from typing import Any

import pytest

from cluster.releases.entries import LogEntry, LogState
from cluster.releases.fold import fold
from tests.support.fakes import Entries


def log_of(num_releases: int) -> list[LogEntry]:
    """Releases with all that can happen to one, a third of them committed and rolled back to."""
    make = Entries()
    log: list[LogEntry] = [make.elect("a", 1)]
    for number in range(1, num_releases + 1):
        log += [
            make.propose(number, auto_commit=False, targets=("a", "b", "c")),
            make.fence(number, "b"),
        ]
        if number % 3 == 1:
            log += [make.commit(number, switch_at_ms=number), make.rollback(number)]
        else:
            log += [make.canary(number, 5), make.abort(number)]
    return log


def folded(log: list[LogEntry]) -> LogState:
    state = LogState()
    for entry in log:
        state = fold(state, entry)
    assert state.num_void == 0
    return state


def steps_of(log: list[LogEntry]) -> int:
    """Lines and calls of Python that the fold takes."""
    steps = 0

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal steps
        steps += 1
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        folded(log)
    finally:
        sys.settrace(before)
    return steps


def memory_of(log: list[LogEntry]) -> int:
    """Bytes that the fold holds at most. Copies that are made below Python show here."""
    tracemalloc.start()
    try:
        folded(log)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cost", [steps_of, memory_of])
def test_four_times_the_entries_cost_four_times_as_much(cost: Any) -> None:
    short, long = log_of(100), log_of(400)
    cost(short)
    assert cost(long) / cost(short) == pytest.approx(len(long) / len(short), rel=0.1)
