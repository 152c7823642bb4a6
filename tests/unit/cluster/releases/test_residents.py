"""Which releases a region keeps while it cannot load those that the log wants."""

from __future__ import annotations

import functools

from cluster.releases.entries import LogEntry, LogState
from cluster.releases.events import Prepare, Prepared, PrepareFailed, Retire
from cluster.releases.fold import fold
from cluster.releases.residents import Residents
from tests.support.fakes import Entries


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


def two_committed(*, switch_at_ms: int = 0) -> list[LogEntry]:
    make = Entries()
    first = [make.elect("a", 1), make.propose(1), make.commit(1)]
    return [*first, make.propose(2), make.commit(2, switch_at_ms=switch_at_ms)]


def test_after_a_restart_the_current_release_is_loaded_first() -> None:
    residents = Residents(region="a", retry_s=5.0, retry_max_s=20.0)
    wanted = residents.reconcile(folded(*two_committed()), now_ms=1)
    assert [w.release.number for w in wanted if isinstance(w, Prepare)] == [2, 1]


def test_an_attempt_that_is_under_way_is_not_begun_twice() -> None:
    state = folded(*two_committed())
    residents = Residents(region="a", retry_s=5.0, retry_max_s=20.0)
    residents.reconcile(state, now_ms=0)
    residents.settle(Prepared(release=1), now_ms=0)
    residents.settle(PrepareFailed(release=2, reason="no disk", retryable=True), now_ms=0)
    assert [type(x) for x in residents.reconcile(state, now_ms=5_000)] == [Prepare]
    assert residents.reconcile(state, now_ms=1_000_000) == []


def test_what_is_committed_is_tried_again_however_often_it_has_failed() -> None:
    state = folded(*two_committed())
    residents = Residents(region="a", retry_s=5.0, retry_max_s=20.0)
    for attempt in range(1_100):
        wanted = residents.reconcile(state, now_ms=20_000 * attempt)
        assert [type(x) for x in wanted] == [Prepare, Prepare]
        for number in (1, 2):
            failed = PrepareFailed(release=number, reason="no disk", retryable=True)
            residents.settle(failed, now_ms=20_000 * attempt)


def test_a_release_may_serve_from_its_very_moment_on() -> None:
    """Of what came before, the newest that is loaded is kept until then, and no longer."""
    log = two_committed(switch_at_ms=100)
    make = Entries()
    log += [make.propose(3), make.commit(3, switch_at_ms=100)]
    residents = Residents(region="a", retry_s=5.0, retry_max_s=20.0)
    residents.reconcile(folded(*log[:3]), now_ms=0)
    residents.settle(Prepared(release=1), now_ms=0)
    residents.reconcile(folded(*log), now_ms=99)
    for number in (2, 3):
        residents.settle(Prepared(release=number), now_ms=99)
    assert Retire(release=1) not in residents.reconcile(folded(*log), now_ms=99)
    assert Retire(release=1) in residents.reconcile(folded(*log), now_ms=100)


def test_what_is_loaded_ahead_of_its_moment_replaces_nothing_yet() -> None:
    make = Entries()
    log: list[LogEntry] = [make.elect("a", 1)]
    for number, switch_at_ms in ((1, 0), (2, 0), (3, 0), (4, 100)):
        log += [make.propose(number), make.commit(number, switch_at_ms=switch_at_ms)]
    residents = Residents(region="a", retry_s=5.0, retry_max_s=20.0)
    residents.reconcile(folded(*log[:3]), now_ms=0)
    residents.settle(Prepared(release=1), now_ms=0)
    residents.reconcile(folded(*log), now_ms=99)
    residents.settle(Prepared(release=4), now_ms=99)
    assert Retire(release=1) not in residents.reconcile(folded(*log), now_ms=99)
    assert Retire(release=1) in residents.reconcile(folded(*log), now_ms=100)
