"""What a region does with a demand, from a table; and that the promises hold, from random logs that
regions with differing clocks have read in part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.consistency import (
    Decision,
    Elsewhere,
    Known,
    Reading,
    Refresh,
    Serve,
    Wait,
    decide,
)
from cluster.demand import Consistency, Demand
from cluster.errors import InvalidArgument, NotFound, NotYet, RaygionError, Unavailable
from cluster.prompt import PromptTemplate
from cluster.region_view import Freshness, Pulse, RegionView, ReleaseView
from cluster.releases import CanaryShare, Switch
from cluster.session import SessionToken

STORE, NOW, SKEW = "store", 1000, 100
NO, DONE, FAILED = Reading.NOT_ASKED, Reading.DONE, Reading.FAILED


def release(number: int) -> ReleaseView:
    return ReleaseView(
        number=number, corpora={}, embedders=(), generator=None, prompt=PromptTemplate()
    )


def known(
    *switches: tuple[int, int, int],
    resident: tuple[int, ...] = (1, 2),
    read_ms: int = 900,
    position: int | None = None,
    last_release: int = 2,
) -> Known:
    """Switches are (position, release, moment)."""
    tail = tuple(Switch(release=r, at_ms=at, position=p) for p, r, at in switches)
    reached = position if position is not None else (tail[-1].position if tail else 0)
    return Known(
        RegionView(region="a", releases={n: release(n) for n in resident}, switches=tail),
        Pulse(
            freshness=Freshness(read_ms=read_ms, position=reached),
            switches=tail,
            store_id=STORE,
            last_release=last_release,
            aborted={7: "bad recall"},
        ),
    )


def demand(
    level: str, *, floor: int | None = None, within_ms: int | None = None, store: str = STORE
) -> Demand:
    token = None if floor is None else SessionToken(store, floor)
    return Demand(level=Consistency(level), session=token, max_staleness_ms=within_ms)


def decided(
    asked: Demand,
    what: Known,
    reading: Reading = NO,
    *,
    now_ms: int = NOW,
    named: int | None = None,
) -> Decision:
    return decide(
        asked, release=named, known=what, reading=reading, now_ms=now_ms, skew_max_ms=SKEW
    )


TWICE = known((3, 1, 0), (6, 2, 500))
"""Release 1, and since 500 release 2; read at 900, so staleness is 100 and the skew."""
LAGS = known((3, 1, 0), (6, 2, 500), resident=(1,))
AHEAD = known((3, 1, 0), (6, 2, 1050))
FAR_AHEAD = known((3, 1, 0), (6, 2, 1101))
BACK = known((3, 1, 0), (6, 2, 500), (8, 1, 700))
NOTHING = known(resident=())


@pytest.mark.parametrize(
    ("asked", "what", "reading", "then"),
    [
        (demand("eventual"), TWICE, NO, Serve(release=2, position=6, staleness_ms=200)),
        (demand("eventual"), BACK, NO, Serve(release=1, position=8, staleness_ms=200)),
        # Since 500 release 1 was not current any more, however late the log was read.
        (demand("eventual"), LAGS, NO, Serve(release=1, position=3, staleness_ms=600)),
        (demand("eventual"), AHEAD, NO, Serve(release=1, position=3, staleness_ms=200)),
        (demand("eventual"), NOTHING, NO, Unavailable),
        (demand("session", floor=6), TWICE, NO, Serve(release=2, position=6, staleness_ms=200)),
        (demand("session", floor=3), TWICE, NO, Serve(release=2, position=6, staleness_ms=200)),
        (demand("session", floor=3), LAGS, NO, Serve(release=1, position=3, staleness_ms=600)),
        # The token proves that the moment has come somewhere.
        (demand("session", floor=6), AHEAD, NO, Serve(release=2, position=6, staleness_ms=200)),
        (demand("session", floor=6), BACK, NO, Serve(release=1, position=8, staleness_ms=200)),
        (demand("session", floor=6), LAGS, NO, Refresh()),
        (demand("session", floor=6), LAGS, DONE, NotYet),
        (demand("session", floor=6), LAGS, FAILED, Unavailable),
        (demand("session", floor=9), TWICE, NO, Refresh()),
        (demand("session", floor=9), TWICE, DONE, InvalidArgument),
        (demand("session", floor=9), TWICE, FAILED, Unavailable),
        # Within the log, but no switch: nobody was ever given that.
        (demand("session", floor=9), known((3, 1, 0), position=12), DONE, InvalidArgument),
        (demand("session", floor=3, store="other"), TWICE, NO, InvalidArgument),
        (demand("bounded", within_ms=200), TWICE, NO, Serve),
        (demand("bounded", within_ms=199), TWICE, NO, Refresh()),
        (demand("bounded", within_ms=199), TWICE, FAILED, Unavailable),
        (demand("bounded", within_ms=599), LAGS, DONE, NotYet),
        (demand("bounded", within_ms=100), TWICE, NO, InvalidArgument),
        (demand("bounded", within_ms=900, floor=6), LAGS, NO, Refresh()),
        (demand("quorum"), TWICE, NO, Serve(release=2, position=6, staleness_ms=200, exactly=True)),
        (demand("quorum", floor=6), LAGS, NO, Refresh()),
        (demand("strong"), TWICE, NO, Refresh()),
        (demand("strong"), TWICE, FAILED, Unavailable),
        (
            demand("strong"),
            TWICE,
            DONE,
            Serve(release=2, position=6, staleness_ms=200, exactly=True),
        ),
        (demand("strong"), LAGS, DONE, NotYet),
        (demand("strong"), AHEAD, DONE, Wait(1050)),
        (demand("strong"), FAR_AHEAD, DONE, Serve),
        (demand("strong"), known((3, 1, 1100)), DONE, Wait(1100)),
        (demand("strong"), NOTHING, DONE, Unavailable),
        (demand("strong", floor=6), AHEAD, DONE, Serve),
        (demand("strong", floor=9), TWICE, DONE, InvalidArgument),
    ],
)
def test_decisions(
    asked: Demand, what: Known, reading: Reading, then: Decision | type[object]
) -> None:
    if then is InvalidArgument:
        with pytest.raises(InvalidArgument) as raised:
            decided(asked, what, reading)
        assert raised.value.field in ("session", "max_staleness_ms")
        return
    found = decided(asked, what, reading)
    if isinstance(then, type) and issubclass(then, RaygionError):
        assert isinstance(found, Elsewhere)
        found = found.error  # type: ignore[assignment]
    assert isinstance(found, then) if isinstance(then, type) else found == then


@pytest.mark.parametrize(
    ("number", "what", "reading", "then"),
    [
        (2, TWICE, NO, Serve(release=2, position=6, staleness_ms=200, exactly=True)),
        (1, TWICE, NO, Serve(release=1, position=6, staleness_ms=600, exactly=True)),
        # Its moment has not come: nothing is newer.
        (2, AHEAD, NO, Serve(release=2, position=3, staleness_ms=200, exactly=True)),
        (2, LAGS, NO, NotYet),
        (3, TWICE, NO, Refresh()),
        (3, TWICE, FAILED, Unavailable),
        (1, known((3, 1, 0), (6, 2, 500), resident=(2,)), NO, NotFound),
    ],
)
def test_named_releases(
    number: int, what: Known, reading: Reading, then: Decision | type[RaygionError]
) -> None:
    found = decided(demand("eventual"), what, reading, named=number)
    if isinstance(then, type):
        assert isinstance(found, Elsewhere)
        assert isinstance(found.error, then)
    else:
        assert found == then


@pytest.mark.parametrize(
    ("number", "what", "floor", "position"),
    [
        (1, TWICE, 3, 6),
        # What the session has seen has not come by the clock here, or has not been read.
        (2, AHEAD, 6, 6),
        (1, AHEAD, 6, 6),
        (1, TWICE, 9, 9),
    ],
)
def test_a_named_release_leaves_a_session_where_it_is(
    number: int, what: Known, floor: int, position: int
) -> None:
    found = decided(demand("eventual", floor=floor), what, named=number)
    assert isinstance(found, Serve)
    assert (found.release, found.position) == (number, position)
    pinned = what.pin(number, NOW, not_before=found.position, skew_max_ms=SKEW)
    assert SessionToken.decode(pinned.session) == SessionToken(STORE, position)
    with pytest.raises(InvalidArgument, match="another store"):
        decided(demand("eventual", floor=floor, store="other"), what, named=number)


@pytest.mark.parametrize(
    ("number", "says"),
    [(3, "no release 3; the last one is 2"), (0, "no release 0"), (7, "aborted: bad recall")],
)
def test_a_release_that_is_none(number: int, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        decided(demand("eventual"), TWICE, DONE, named=number)


def test_switches_count_with_the_reading_that_found_them() -> None:
    before = known((3, 1, 0), read_ms=500)
    told = Pulse(
        freshness=Freshness(read_ms=900, position=6), switches=TWICE.view.switches, store_id=STORE
    )
    after = before.with_pulse(told)
    assert decided(demand("eventual"), after) == decided(demand("eventual"), TWICE)
    # The view that comes after it was made before it.
    assert after.with_view(before.view).view.switches == TWICE.view.switches


def test_a_coordinator_that_has_just_begun_takes_nothing_away() -> None:
    begun = TWICE.with_view(RegionView(region="a"))
    assert decided(demand("eventual"), begun) == decided(demand("eventual"), TWICE)
    loaded = begun.with_view(replace(TWICE.view, releases={2: release(2)}))
    assert loaded.view.releases.keys() == {2}


def test_pulses_that_come_late_or_know_nothing_change_nothing() -> None:
    late = Pulse(freshness=Freshness(read_ms=800, position=6), store_id=STORE)
    assert TWICE.with_pulse(late).freshness == TWICE.freshness
    assert TWICE.with_pulse(Pulse()).freshness == TWICE.freshness
    assert TWICE.with_pulse(Pulse()).pulse.store_id == STORE


def test_a_clock_that_was_set_back_does_not_stop_the_time() -> None:
    ahead = known((3, 1, 0), read_ms=1_000_000)
    told = replace(ahead.pulse, freshness=Freshness(read_ms=900, position=3))
    assert ahead.with_pulse(told).freshness.read_ms == 900


# Random histories. True time runs from 0; the clocks are ahead of it by 0 to SKEW.

HORIZON = 600


@dataclass(frozen=True)
class Entry:
    switch: Switch
    landed: int


@dataclass(frozen=True)
class Clocked:
    """A region at a true time: what it has read, what its clock says, what it holds."""

    at: int
    read_at: int
    ahead: int
    resident: frozenset[int]

    @property
    def now_ms(self) -> int:
        return NOW + self.at + self.ahead

    def known(self, log: list[Entry]) -> Known:
        read = [entry.switch for entry in log if entry.landed <= self.read_at]
        return known(
            *((s.position, s.release, s.at_ms) for s in read),
            resident=tuple(self.resident),
            read_ms=NOW + self.read_at + self.ahead,
            position=read[-1].position if read else 1,
        )

    def decide(self, asked: Demand, log: list[Entry], reading: Reading) -> Decision:
        try:
            return decided(asked, self.known(log), reading, now_ms=self.now_ms)
        except InvalidArgument as error:
            return Elsewhere(error)


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """Landed one after the other, some after their own moment."""
    landed = sorted(draw(st.lists(st.integers(0, HORIZON), min_size=1, max_size=6)))
    return [
        Entry(
            Switch(
                release=draw(st.integers(1, 3)),
                at_ms=NOW + moment + draw(st.integers(-150, 300)),
                position=2 * number,
            ),
            moment,
        )
        for number, moment in enumerate(landed, 1)
    ]


@st.composite
def regions(draw: st.DrawFn, *, after: int = 0) -> Clocked:
    at = draw(st.integers(after, HORIZON + 300))
    return Clocked(
        at=at,
        read_at=draw(st.integers(0, at)),
        ahead=draw(st.integers(0, SKEW)),
        resident=draw(st.sampled_from([frozenset({1, 2, 3}), frozenset({1, 2}), frozenset({1})])),
    )


def true_staleness(log: list[Entry], position: int, at: int, reference_ahead: int) -> int:
    """Since when a later switch has been in the log and due, by the reference's clock."""
    ended = [
        max(entry.landed, entry.switch.at_ms - NOW - reference_ahead)
        for entry in log
        if entry.switch.position > position
    ]
    return max(0, at - min(ended, default=at))


@given(logs(), regions(), st.integers(0, SKEW))
@settings(max_examples=200, deadline=None)
def test_staleness_is_never_smaller_than_the_true_one(
    log: list[Entry], region: Clocked, reference_ahead: int
) -> None:
    served = region.decide(demand("eventual"), log, NO)
    if isinstance(served, Serve):
        true_ms = true_staleness(log, served.position, region.at, reference_ahead)
        assert served.staleness_ms >= true_ms


@given(logs(), st.lists(regions(), min_size=2, max_size=6))
@settings(max_examples=200, deadline=None)
def test_a_session_never_goes_back(log: list[Entry], visited: list[Clocked]) -> None:
    floor = 0
    for region in sorted(visited, key=lambda region: region.at):
        asked = demand("session", floor=floor) if floor else demand("eventual")
        served = region.decide(asked, log, NO)
        if isinstance(served, Serve):
            assert served.position >= floor
            floor = served.position
        elif floor:
            # It has been seen, so it is in the log: a region that reads it never denies it.
            again = replace(region, read_at=region.at).decide(asked, log, DONE)
            refused = isinstance(again, Elsewhere) and isinstance(again.error, InvalidArgument)
            assert not refused


@given(logs(), regions(), st.integers(1, 12), st.sampled_from([None, 1, 2]))
@settings(max_examples=200, deadline=None)
def test_no_token_is_older_than_the_one_that_came_with_the_request(
    log: list[Entry], region: Clocked, floor: int, named: int | None
) -> None:
    level = "quorum" if named is None else "eventual"
    what = region.known(log)
    try:
        served = decided(demand(level, floor=floor), what, now_ms=region.now_ms, named=named)
    except InvalidArgument:
        return
    if isinstance(served, Serve):
        pinned = what.pin(
            served.release, region.now_ms, not_before=served.position, skew_max_ms=SKEW
        )
        assert SessionToken.decode(pinned.session).position >= floor


@given(logs(), regions(), regions(), st.integers(1, 300), st.integers(0, 80))
@settings(max_examples=200, deadline=None)
def test_a_strong_answer_is_never_older_than_one_before_it(
    log: list[Entry], first: Clocked, second: Clocked, later: int, read_took: int
) -> None:
    seen = first.decide(demand("eventual"), log, NO)
    if not isinstance(seen, Serve):
        return
    asked_at = first.at + later
    second = replace(second, at=asked_at + read_took, read_at=asked_at)
    for _ in range(len(log) + 1):
        found = second.decide(demand("strong"), log, DONE)
        if not isinstance(found, Wait):
            break
        assert second.now_ms < found.until_ms <= second.now_ms + SKEW
        second = replace(second, at=second.at + found.until_ms - second.now_ms)
    assert not isinstance(found, Wait | Refresh)
    if isinstance(found, Serve):
        assert found.position >= seen.position


@given(logs(), regions(), regions(), st.integers(1, 200))
@settings(max_examples=200, deadline=None)
def test_what_a_strong_answer_shows_every_later_one_shows(
    log: list[Entry], first: Clocked, second: Clocked, later: int
) -> None:
    seen = replace(first, read_at=first.at).decide(demand("strong"), log, DONE)
    second = replace(second, at=first.at + later, read_at=first.at + later)
    found = second.decide(demand("strong"), log, DONE)
    if isinstance(seen, Serve) and isinstance(found, Serve):
        assert found.position >= seen.position


@given(logs(), regions(), st.integers(SKEW + 1, 500), st.integers(0, SKEW))
@settings(max_examples=200, deadline=None)
def test_a_bound_is_kept(
    log: list[Entry], region: Clocked, within_ms: int, reference_ahead: int
) -> None:
    served = region.decide(demand("bounded", within_ms=within_ms), log, NO)
    if isinstance(served, Serve):
        true_ms = true_staleness(log, served.position, region.at, reference_ahead)
        assert true_ms <= served.staleness_ms <= within_ms


def test_no_canary_comes_before_what_the_session_has_seen() -> None:
    view = replace(known((3, 1, 0)).view, canary=CanaryShare(release=2, percent=99, at_ms=0))
    assert view.place(None, NOW, lot=0.0).release.number == 2
    with pytest.raises(NotYet):
        view.place(None, NOW, lot=0.0, not_before=5)
