"""The rollout as a script: what happens, and what the machine wants done about it."""

from __future__ import annotations

import pytest

from cluster.errors import Conflict
from cluster.releases.entries import Abort, Commit, Elect, Fence, ReleaseStatus, Rollback
from cluster.releases.events import Append, Prepared, PrepareFailed, Retire
from cluster.releases.requests import AbortRelease, CommitRelease, RollBackTo
from tests.support.fakes import Entries
from tests.support.rollout_script import Script, kinds, status

# Elections.


def test_nothing_is_decided_before_the_log_is_read() -> None:
    assert Script().heartbeats(status("b")) == []
    script = Script(log=[Entries().elect("b", 1)])
    assert script.heartbeats(status("b")) == []
    script.now_ms = 60_000
    assert kinds(script.heartbeats(status("b"))) == []
    assert kinds(script.decide()) == [Elect]


def test_an_empty_log_gets_a_leader_of_epoch_one() -> None:
    (append,) = Script().decide()
    assert isinstance(append, Append)
    assert append.position == 1
    assert append.entry.epoch == 1
    assert not Script().rollout.leads


def test_after_an_append_the_log_is_read_before_anything_is_decided() -> None:
    script = Script()
    (append,) = script.decide()
    assert script.heartbeats(status("a")) == []
    # What is observed meanwhile is taken in, and no more.
    assert script.handle(Prepared(release=1)) == [Retire(release=1)]
    script.land(append)
    assert script.decide() == []
    assert script.rollout.leads


@pytest.mark.parametrize(("silent_ms", "wanted"), [(0, []), (10_000, []), (10_001, [Elect])])
@pytest.mark.parametrize("skew_ms", [-30_000, 0, 30_000])
def test_a_leader_is_replaced_only_when_its_heartbeat_stands_still(
    silent_ms: int, wanted: list[object], skew_ms: int
) -> None:
    script = Script("b", log=[Entries().elect("a", 7)])
    for beat_ms in (0, 1_000, 60_000):
        script.now_ms = beat_ms
        script.heartbeats(status("a", at_ms=beat_ms + skew_ms))
        assert script.decide() == []
    script.now_ms += silent_ms
    script.heartbeats(status("a", at_ms=60_000 + skew_ms))
    instructions = script.decide()
    assert kinds(instructions) == wanted
    for instruction in instructions:
        assert script.land(instruction).epoch == 8


@pytest.mark.parametrize(("age_ms", "wanted"), [(60_000, []), (60_001, [Elect])])
def test_a_leader_that_is_long_gone_needs_no_second_look(age_ms: int, wanted: list[object]) -> None:
    script = Script("b", log=[Entries().elect("a", 7)])
    script.heartbeats(status("a", at_ms=-age_ms))
    assert kinds(script.decide()) == wanted


@pytest.mark.parametrize(("silent_ms", "wanted"), [(10_000, []), (10_001, [Elect])])
def test_a_leaders_silence_is_counted_from_the_first_time_that_it_is_heard_of(
    silent_ms: int, wanted: list[object]
) -> None:
    script = Script("b", log=[Entries().elect("a", 7)])
    for script.now_ms in (0, silent_ms):
        script.heartbeats(status("a", at_ms=-60_000))
    assert kinds(script.decide()) == wanted


def test_a_leader_that_never_told_of_itself_is_replaced_at_once() -> None:
    script = Script("b", log=[Entries().elect("a", 7)])
    script.heartbeats()
    assert kinds(script.decide()) == [Elect]


def test_a_restarted_coordinator_elects_itself_anew_and_does_not_lead_before() -> None:
    first = Script().elect()
    second = Script(log=first.log)
    # The predecessor's epoch is not its own: the two could not be told apart in the log.
    assert not second.rollout.leads
    with pytest.raises(Conflict, match="does not lead"):
        second.propose()
    # Nor need it wait for the predecessor to be silent.
    second.heartbeats(status("a"))
    (append,) = second.decide()
    assert second.land(append).epoch == 2
    assert second.rollout.leads


def test_the_old_incarnation_is_fenced_by_the_log_and_stands_no_more() -> None:
    old = Script().elect()
    number = old.propose("a", "b")
    new = Script(log=old.log)
    new.elect()
    # The old one decides from what it has read; its place in the log is taken.
    append = old.ask(AbortRelease(release=number, reason=""))
    assert append.position == len(old.log) + 1
    assert len(new.log) == append.position
    old.read(new.log[-1])
    assert not old.rollout.leads
    assert old.rollout.superseded
    old.now_ms = 1_000_000
    assert Append not in [type(x) for x in old.decide()]
    with pytest.raises(Conflict, match="does not lead"):
        old.ask(AbortRelease(release=number, reason=""))


def test_an_entry_of_a_fenced_epoch_is_void_for_everybody_even_if_it_lands() -> None:
    old = Script().elect()
    number = old.propose("a", "b")
    lapsed = old.ask(AbortRelease(release=number, reason="")).entry
    new = Script(log=old.log).elect()
    new.read(lapsed)
    assert new.rollout.state.proposals[number].status is ReleaseStatus.OPEN
    assert new.rollout.state.num_void == 1
    assert new.rollout.leads


def test_a_leader_replaced_by_another_region_is_not_superseded_and_may_stand_again() -> None:
    script = Script().elect()
    script.read(script.entries.elect("b", 2))
    assert not script.rollout.leads
    assert not script.rollout.superseded
    script.heartbeats(status("b", at_ms=0))
    assert script.decide() == []
    script.now_ms = 20_000
    script.heartbeats(status("b", at_ms=0))
    assert kinds(script.decide()) == [Elect]


def test_an_election_into_an_epoch_that_is_taken_changes_nothing() -> None:
    script = Script().elect()
    script.read(script.entries.elect("a", 1))
    assert script.rollout.leads
    assert not script.rollout.superseded


def test_a_region_takes_the_lead_when_it_is_asked_to_whoever_leads() -> None:
    script = Script("b", log=[Entries().elect("a", 1)])
    script.heartbeats(status("a"))
    assert script.decide() == []
    script.land(script.rollout.take_lead(now_ms=0, commit_id="asked"))
    assert script.rollout.leads
    script.read(script.entries.elect("b", 3))
    with pytest.raises(Conflict, match="another coordinator of region b leads"):
        script.rollout.take_lead(now_ms=0, commit_id="again")


def test_a_lost_election_is_no_lead() -> None:
    script = Script("b")
    assert kinds(script.decide()) == [Elect]
    script.read(Entries().elect("a", 1))
    script.heartbeats(status("a"))
    assert script.decide() == []
    assert not script.rollout.leads
    assert not script.rollout.superseded


# Prepare and commit.


def test_a_target_prepares_and_the_leader_commits_when_all_are_prepared() -> None:
    script = Script().elect()
    number = script.propose("a", "b")
    assert kinds(script.decide()) == [("prepare", number)]
    assert script.observe(Prepared(release=number)) == []
    script.now_ms = 3_000
    (append,) = script.heartbeats(status("a"), status("b", number))
    entry = script.land(append)
    assert isinstance(entry, Commit)
    assert entry.switch_at_ms == 4_000
    assert script.decide() == []
    assert script.rollout.heartbeat(3_999).current is None
    assert script.rollout.heartbeat(4_000).current == number


def test_own_heartbeat_in_the_store_does_not_count_for_what_is_prepared() -> None:
    # It may be a predecessor's, who has taken what was loaded to the grave.
    script = Script().elect()
    number = script.propose("a")
    assert kinds(script.heartbeats(status("a", number))) == []
    assert kinds(script.decide()) == [("prepare", number)]
    assert script.rollout.regions_prepared(number) == frozenset()


def test_what_is_no_target_does_not_prepare_until_the_release_is_committed() -> None:
    e = Entries()
    script = Script("c", log=[e.elect("a", 1), e.propose(1)])
    script.heartbeats(status("a"))
    assert script.decide() == []
    script.read(e.commit(1))
    assert kinds(script.decide()) == [("prepare", 1)]


def test_without_auto_commit_a_person_decides() -> None:
    script = Script().elect()
    number = script.propose("a", auto_commit=False, prepared=True)
    assert script.decide() == []
    append = script.ask(CommitRelease(release=number))
    assert isinstance(script.land(append), Commit)


def test_a_follower_appends_nothing() -> None:
    e = Entries()
    script = Script("b", log=[e.elect("a", 1), e.propose(1, targets=("b",), prepare_by_ms=10)])
    script.heartbeats(status("a"))
    assert kinds(script.decide()) == [("prepare", 1)]
    assert script.observe(Prepared(release=1)) == []
    script.now_ms = 1_000
    assert script.decide() == []


def test_a_region_that_fails_is_fenced_out_and_the_others_go_on() -> None:
    script = Script().elect()
    number = script.propose("a", "b", prepared=True)
    (append,) = script.heartbeats(status("b", failed={number: "disk full"}))
    entry = script.land(append)
    assert isinstance(entry, Fence)
    assert (entry.region, entry.reason) == ("b", "disk full")
    assert kinds(script.decide()) == [Commit]


def test_a_region_late_for_the_deadline_is_fenced_out() -> None:
    script = Script().elect()
    number = script.propose("a", "b", prepared=True)
    script.heartbeats(status("b"))
    script.now_ms = 60_000
    assert script.decide() == []
    script.now_ms = 60_001
    (append,) = script.decide()
    entry = script.land(append)
    assert isinstance(entry, Fence)
    assert entry.region == "b"
    assert kinds(script.decide()) == [Commit]
    assert script.rollout.state.proposals[number].fenced == {"b"}


def test_a_release_that_no_region_can_prepare_is_aborted() -> None:
    script = Script().elect()
    number = script.propose("a", "b")
    script.decide()
    (append,) = script.observe(PrepareFailed(release=number, reason="corrupt", retryable=False))
    assert isinstance(script.land(append), Fence)
    (append,) = script.heartbeats(status("b", failed={number: "full"})) or script.decide()
    entry = script.land(append)
    assert isinstance(entry, Abort)
    assert entry.reason == "full"
    assert kinds(script.decide()) == [("retire", number)]


def test_when_the_deadline_passes_and_nobody_is_prepared_it_ends_in_an_abort() -> None:
    script = Script().elect()
    script.propose("a", "b", "c")
    script.decide()
    script.now_ms = 60_001
    seen = []
    while instructions := [x for x in script.decide() if isinstance(x, Append)]:
        seen.append(type(script.land(instructions[0])))
    assert seen == [Fence, Fence, Abort]


def test_a_fenced_region_catches_up_after_the_commit() -> None:
    e = Entries()
    script = Script("b", log=[e.elect("a", 1), e.propose(1)])
    script.heartbeats(status("a"))
    script.decide()
    script.observe(PrepareFailed(release=1, reason="full", retryable=False))
    assert script.rollout.heartbeat(0).failed == {1: "full"}
    script.read(e.fence(1, "b"))
    assert script.decide() == []
    script.read(e.commit(1))
    assert script.decide() == []
    script.now_ms = 5_000
    assert kinds(script.decide()) == [("prepare", 1)]


def test_a_new_leader_takes_the_open_release_to_its_end() -> None:
    e = Entries()
    log = [e.elect("a", 1), e.propose(1)]
    script = Script("b", log=log)
    script.now_ms = 9_000
    script.heartbeats(status("a", 1, at_ms=-60_000))
    instructions = script.decide()
    assert kinds(instructions) == [("prepare", 1), Elect]
    script.land(instructions[-1])
    script.decide()
    assert kinds(script.observe(Prepared(release=1))) == [Commit]


# What stays loaded.


def test_two_releases_stay_and_the_third_last_is_retired_at_the_switch() -> None:
    script = Script().elect()
    assert [script.committed() for _ in range(2)] == [1, 2]
    number = script.propose(prepared=True)
    assert script.decide() == []
    assert script.rollout.prepared() == {1, 2, 3}
    script.now_ms += 999
    assert script.decide() == []
    script.now_ms += 1
    assert kinds(script.decide()) == [("retire", 1)]
    assert script.rollout.prepared() == {2, number}


def test_a_rollback_is_one_pointer_switch_since_the_release_is_resident() -> None:
    script = Script().elect()
    script.committed()
    script.committed()
    append = script.ask(RollBackTo())
    entry = script.land(append)
    assert isinstance(entry, Rollback)
    assert (entry.release, entry.switch_at_ms) == (1, script.now_ms + 1_000)
    assert script.decide() == []
    script.now_ms += 1_000
    assert script.decide() == []
    assert script.rollout.heartbeat(script.now_ms).current == 1


def test_a_release_retired_while_it_is_prepared_is_unloaded_when_it_arrives() -> None:
    script = Script().elect()
    number = script.propose("a", "b")
    assert kinds(script.decide()) == [("prepare", number)]
    script.land(script.ask(AbortRelease(release=number, reason="")))
    assert kinds(script.decide()) == [("retire", number)]
    assert kinds(script.observe(Prepared(release=number))) == [("retire", number)]
    assert script.rollout.prepared() == frozenset()
