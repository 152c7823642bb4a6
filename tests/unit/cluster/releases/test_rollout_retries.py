"""A release that a region cannot prepare at once: what is tried again, and how long it is waited
for.
"""

from __future__ import annotations

import pytest

from cluster.releases.entries import Abort, Commit, Fence, ReleaseStatus, WaitFor
from cluster.releases.events import Append, Prepared, PrepareFailed
from cluster.releases.settings import RolloutPolicy
from tests.support.fakes import Entries
from tests.support.rollout_script import Script, kinds, status

BY_MS = 60_000
"""When the time to prepare is over."""


@pytest.mark.parametrize(
    ("committed", "retryable", "again"),
    [(False, True, True), (True, True, True), (True, False, True), (False, False, False)],
)
def test_each_attempt_waits_longer_up_to_a_bound(
    committed: bool, retryable: bool, again: bool
) -> None:
    e = Entries()
    log = [e.elect("a", 1), e.propose(1), *([e.commit(1)] if committed else [])]
    script = Script("b", log=log)
    script.heartbeats(status("a"))
    assert kinds(script.decide()) == [("prepare", 1)]
    for wait_ms in (5_000, 10_000, 20_000, 20_000):
        failed = PrepareFailed(release=1, reason="timed out", retryable=retryable)
        assert script.observe(failed) == []
        told = script.rollout.heartbeat(0)
        assert (told.failed, told.gave_up) == ({1: "timed out"}, () if retryable else (1,))
        script.now_ms += wait_ms - 1
        assert script.heartbeats(status("a", at_ms=script.now_ms)) == []
        script.now_ms += 1
        wanted = kinds(script.heartbeats(status("a", at_ms=script.now_ms)))
        assert wanted == ([("prepare", 1)] if again else [])
        if not again:
            return
        # It is told of until an attempt succeeds.
        assert script.rollout.heartbeat(0).failed == {1: "timed out"}
    assert script.observe(Prepared(release=1)) == []
    assert script.rollout.prepared() == {1}
    assert script.rollout.heartbeat(0).failed == {}


def test_a_failure_that_may_pass_fences_nobody_before_the_deadline() -> None:
    script = Script().elect()
    number = script.propose("a", "b", prepared=True)
    trouble = {number: "the store timed out"}
    for script.now_ms in (1_000, BY_MS):
        assert script.heartbeats(status("b", at_ms=script.now_ms, retrying=trouble)) == []
    script.now_ms = BY_MS + 1
    (append,) = script.heartbeats(status("b", at_ms=script.now_ms, retrying=trouble))
    entry = script.land(append)
    assert isinstance(entry, Fence)
    assert (entry.region, entry.reason) == ("b", "the store timed out")


def test_a_region_that_makes_it_after_failures_takes_part() -> None:
    script = Script().elect()
    number = script.propose("a", "b", prepared=True)
    assert script.heartbeats(status("b", retrying={number: "the store timed out"})) == []
    script.now_ms = BY_MS
    (append,) = script.heartbeats(status("b", number, at_ms=script.now_ms))
    assert isinstance(script.land(append), Commit)
    assert script.rollout.state.proposals[number].fenced == frozenset()


@pytest.mark.parametrize("wait_for", ["quorum", ("b", "c")])
def test_only_what_a_region_gave_up_aborts_before_the_deadline(wait_for: WaitFor) -> None:
    script = Script().elect()
    policy = RolloutPolicy(wait_for=wait_for, prepare_timeout_s=BY_MS / 1000)
    number = script.propose("a", "b", "c", policy=policy)
    script.decide()
    trouble = {number: "the store timed out"}
    waiting = script.heartbeats(status("b", retrying=trouble), status("c", retrying=trouble))
    assert waiting == []
    script.observe(PrepareFailed(release=number, reason="the store timed out", retryable=True))
    (append,) = script.heartbeats(status("b", failed=trouble), status("c", failed=trouble))
    entry = script.land(append)
    assert isinstance(entry, Abort)
    assert "b: the store timed out; c: the store timed out" in entry.reason


def test_a_single_region_is_waited_for_until_the_deadline() -> None:
    script = Script().elect()
    number = script.propose("a")
    assert kinds(script.decide()) == [("prepare", number)]
    failed = PrepareFailed(release=number, reason="no memory", retryable=True)
    assert script.observe(failed) == []
    script.now_ms = BY_MS + 1
    appends = [x for x in script.decide() if isinstance(x, Append)]
    entry = script.land(appends[0])
    assert isinstance(entry, Abort)
    assert entry.reason == "no memory"
    assert script.rollout.state.proposals[number].status is ReleaseStatus.ABORTED
