"""Requests are values: they travel as they are, and name the release that they are about."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

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
from tests.support.fakes import contents
from tests.support.rollout_script import Script


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
