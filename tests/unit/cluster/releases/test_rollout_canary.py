"""Canaries in the rollout: a fault found anywhere aborts, a restart does not."""

from __future__ import annotations

from cluster.releases.entries import Abort, Elect, Fence, ReleaseStatus
from cluster.releases.events import Append, CanaryFaulted, PrepareFailed, RegionStatus
from cluster.releases.requests import CommitRelease, SetShare
from tests.support.fakes import Entries
from tests.support.rollout_script import Script, kinds, status

LATE_MS = 120_000


def leading(*targets: str) -> tuple[Script, int]:
    """A leader of region a, with release 1 current and release 2 a canary at 5 percent."""
    script = Script().elect()
    script.committed()
    number = script.propose(*targets or ("a",), auto_commit=False, prepared=True)
    script.heartbeats(*(status(target, number) for target in targets if target != "a"))
    script.land(script.ask(SetShare(release=number, percent=5)))
    assert script.decide() == []
    return script, number


def follower() -> Script:
    """Region b, which prepares release 2 while it is a canary."""
    e = Entries()
    log = [e.elect("a", 1), e.propose(1), e.commit(1), e.propose(2, auto_commit=False)]
    script = Script("b", log=[*log, e.canary(2, 5)])
    script.heartbeats(status("a", 1, 2, at_ms=LATE_MS))
    assert kinds(script.decide()) == [("prepare", 1), ("prepare", 2)]
    return script


def aborted(script: Script, instructions: list[Append]) -> str:
    (append,) = instructions
    entry = script.land(append)
    assert isinstance(entry, Abort)
    return entry.reason


def test_a_fault_found_here_ends_the_share_at_once_and_aborts() -> None:
    script, number = leading()
    assert script.rollout.canary(script.now_ms) is not None
    (append,) = script.observe(CanaryFaulted(release=number, reason="9 of 10 searches failed"))
    assert script.rollout.canary(script.now_ms) is None, "before the abort has landed"
    assert isinstance(append, Append)
    assert aborted(script, [append]) == "canary in a: 9 of 10 searches failed"
    assert script.rollout.state.proposals[number].status is ReleaseStatus.ABORTED
    assert script.rollout.canary(script.now_ms) is None
    assert kinds(script.decide()) == [("retire", number)]


def test_a_fault_found_elsewhere_aborts() -> None:
    script, number = leading("a", "b")
    told = RegionStatus.model_validate(
        {**status("b", number).model_dump(), "at_fault": {number: "too slow"}}
    )
    (append,) = script.heartbeats(told)
    assert isinstance(append, Append)
    assert aborted(script, [append]) == "canary in b: too slow"


def test_of_several_faults_the_first_region_by_name_is_told() -> None:
    script, number = leading("a", "b")
    script.handle(CanaryFaulted(release=number, reason="9 of 10 searches failed"))
    told = status("b", number).model_copy(update={"at_fault": {number: "too slow"}})
    (append,) = script.heartbeats(told)
    assert isinstance(append, Append)
    assert aborted(script, [append]) == "canary in a: 9 of 10 searches failed"


def test_a_follower_tells_the_leader_and_stops_its_own_share() -> None:
    script = follower()
    assert script.rollout.canary(0) is not None
    assert script.observe(CanaryFaulted(release=2, reason="too slow")) == []
    assert script.rollout.canary(0) is None
    assert script.rollout.heartbeat(0).at_fault == {2: "too slow"}


def test_a_fault_of_what_is_not_open_changes_nothing() -> None:
    script, number = leading()
    script.land(script.ask(CommitRelease(release=number)))
    assert script.observe(CanaryFaulted(release=number, reason="too slow")) == []
    assert script.rollout.state.proposals[number].status is ReleaseStatus.COMMITTED


def test_a_canary_outlives_the_deadline_and_a_restart_of_its_region() -> None:
    script, number = leading("a", "b")
    restarted = Script("a", log=script.log)
    restarted.now_ms = LATE_MS
    instructions = restarted.heartbeats(status("b", number, at_ms=LATE_MS)) or restarted.decide()
    assert kinds(instructions) == [("prepare", 1), ("prepare", number), Elect]
    restarted.land(instructions[-1])
    assert restarted.decide() == []
    assert restarted.rollout.state.canary is not None


def test_a_region_that_cannot_prepare_it_again_is_fenced_out() -> None:
    script, number = leading("a", "b")
    (append,) = script.heartbeats(status("b", failed={number: "disk full"}))
    assert isinstance(script.land(append), Fence)
    assert script.rollout.state.canary_in("b", script.now_ms) is None
    assert script.rollout.canary(script.now_ms) is not None
    assert script.decide() == []
    (append,) = script.observe(PrepareFailed(release=number, reason="full", retryable=False))
    assert isinstance(append, Append)
    assert aborted(script, [append]) == "full"


def test_without_auto_commit_a_canary_stays_until_a_person_decides() -> None:
    script, _ = leading()
    script.now_ms += LATE_MS
    assert script.decide() == []
