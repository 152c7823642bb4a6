"""That the promises of consistency hold, from random logs that regions with differing clocks have
read in part. True time runs from 0; the clocks are ahead of it by 0 to SKEW.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import InvalidArgument
from cluster.query.read_consistency import ReadConsistency
from cluster.query.session import SessionToken
from cluster.releases.entries import Switch
from cluster.serving.consistency import RegionKnowledge
from cluster.serving.decisions import Decision, Elsewhere, Reading, Refresh, Serve, Wait
from tests.support.worlds.known_releases import DONE, NO, NOW, SKEW, decided, demand, known

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

    def knowledge(self, log: list[Entry]) -> RegionKnowledge:
        read = [entry.switch for entry in log if entry.landed <= self.read_at]
        return known(
            *((s.position, s.release, s.at_ms) for s in read),
            resident=tuple(self.resident),
            read_ms=NOW + self.read_at + self.ahead,
            position=read[-1].position if read else 1,
        )

    def decide(self, asked: ReadConsistency, log: list[Entry], reading: Reading) -> Decision:
        try:
            return decided(asked, self.knowledge(log), reading, now_ms=self.now_ms)
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
    what = region.knowledge(log)
    try:
        served = decided(demand(level, floor=floor), what, now_ms=region.now_ms, named=named)
    except InvalidArgument:
        return
    if isinstance(served, Serve):
        pinned = what.pin(served.release, region.now_ms, not_before=served.position)
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
