"""The release log's fold: total, deterministic, and nothing committed is ever lost."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import Corrupt
from cluster.releases.entries import (
    Abort,
    Canary,
    CanaryShare,
    Commit,
    Elect,
    Fence,
    LogEntry,
    LogState,
    Propose,
    Release,
    ReleaseStatus,
    Rollback,
)
from cluster.releases.fold import fold, objection
from cluster.releases.log_entries import parse_entry
from tests.support.fakes import Entries, contents

REGIONS = ("a", "b", "c")
regions = st.sampled_from(REGIONS)
epochs = st.integers(1, 4)
numbers = st.integers(1, 5)
moments = st.integers(0, 100)
common = {"epoch": epochs, "commit_id": st.uuids().map(str), "at_ms": moments}
releases = st.builds(Release, number=numbers, contents=st.just(contents()))
entries: st.SearchStrategy[LogEntry] = st.one_of(
    st.builds(Elect, leader=regions, **common),
    st.builds(
        Propose,
        release=releases,
        targets=st.lists(regions, min_size=1, max_size=3, unique=True).map(tuple),
        prepare_by_ms=moments,
        auto_commit=st.booleans(),
        **common,
    ),
    st.builds(Commit, release=numbers, switch_at_ms=moments, **common),
    st.builds(Rollback, release=numbers, switch_at_ms=moments, **common),
    st.builds(Abort, release=numbers, reason=st.just("no"), **common),
    st.builds(Fence, release=numbers, region=regions, reason=st.just("late"), **common),
    st.builds(Canary, release=numbers, percent=st.integers(0, 99), **common),
)


@st.composite
def lively_logs(draw: st.DrawFn) -> list[LogEntry]:
    """Logs most of whose entries hold, so that the fold gets far; some are out of place."""
    log: list[LogEntry] = []
    state = LogState()
    for entry in draw(st.lists(entries, max_size=40)):
        changes: dict[str, object] = {}
        if draw(st.integers(0, 4)):
            is_elect = isinstance(entry, Elect)
            changes["epoch"] = state.epoch + 1 if is_elect else max(1, state.epoch)
            if isinstance(entry, Propose):
                changes["release"] = Release(number=state.next_release, contents=contents())
            elif not isinstance(entry, Elect):
                newest = max(1, state.next_release - 1)
                changes["release"] = draw(st.sampled_from([newest, entry.release]))
        made = entry.model_copy(update=changes)
        log.append(made)
        state = fold(state, made)
    return log


logs = st.one_of(st.lists(entries, max_size=30), lively_logs())


def states_of(log: list[LogEntry]) -> list[LogState]:
    return list(itertools.accumulate(log, fold, initial=LogState()))


@given(log=logs)
def test_the_fold_is_total_and_counts_what_is_void(log: list[LogEntry]) -> None:
    states = states_of(log)
    assert [state.position for state in states] == list(range(len(log) + 1))
    voids = [objection(state, entry) is not None for state, entry in zip(states, log, strict=False)]
    assert states[-1].num_void == sum(voids)


@given(log=logs)
def test_a_void_entry_changes_nothing_but_the_counts(log: list[LogEntry]) -> None:
    for (before, after), entry in zip(itertools.pairwise(states_of(log)), log, strict=True):
        if objection(before, entry) is not None:
            assert after.num_void == before.num_void + 1
            counts = {"position": before.position, "num_void": before.num_void}
            assert replace(after, **counts) == before


@given(log=logs)
def test_readers_of_the_same_bytes_have_the_same_state(log: list[LogEntry]) -> None:
    read = [parse_entry(entry.to_bytes(), position=n) for n, entry in enumerate(log, 1)]
    assert read == log
    assert states_of(read) == states_of(log)


@given(log=logs)
def test_a_state_stays_as_it_was_when_more_is_folded(log: list[LogEntry]) -> None:
    """States share their memory, which must not show."""
    for length, state in enumerate(states_of(log)):
        assert state == states_of(log[:length])[-1]


def log_of(num_releases: int) -> list[LogEntry]:
    """A third of the releases are committed and rolled back to, the others tried and aborted."""
    log: list[LogEntry] = [E1.elect("a", 1)]
    for number in range(1, num_releases + 1):
        log += [E1.propose(number, auto_commit=False), E1.fence(number, "b")]
        if number % 3 == 1:
            log += [E1.commit(number, switch_at_ms=number), E1.rollback(number)]
        else:
            log += [E1.canary(number, 5), E1.abort(number)]
    return log


def steps_of(log: list[LogEntry]) -> int:
    """Lines and calls of Python that folding takes."""
    before, steps = sys.gettrace(), itertools.count()

    def count(frame: FrameType, event: str, argument: object) -> Callable[..., object]:
        next(steps)
        return count

    sys.settrace(count)
    try:
        functools.reduce(fold, log, LogState())
    finally:
        sys.settrace(before)
    return next(steps)


def test_each_entry_costs_the_same_however_long_the_log_is() -> None:
    steps = [steps_of(log_of(num_releases)) for num_releases in (100, 400)]
    assert steps[1] / steps[0] == pytest.approx(4.0, rel=0.05)


@given(log=logs)
def test_epochs_never_go_back_and_one_proposal_at_most_is_open(log: list[LogEntry]) -> None:
    for before, after in itertools.pairwise(states_of(log)):
        assert after.epoch >= before.epoch
        assert (after.leader != before.leader) <= (after.epoch > before.epoch)
        opened = [p for p in after.proposals.values() if p.status is ReleaseStatus.OPEN]
        assert len(opened) <= 1
        assert list(after.proposals) == list(range(1, after.next_release))


@given(log=logs)
def test_what_is_committed_is_never_lost_changed_or_reordered(log: list[LogEntry]) -> None:
    for before, after in itertools.pairwise(states_of(log)):
        assert after.switches[: len(before.switches)] == before.switches
        for number, proposal in before.proposals.items():
            assert after.proposals[number].release == proposal.release
            if proposal.status is not ReleaseStatus.OPEN:
                assert after.proposals[number].status is proposal.status
                assert after.proposals[number].fenced == proposal.fenced
        committed = {n for n, p in after.proposals.items() if p.status is ReleaseStatus.COMMITTED}
        assert {switch.release for switch in after.switches} == committed


@given(log=logs, now_ms=moments)
def test_residents_are_current_previous_due_and_open(log: list[LogEntry], now_ms: int) -> None:
    state = states_of(log)[-1]
    current, resident = state.current(now_ms), set(state.resident(now_ms))
    due = {s.release for s in state.switches if s.at_ms > now_ms}
    opened = {n for n, p in state.proposals.items() if p.status is ReleaseStatus.OPEN}
    past = [s.release for s in state.switches if s.at_ms <= now_ms]
    # Told another way than in the code: walk back from the current one until the release differs.
    previous = next(itertools.dropwhile(lambda r: r == current, reversed(past)), None)
    expected = {current, previous} | due | opened
    assert resident == expected - {None}
    assert list(state.resident(now_ms)) == sorted(resident)


@given(log=logs, now_ms=moments, later_ms=moments)
def test_whatever_becomes_current_is_resident_before(
    log: list[LogEntry], now_ms: int, later_ms: int
) -> None:
    state = states_of(log)[-1]
    now_ms, later_ms = sorted((now_ms, later_ms))
    assert {state.current(now_ms), state.current(later_ms)} - {None} <= set(state.resident(now_ms))


@given(log=logs, now_ms=moments)
def test_a_canary_is_open_or_about_to_be_current_and_resident(
    log: list[LogEntry], now_ms: int
) -> None:
    state = states_of(log)[-1]
    canary = state.canary_at(now_ms)
    if canary is None:
        assert all(state.canary_in(region, now_ms) is None for region in REGIONS)
        return
    proposal = state.proposals[canary.release]
    assert proposal.tried
    assert not proposal.auto_commit
    assert 1 <= canary.percent <= 99
    assert canary.release in state.resident(now_ms)
    if proposal.status is not ReleaseStatus.OPEN:
        assert state.switches[-1].release == canary.release
        assert state.switches[-1].at_ms > now_ms
    taking_part = {r for r in REGIONS if state.canary_in(r, now_ms) is not None}
    assert taking_part == set(proposal.targets) - proposal.fenced


def folded(*log: LogEntry) -> LogState:
    return states_of(list(log))[-1]


def two_releases(e: Entries, *, switch_ms: int) -> list[LogEntry]:
    return [
        e.elect("a", 1),
        e.propose(1),
        e.commit(1, switch_at_ms=10),
        e.propose(2),
        e.commit(2, switch_at_ms=switch_ms),
    ]


@pytest.mark.parametrize(("now_ms", "current"), [(9, None), (10, 1), (99, 1), (100, 2), (500, 2)])
def test_current_honours_the_moments_to_switch(now_ms: int, current: int | None) -> None:
    assert folded(*two_releases(Entries(), switch_ms=100)).current(now_ms) == current


@pytest.mark.parametrize(("now_ms", "current"), [(49, 1), (50, 1), (100, 1), (500, 1)])
def test_a_rollback_ahead_of_a_commits_moment_keeps_it_from_happening(
    now_ms: int, current: int
) -> None:
    e = Entries()
    state = folded(*two_releases(e, switch_ms=100), e.rollback(1, switch_at_ms=50))
    assert state.current(now_ms) == current


def test_a_rollback_that_comes_later_takes_over_at_its_moment() -> None:
    e = Entries()
    state = folded(*two_releases(e, switch_ms=100), e.rollback(1, switch_at_ms=150))
    assert [state.current(ms) for ms in (99, 100, 149, 150)] == [1, 2, 2, 1]
    assert state.resident(200) == (1, 2)
    assert [switch.position for switch in state.switches] == [3, 5, 6]


def test_residents_over_the_life_of_three_releases() -> None:
    e = Entries()
    log = [*two_releases(e, switch_ms=100), e.propose(3)]
    assert [folded(*log).resident(ms) for ms in (5, 50, 100)] == [(1, 2, 3)] * 3
    log.append(e.commit(3, switch_at_ms=200))
    assert [folded(*log).resident(ms) for ms in (150, 199, 200)] == [(1, 2, 3), (1, 2, 3), (2, 3)]
    log.append(e.rollback(2, switch_at_ms=300))
    assert folded(*log).resident(300) == (2, 3)


def test_what_is_due_stays_however_many_switches_have_overtaken_it() -> None:
    e = Entries()
    log: list[LogEntry] = [e.elect("a", 1)]
    for number, switch_at_ms in ((1, 1_000), (2, 10), (3, 20)):
        log += [e.propose(number), e.commit(number, switch_at_ms=switch_at_ms)]
    assert folded(*log, e.rollback(2, switch_at_ms=30)).resident(30) == (1, 2, 3)


E1 = Entries()
OPEN = [E1.elect("a", 2), E1.propose(1, 2)]
COMMITTED = [*OPEN, E1.commit(1, 2)]
ABORTED = [*OPEN, E1.abort(1, 2)]
FIRST_BY_HAND = [OPEN[0], E1.propose(1, 2, auto_commit=False)]
SECOND = [*COMMITTED, E1.propose(2, 2)]
SECOND_BY_HAND = [*COMMITTED, E1.propose(2, 2, auto_commit=False)]
VOID = {
    "nobody leads yet": ([], E1.propose(1, 1), "fenced"),
    "an epoch that is taken": (OPEN, E1.elect("b", 2), "already taken"),
    "an epoch gone by": (OPEN, E1.elect("b", 1), "already taken"),
    "a lapsed leader's commit": (OPEN, E1.commit(1, 1), "fenced"),
    "a commit of an epoch to come": (OPEN, E1.commit(1, 3), "fenced"),
    "a second open proposal": (OPEN, E1.propose(2, 2), "still open"),
    "a number left out": (COMMITTED, E1.propose(3, 2), "next release is 2"),
    "a number used again": (COMMITTED, E1.propose(1, 2), "next release is 2"),
    "a commit of nothing": (OPEN, E1.commit(7, 2), "no release 7"),
    "a second commit": (COMMITTED, E1.commit(1, 2), "committed, not open"),
    "an abort of what is committed": (COMMITTED, E1.abort(1, 2), "committed, not open"),
    "a commit of what is aborted": (ABORTED, E1.commit(1, 2), "aborted, not open"),
    "a rollback to what is open": (OPEN, E1.rollback(1, 2), "open, not committed"),
    "a rollback to what is aborted": (ABORTED, E1.rollback(1, 2), "aborted, not committed"),
    "a fence of what is committed": (COMMITTED, E1.fence(1, "a", 2), "committed, not open"),
    "a fence of no target": (OPEN, E1.fence(1, "z", 2), "no target"),
    "a canary of nothing": (COMMITTED, E1.canary(7, 5, 2), "no release 7"),
    "a canary of what is committed": (COMMITTED, E1.canary(1, 5, 2), "committed, not open"),
    "a canary of what is aborted": (ABORTED, E1.canary(1, 5, 2), "aborted, not open"),
    "a canary beside nothing": (FIRST_BY_HAND, E1.canary(1, 5, 2), "beside which release 1"),
    "a canary that commits itself": (SECOND, E1.canary(2, 5, 2), "release 2 is committed as soon"),
    "a lapsed leader's canary": (SECOND_BY_HAND, E1.canary(2, 5, 1), "fenced"),
}


@pytest.mark.parametrize(("log", "entry", "why"), VOID.values(), ids=list(VOID))
def test_void_entries(log: list[LogEntry], entry: LogEntry, why: str) -> None:
    reason = objection(folded(*log), entry)
    assert reason is not None
    assert why in reason
    assert folded(*log, entry).num_void == 1


def test_a_higher_epoch_takes_over_and_goes_on_with_what_is_open() -> None:
    e = Entries()
    state = folded(e.elect("a", 1), e.propose(1), e.elect("b", 5), e.commit(1, 5))
    assert (state.epoch, state.leader, state.num_void) == (5, "b", 0)
    assert state.proposals[1].status is ReleaseStatus.COMMITTED


def test_the_last_aborts_are_told_with_their_reasons() -> None:
    e = Entries()
    log: list[LogEntry] = [e.elect("a", 1)]
    for number, reason in enumerate(("late", "bad recall", "too slow"), 1):
        log += [e.propose(number), e.abort(number).model_copy(update={"reason": reason})]
    assert folded(*log).aborted(2) == {2: "bad recall", 3: "too slow"}


def test_fences_leave_regions_out() -> None:
    e = Entries()
    proposal = folded(e.elect("a", 1), e.propose(1), e.fence(1, "b")).proposals[1]
    assert proposal.waits_for(frozenset()) == ["a"]
    assert proposal.waits_for(frozenset({"a"})) == []


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"\xff", b'{"kind": "unheard of"}', contents().to_bytes()],
)
def test_what_is_no_entry_is_corrupt_and_its_position_is_named(data: bytes) -> None:
    with pytest.raises(Corrupt, match="entry 17"):
        parse_entry(data, position=17)


def test_an_entry_with_an_unknown_key_is_corrupt() -> None:
    data = Entries().elect("a", 1).to_bytes().replace(b"{", b'{"extra": 1, ', 1)
    with pytest.raises(Corrupt):
        parse_entry(data, position=1)


def tried(e: Entries, *more: LogEntry) -> LogState:
    """Release 2 beside release 1, which is current from 10 on."""
    log = [e.elect("a", 1), e.propose(1), e.commit(1, switch_at_ms=10)]
    return folded(*log, e.propose(2, auto_commit=False), *more)


def test_a_canarys_share_grows_and_ends() -> None:
    e = Entries()
    entries = [e.canary(2, 5, at_ms=20), e.canary(2, 50, at_ms=30)]
    assert tried(e, *entries[:1]).canary_at(50) == CanaryShare(release=2, percent=5, at_ms=20)
    assert tried(e, *entries).canary_at(50) == CanaryShare(release=2, percent=50, at_ms=30)
    for end in (e.canary(2, 0), e.abort(2)):
        ended = tried(e, *entries, end)
        assert ended.canary is None
        assert ended.proposals[2].tried


def test_a_committed_canary_keeps_its_share_until_the_switch() -> None:
    e = Entries()
    entries = [e.canary(2, 5), e.commit(2, switch_at_ms=100)]
    state = tried(e, *entries)
    assert [state.canary_at(ms) is not None for ms in (50, 99, 100)] == [True, True, False]
    back = tried(e, *entries, e.rollback(1, switch_at_ms=60))
    assert back.canary is None, "a rollback takes the commit back, and the share with it"
    beside = tried(e, *entries, e.propose(3), e.abort(3))
    assert beside.canary_at(50) is not None, "the release that is aborted is another one"
    later = tried(e, *entries, e.propose(3), e.commit(3, switch_at_ms=200))
    assert [later.canary_at(ms) for ms in (150, 200, 300)] == [None] * 3


def test_a_rollback_beside_a_canary_leaves_it_alone() -> None:
    e = Entries()
    state = tried(e, e.canary(2, 5), e.rollback(1, switch_at_ms=60))
    assert state.canary_at(60) is not None


def test_a_region_that_is_fenced_out_or_no_target_takes_no_part() -> None:
    e = Entries()
    state = tried(e, e.canary(2, 5), e.fence(2, "b"))
    parts = [state.canary_in(region, 60) is not None for region in REGIONS]
    assert parts == [True, False, False]
