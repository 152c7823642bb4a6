"""Canaries on a real region: the share of the traffic, users who stay, a fault that rolls back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from actors.runtime import names
from cluster.releases.entries import ReleaseStatus
from cluster.releases.requests import CommitRelease, SetShare
from tests.support.regions.canary_region import WIDE, UserLoad, is_tried_on, prepared
from tests.support.regions.search_region import (
    CORPUS,
    REGION,
    SHARDS,
    Reply,
    SearchRegion,
    replica_status,
)
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROUTED = 1_000
ROLLED_BACK_S_MAX = 30.0


@pytest.fixture
def http(region: SearchRegion) -> Iterator[httpx.Client]:
    with region.client() as client:
        yield client


def ask_all(region: SearchRegion, http: httpx.Client, users: list[str]) -> dict[str, Reply]:
    """One search by each user; an empty name is somebody unknown each time."""

    def ask(number: int) -> Reply:
        named = {"user": users[number]} if users[number] else {}
        return region.search(http, number % len(region.queries), **named)

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(ask, range(len(users))))
    letters = region.letters()
    assert [r.error for r in replies if r.error] == []
    assert all(region.is_right(reply, letters) for reply in replies)
    return {user or str(n): r for n, (user, r) in enumerate(zip(users, replies, strict=True))}


def try_on(region: SearchRegion, http: httpx.Client, number: int, percent: int) -> None:
    """Returns when the gateway has seen it."""
    others = percent // 2
    marginal = next(u for u in map(str, range(10**6)) if _between(u, number, others, percent))
    region.request(SetShare(release=number, percent=percent))
    wait_until(
        lambda: region.search(http, 0, user=marginal).release == number, "the gateway to see it"
    )


def _between(user: str, number: int, low: float, high: float) -> bool:
    return is_tried_on(user, number, high) and not is_tried_on(user, number, low)


def test_a_canary_gets_its_share_and_its_users_until_it_is_committed(
    region: SearchRegion, http: httpx.Client
) -> None:
    number = prepared(region, "b")
    users = [f"user-{n}" for n in range(ROUTED)]
    assert {r.release for r in ask_all(region, http, users[:50]).values()} == {1}

    for percent in (25, 50):
        try_on(region, http, number, percent)
        replies = ask_all(region, http, users)
        expected = {u for u in users if is_tried_on(u, number, percent)}
        assert {u for u, reply in replies.items() if reply.release == number} == expected
        assert len(expected) / ROUTED == pytest.approx(percent / 100, abs=0.03)
        nameless = ask_all(region, http, [""] * ROUTED).values()
        share = sum(reply.release == number for reply in nameless) / ROUTED
        assert share == pytest.approx(percent / 100, abs=0.01)
    assert region.status()["canary"] == {"release": number, "percent": 50}
    assert region.search(http, 0, release=number).release == number
    assert region.search(http, 0, release=1).release == 1

    region.request(SetShare(release=number, percent=0))
    wait_until(lambda: region.status().get("canary") is None, "the end of the share")
    assert {r.release for r in ask_all(region, http, users[:200]).values()} == {1}

    try_on(region, http, number, 25)
    region.request(CommitRelease(release=number))
    region.coordinator("wait_until_serving", number, 60.0)
    assert {r.release for r in ask_all(region, http, users[:200]).values()} == {number}


def test_a_canary_that_hangs_is_rolled_back_and_nobody_else_notices(
    region: SearchRegion, http: httpx.Client
) -> None:
    current = region.status()["release"]
    number = prepared(region, WIDE)
    pid = region.run(replica_status, names.replica(CORPUS, SHARDS, 0)).pid

    def ask(user: str, query: int) -> Reply:
        return region.search(http, query % len(region.queries), user=user, timeout_ms=4_000)

    with UserLoad(ask, per_s=5.0) as load:
        try_on(region, http, number, 25)
        wait_until(lambda: sum(r.release == number for _, _, r in load.replies) >= 10, "its share")
        os.kill(pid, signal.SIGSTOP)
        stopped_s = time.monotonic()
        try:
            rolled_back_s = wait_until(
                lambda: region.release_log.proposals[number].status is ReleaseStatus.ABORTED,
                "the rollback",
            )
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: region.status().get("canary") is None, "the end of the share")
        ended_s = time.monotonic()
        wait_until(lambda: load.replies[-1][1] > ended_s + 2.0, "searches after the rollback")

    proposal = region.release_log.proposals[number]
    assert proposal.reason is not None
    assert proposal.reason.startswith(f"canary in {REGION}: ")
    failed = [(user, asked_s, reply.error) for user, asked_s, reply in load.replies if reply.error]
    print(f"\nrolled back after {rolled_back_s:.1f} s, {len(failed)} failed: {proposal.reason}")
    assert rolled_back_s <= ROLLED_BACK_S_MAX
    assert [f for f in failed if not is_tried_on(f[0], number, 25)] == []
    assert [f for f in failed if f[1] > ended_s] == []
    assert [f for f in failed if f[1] < stopped_s - 4.0] == []
    letters = region.letters()
    answered = [reply for _, _, reply in load.replies if not reply.error]
    assert all(region.is_right(reply, letters) for reply in answered)
    assert region.status()["release"] == current
