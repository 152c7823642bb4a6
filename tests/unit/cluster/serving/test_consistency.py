"""What a region does with a demand, from a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.errors import InvalidArgument, NotFound, NotYet, RaygionError, Unavailable
from cluster.query.read_consistency import ReadConsistency
from cluster.query.session import SessionToken
from cluster.releases.entries import CanaryShare
from cluster.releases.events import RegionStatus
from cluster.releases.release_log import Freshness
from cluster.serving.consistency import RegionKnowledge
from cluster.serving.decisions import Decision, Elsewhere, Reading, Refresh, Serve, Wait
from cluster.serving.view import Pulse, RegionView
from tests.support.worlds.known_releases import (
    DONE,
    FAILED,
    NO,
    NOW,
    SKEW,
    STORE,
    decided,
    demand,
    known,
    release,
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
        # Read before the switch that ended it: by the reading alone it may be as old.
        (
            demand("eventual"),
            known((3, 1, 0), (6, 2, 950), resident=(1,)),
            NO,
            Serve(release=1, position=3, staleness_ms=200),
        ),
        # The clock has been set back since the reading.
        (
            demand("eventual"),
            known((3, 1, 0), read_ms=NOW + 50),
            NO,
            Serve(release=1, position=3, staleness_ms=SKEW),
        ),
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
        (demand("session", floor=9), known(position=12), DONE, InvalidArgument),
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
        (demand("strong"), known((3, 1, 0), (6, 2, 1050), (8, 1, 1080)), DONE, Wait(1050)),
        (demand("strong"), NOTHING, DONE, Unavailable),
        (demand("strong", floor=6), AHEAD, DONE, Serve),
        (demand("strong", floor=9), TWICE, DONE, InvalidArgument),
    ],
)
def test_decisions(
    asked: ReadConsistency, what: RegionKnowledge, reading: Reading, then: Decision | type[object]
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
    number: int, what: RegionKnowledge, reading: Reading, then: Decision | type[RaygionError]
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
    number: int, what: RegionKnowledge, floor: int, position: int
) -> None:
    found = decided(demand("eventual", floor=floor), what, named=number)
    assert isinstance(found, Serve)
    assert (found.release, found.position) == (number, position)
    pinned = what.pin(number, NOW, not_before=found.position)
    assert SessionToken.decode(pinned.session) == SessionToken(STORE, position)
    with pytest.raises(InvalidArgument, match="another store"):
        decided(demand("eventual", floor=floor, store="other"), what, named=number)


@pytest.mark.parametrize(
    ("number", "says"),
    [(3, "no release 3; the last one is 2"), (0, "no release 0"), (7, "aborted: bad recall")],
)
def test_a_release_that_is_none(number: int, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as refused:
        decided(demand("eventual"), TWICE, DONE, named=number)
    assert refused.value.field == "release"


def test_switches_count_with_the_reading_that_found_them() -> None:
    before = known((3, 1, 0), read_ms=500)
    told = Pulse(
        freshness=Freshness(read_ms=900, position=6), switches=TWICE.view.switches, store_id=STORE
    )
    after = before.with_pulse(told)
    assert decided(demand("eventual"), after) == decided(demand("eventual"), TWICE)
    # The view that comes after it was made before it.
    assert after.with_view(before.view).view.switches == TWICE.view.switches


@pytest.mark.parametrize("told", [(), ((3, 1, 0),), ((3, 1, 0), (6, 2, 500)), ((6, 2, 500),)])
def test_a_pulse_takes_no_switch_away(told: tuple[tuple[int, int, int], ...]) -> None:
    """Views and pulses come by different ways: the one that reaches further in the log counts."""
    behind = replace(known(*told).pulse, freshness=Freshness(read_ms=950, position=6))
    heard = TWICE.with_pulse(behind)
    assert heard.view.switches == TWICE.view.switches
    assert heard.freshness.read_ms == 950
    ahead = known((3, 1, 0), (6, 2, 500), (8, 1, 700), read_ms=950)
    assert TWICE.with_pulse(ahead.pulse).view.switches == ahead.view.switches


def test_a_pulse_tells_of_the_regions_whatever_it_knows_of_the_log() -> None:
    regions = {"b": RegionStatus(region="b", position=6, prepared=(2,), current=2, at_ms=900)}
    for told in (Pulse(regions=regions), replace(TWICE.pulse, regions=regions)):
        heard = TWICE.with_pulse(told)
        assert heard.pulse == replace(TWICE.pulse, regions=regions)
        assert heard.with_pulse(Pulse()).pulse.regions == regions


def test_a_pulse_that_has_read_further_counts_though_its_clock_is_behind() -> None:
    further = known((3, 1, 0), (6, 2, 500), (8, 1, 700), read_ms=850)
    assert TWICE.with_pulse(further.pulse).freshness == further.freshness


def test_a_reply_has_no_token_before_there_is_anything_to_name() -> None:
    view = replace(NOTHING.view, releases={2: release(2)})
    tried = replace(view, canary=CanaryShare(release=2, percent=50, at_ms=0))
    for what in (
        RegionKnowledge(tried, NOTHING.pulse, skew_max_ms=SKEW),
        RegionKnowledge(tried, replace(TWICE.pulse, switches=()), skew_max_ms=SKEW),
    ):
        assert what.pin(None, NOW, lot=0.0).session == ""
    nameless = RegionKnowledge(TWICE.view, replace(TWICE.pulse, store_id=""), skew_max_ms=SKEW)
    assert nameless.pin(None, NOW).session == ""


def test_a_session_cannot_be_kept_before_the_store_is_known() -> None:
    nameless = RegionKnowledge(TWICE.view, replace(TWICE.pulse, store_id=""), skew_max_ms=SKEW)
    found = decided(demand("session", floor=3), nameless)
    assert isinstance(found, Elsewhere)
    assert isinstance(found.error, Unavailable)
    assert isinstance(decided(demand("eventual"), nameless), Serve)


def test_a_canary_serves_its_share_of_users_and_of_lots() -> None:
    view = replace(known((3, 1, 0)).view, canary=CanaryShare(release=2, percent=50, at_ms=0))
    tried = RegionKnowledge(view, TWICE.pulse, skew_max_ms=SKEW)
    users = {tried.pin(None, NOW, user=str(n)).release.number for n in range(50)}
    assert users == {1, 2}
    lots = [tried.pin(None, NOW, lot=lot).release.number for lot in (0.4, 0.6)]
    assert lots == [2, 1]
    assert tried.pin(None, NOW).release.number == 1


def test_a_coordinator_that_has_just_begun_takes_nothing_away() -> None:
    # Before it has read the log, and when it has loaded only what is not committed.
    for view in (RegionView(region="a"), replace(TWICE.view, releases={3: release(3)})):
        begun = TWICE.with_view(view)
        assert decided(demand("eventual"), begun) == decided(demand("eventual"), TWICE)
        assert begun.view.releases.keys() == {1, 2, *view.releases}
    loaded = begun.with_view(replace(TWICE.view, releases={2: release(2)}))
    assert loaded.view.releases.keys() == {2}


def test_pulses_that_come_late_or_know_nothing_change_nothing() -> None:
    for read_ms in (800, 899):
        late = Pulse(freshness=Freshness(read_ms=read_ms, position=6), store_id=STORE)
        assert TWICE.with_pulse(late).freshness == TWICE.freshness
    for what in (TWICE, known((3, 1, 0), read_ms=1_000_000)):
        assert what.with_pulse(Pulse()).freshness == what.freshness
        assert what.with_pulse(Pulse()).pulse.store_id == STORE


@pytest.mark.parametrize(("behind_ms", "counts"), [(10_000, False), (10_001, True)])
def test_a_clock_that_was_set_back_does_not_stop_the_time(behind_ms: int, counts: bool) -> None:
    ahead = known((3, 1, 0), read_ms=1_000_000)
    told = replace(ahead.pulse, freshness=Freshness(read_ms=1_000_000 - behind_ms, position=3))
    heard = ahead.with_pulse(told)
    assert heard.freshness == (told.freshness if counts else ahead.freshness)


@pytest.mark.parametrize("seen", [0, 3, 6])
def test_the_token_of_a_reply_names_what_is_in_force(seen: int) -> None:
    pinned = TWICE.pin(None, NOW, not_before=seen)
    assert SessionToken.decode(pinned.session) == SessionToken(STORE, 6)


def test_no_canary_comes_before_what_the_session_has_seen() -> None:
    view = replace(known((3, 1, 0)).view, canary=CanaryShare(release=2, percent=99, at_ms=0))
    assert view.pin(None, NOW, lot=0.0).release.number == 2
    with pytest.raises(NotYet):
        view.pin(None, NOW, lot=0.0, not_before=5)
