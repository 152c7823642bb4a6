"""Which releases a region keeps while it cannot load those that the log wants."""

from __future__ import annotations

import functools

from cluster.release_fold import fold
from cluster.releases import LogEntry, LogState
from cluster.residents import Residents
from cluster.rollout_events import Prepare, Prepared, PrepareFailed, Retire
from tests.fakes import Entries


def folded(*log: LogEntry) -> LogState:
    return functools.reduce(fold, log, LogState())


def test_what_gateways_may_still_serve_outlasts_a_restart() -> None:
    """The coordinator that came back has not loaded again what its predecessor had told of."""
    make = Entries()
    log: list[LogEntry] = [make.elect("a", 1)]
    for number in (1, 2, 3, 4):
        log += [make.propose(number), make.commit(number)]
    residents = Residents(region="a", retry_s=5.0, retry_max_s=20.0)
    residents.reconcile(folded(*log[:5]), now_ms=1)
    # 1 is not wanted any more, but nothing newer is there.
    newest = residents.reconcile(folded(*log), now_ms=1)
    assert [type(instruction) for instruction in newest] == [Prepare, Prepare]
    residents.settle(PrepareFailed(release=4, reason="no disk", retryable=False), now_ms=1)
    assert residents.settle(Prepared(release=1), now_ms=1) == []
    assert residents.reconcile(folded(*log), now_ms=1) == [Retire(release=2)]
    residents.settle(Prepared(release=3), now_ms=1)
    assert residents.reconcile(folded(*log), now_ms=1) == [Retire(release=1)]


def test_what_still_serves_stays_until_something_newer_is_loaded() -> None:
    make = Entries()
    log: list[LogEntry] = [make.elect("a", 1)]
    for number in (1, 2, 3):
        log += [make.propose(number), make.commit(number)]
    residents = Residents(region="a", retry_s=5.0, retry_max_s=20.0)
    residents.reconcile(folded(*log[:5]), now_ms=1)
    residents.settle(Prepared(release=2), now_ms=1)

    rolled_back = folded(*log, make.rollback(1))
    assert Retire(release=2) not in residents.reconcile(rolled_back, now_ms=1)
    assert residents.prepared() == {2}

    residents.settle(Prepared(release=1), now_ms=1)
    assert Retire(release=2) in residents.reconcile(rolled_back, now_ms=1)
