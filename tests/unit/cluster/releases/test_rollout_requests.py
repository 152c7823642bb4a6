"""What people ask of a rollout: the entry to append, or a typed error."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from cluster.errors import Conflict, InvalidArgument, NotFound
from cluster.releases.entries import Canary, Rollback
from cluster.releases.requests import (
    AbortRelease,
    CommitRelease,
    ProposeRelease,
    ReleaseRequest,
    RollBackTo,
    SetShare,
    release_of,
)
from cluster.releases.settings import RolloutPolicy
from tests.support.fakes import Entries, contents
from tests.support.rollout_script import Script, status


def test_requests_need_the_lead() -> None:
    script = Script("b", log=[Entries().elect("a", 1)])
    for request in (
        ProposeRelease(contents=contents(), targets=("b",), auto_commit=True),
        SetShare(release=1, percent=5),
        CommitRelease(release=1),
        AbortRelease(release=1, reason=""),
        RollBackTo(),
    ):
        with pytest.raises(Conflict, match="does not lead: a does"):
            script.ask(request)


def test_before_anybody_leads_a_request_is_a_conflict() -> None:
    with pytest.raises(Conflict, match="nobody yet"):
        Script().propose()


@pytest.mark.parametrize("targets", [(), ("a", "a"), ("A",), ("a", "b c"), ("",)])
def test_targets_that_are_none_are_refused(targets: tuple[str, ...]) -> None:
    script = Script().elect()
    with pytest.raises(InvalidArgument) as caught:
        script.ask(ProposeRelease(contents=contents(), targets=targets, auto_commit=True))
    assert caught.value.field == "targets"


def test_one_release_is_open_at_a_time() -> None:
    script = Script().elect()
    script.propose()
    with pytest.raises(Conflict, match="release 1 is still open"):
        script.propose()


def test_a_commit_waits_for_the_targets() -> None:
    script = Script().elect()
    number = script.propose("a", "b", "c", auto_commit=False, prepared=True)
    with pytest.raises(Conflict, match="not prepared yet in: b, c"):
        script.ask(CommitRelease(release=number))
    script.heartbeats(status("b", number), status("c", number))
    script.land(script.ask(CommitRelease(release=number)))
    script.heartbeats(status("b"), status("c"))
    with pytest.raises(Conflict, match="committed, not open"):
        script.ask(CommitRelease(release=number))


@pytest.mark.parametrize(
    ("number", "error"), [(0, InvalidArgument), (-1, InvalidArgument), (9, NotFound)]
)
def test_unknown_releases(number: int, error: type[Exception]) -> None:
    script = Script().elect()
    for request in (
        SetShare(release=number, percent=5),
        CommitRelease(release=number),
        AbortRelease(release=number, reason=""),
        RollBackTo(release=number),
    ):
        with pytest.raises(error):
            script.ask(request)


def test_rollbacks_go_to_committed_releases_only() -> None:
    script = Script().elect()
    with pytest.raises(Conflict, match="no earlier release"):
        script.ask(RollBackTo())
    script.committed()
    with pytest.raises(Conflict, match="no earlier release"):
        script.ask(RollBackTo())
    number = script.propose()
    with pytest.raises(Conflict, match="open, not committed"):
        script.ask(RollBackTo(release=number))


def test_going_back_from_a_commit_whose_moment_is_still_to_come() -> None:
    script = Script().elect()
    script.committed()
    script.propose(prepared=True)
    append = script.ask(RollBackTo())
    entry = script.land(append)
    assert isinstance(entry, Rollback)
    assert entry.release == 1
    assert script.rollout.state.current(script.now_ms + 60_000) == 1


def test_going_back_twice_returns_to_where_one_was() -> None:
    script = Script().elect()
    for _ in range(3):
        script.committed()
    seen = []
    for _ in range(2):
        append = script.ask(RollBackTo())
        entry = script.land(append)
        assert isinstance(entry, Rollback)
        seen.append(entry.release)
        script.now_ms += 5_000
        script.decide()
    assert seen == [2, 3]


def test_a_canary_waits_for_the_targets() -> None:
    script = Script().elect()
    script.committed()
    number = script.propose("a", "b", auto_commit=False, prepared=True)
    with pytest.raises(Conflict, match="not prepared yet in: b"):
        script.ask(SetShare(release=number, percent=5))
    script.heartbeats(status("b", number))
    entry = script.land(script.ask(SetShare(release=number, percent=5)))
    assert isinstance(entry, Canary)
    assert (entry.release, entry.percent, entry.at_ms) == (number, 5, script.now_ms)
    script.heartbeats(status("b"))
    script.land(script.ask(SetShare(release=number, percent=0)))
    assert script.rollout.state.canary is None, "to end it asks for nothing"


@pytest.mark.parametrize("percent", [-1, 100, 1000])
def test_shares_that_are_none_are_refused(percent: int) -> None:
    script = Script().elect()
    script.committed()
    number = script.propose(auto_commit=False, prepared=True)
    with pytest.raises(InvalidArgument, match="commit") as caught:
        script.ask(SetShare(release=number, percent=percent))
    assert caught.value.field == "percent"


@pytest.mark.parametrize("percent", [0, 1, 99])
def test_shares_that_may_be_given(percent: int) -> None:
    script = Script().elect()
    script.committed()
    number = script.propose(auto_commit=False, prepared=True)
    entry = script.land(script.ask(SetShare(release=number, percent=percent)))
    assert isinstance(entry, Canary)
    assert entry.percent == percent


def test_canaries_of_what_cannot_be_one() -> None:
    script = Script().elect()
    current = script.committed()
    with pytest.raises(NotFound):
        script.ask(SetShare(release=9, percent=5))
    with pytest.raises(Conflict, match="committed, not open"):
        script.ask(SetShare(release=current, percent=5))
    number = script.propose("a", "b", prepared=True)
    script.heartbeats(status("b", number))
    with pytest.raises(Conflict, match="cannot be a canary"):
        script.ask(SetShare(release=number, percent=5))


# Requests are values.


def tried() -> Script:
    """Two committed releases, and one that is prepared."""
    script = Script().elect()
    script.committed()
    script.committed()
    script.propose(auto_commit=False, prepared=True)
    return script


def proposed() -> Script:
    script = Script().elect()
    script.committed()
    return script


A_RELEASE = ProposeRelease(
    contents=contents(), targets=("a",), auto_commit=True, policy=RolloutPolicy(wait_for="quorum")
)


@pytest.mark.parametrize(
    ("after", "request_", "release"),
    [
        (proposed, A_RELEASE, 2),
        (tried, SetShare(release=3, percent=5), 3),
        (tried, CommitRelease(release=3), 3),
        (tried, AbortRelease(release=3, reason="why"), 3),
        (tried, RollBackTo(), 1),
        (tried, RollBackTo(release=2, force=True), 2),
    ],
)
def test_a_request_that_has_travelled_is_granted_for_a_release(
    after: Callable[[], Script], request_: ReleaseRequest, release: int
) -> None:
    arrived: ReleaseRequest = pickle.loads(pickle.dumps(request_))
    assert arrived == request_
    script = after()
    script.land(script.ask(arrived))
    assert release_of(arrived, script.rollout.state) == release


def test_a_proposal_goes_by_the_policy_of_the_settings_unless_it_brings_one() -> None:
    script = proposed()
    script.rollout.policy = RolloutPolicy(prepare_timeout_s=7.0)
    brings = ProposeRelease(
        contents=contents(),
        targets=("a",),
        auto_commit=True,
        policy=RolloutPolicy(prepare_timeout_s=3.0),
    )
    brings_none = ProposeRelease(contents=contents(), targets=("a",), auto_commit=True)
    for request, timeout_ms in ((brings, 3_000), (brings_none, 7_000)):
        entry = script.ask(request).entry
        assert entry.kind == "propose"
        assert entry.prepare_by_ms - entry.at_ms == timeout_ms
