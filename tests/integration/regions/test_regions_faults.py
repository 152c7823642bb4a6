"""Coordinators, regions and links are lost while three regions are asked all the time: no query
fails that another region could serve, no answer mixes releases, no committed release is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from bench.regions.driven_regions import COORDINATOR
from cluster.clock import SYSTEM_CLOCK
from cluster.errors import RaygionError
from cluster.releases.entries import ReleaseStatus
from cluster.releases.requests import CommitRelease, RollBackTo
from tests.support.regions.regions_fixture import REGIONS, ThreeRegions, three_regions
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

CONTENTS = ("a-flat", "b-flat", "a-hnsw", "a-ivf")
LEADER, OTHER = "leader", "another region"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreeRegions]:
    with three_regions(tmp_path_factory.mktemp("regions"), contents=CONTENTS) as regions:
        yield regions


@pytest.fixture
def regions(live: ThreeRegions) -> ThreeRegions:
    """All of them in order."""
    live.wait_until_whole()
    return live


def next_contents(regions: ThreeRegions) -> str:
    """Other vectors than those that are served."""
    letter = regions.letters()[regions.log.switches[-1].release]
    return "b-flat" if letter == "a" else "a-flat"


def victim_of(regions: ThreeRegions, role: str) -> str:
    leader = regions.log.leader
    assert leader is not None
    return leader if role == LEADER else next(r for r in REGIONS if r != leader)


Moment = Callable[[ThreeRegions, int], object]
STEPS: dict[str, Moment] = {
    "proposed": lambda regions, number: number in regions.log.proposals,
    "first region prepared": lambda regions, number: regions.prepared(number),
    "all regions prepared": lambda regions, number: regions.prepared(number) == set(REGIONS),
    "committed": lambda regions, number: (
        number in (log := regions.log).proposals
        and log.proposals[number].status is ReleaseStatus.COMMITTED
    ),
    "switched": lambda regions, number: regions.log.current(SYSTEM_CLOCK.wall_ms()) == number,
}


@pytest.mark.parametrize("role", [LEADER, OTHER])
@pytest.mark.parametrize("step", STEPS)
def test_a_release_outlasts_a_coordinator_killed(
    regions: ThreeRegions, step: str, role: str
) -> None:
    before, number = regions.entries, regions.log.next_release
    contents, victim = next_contents(regions), victim_of(regions, role)
    with regions.traffic() as (traffic, askers), ThreadPoolExecutor(1) as hand:
        proposed = hand.submit(regions.propose, contents)
        wait_until(lambda: STEPS[step](regions, number), step)
        regions.kill_coordinator(victim)
        seconds = regions.wait_until_serving(number)
        with suppress(RaygionError):
            proposed.result(60)
        traffic.wait_for_more()
    verdict(f"{step}, coordinator of {role} killed, served everywhere after {seconds:.1f} s",
            regions, traffic.failed, askers, before)  # fmt: skip


@pytest.mark.parametrize("role", [LEADER, OTHER])
def test_a_prepared_release_waits_for_its_commit_when_a_coordinator_is_killed(
    regions: ThreeRegions, role: str
) -> None:
    before, contents, victim = regions.entries, next_contents(regions), victim_of(regions, role)
    with regions.traffic() as (traffic, askers):
        number = regions.propose(contents, commit=False)
        wait_until(lambda: regions.prepared(number) == set(REGIONS), "all regions prepared")
        regions.kill_coordinator(victim)
        wait_until(lambda: regions.drivers[victim].pids(COORDINATOR), "the next coordinator")
        regions.at_leader("wait_until_prepared", number, 60.0)
        assert regions.log.proposals[number].status is ReleaseStatus.OPEN
        regions.request(CommitRelease(release=number))
        seconds = regions.wait_until_serving(number)
        traffic.wait_for_more()
    verdict(f"prepared, coordinator of {role} killed, commit to served {seconds:.1f} s",
            regions, traffic.failed, askers, before)  # fmt: skip


@pytest.mark.parametrize("role", [LEADER, OTHER])
def test_a_rollback_outlasts_a_coordinator_killed(regions: ThreeRegions, role: str) -> None:
    first = regions.log.switches[-1].release
    regions.commit(next_contents(regions))
    before, victim = regions.entries, victim_of(regions, role)
    with regions.traffic() as (traffic, askers), ThreadPoolExecutor(1) as hand:
        rolled_back = hand.submit(regions.request, RollBackTo(release=first))
        wait_until(lambda: regions.log.switches[-1].release == first, "the rollback in the log")
        regions.kill_coordinator(victim)
        seconds = regions.wait_until_serving(first)
        with suppress(RaygionError):
            rolled_back.result(60)
        traffic.wait_for_more()
    verdict(f"rolled back, coordinator of {role} killed, served everywhere after {seconds:.1f} s",
            regions, traffic.failed, askers, before)  # fmt: skip


def verdict(
    what: str, regions: ThreeRegions, failed: list[object], askers: list, before: list[bytes]
) -> None:
    """Nothing failed, nothing was wrong or staler than it said, and the log only grew."""
    wrong, dishonest = regions.wrong(askers), regions.dishonest(askers)
    queries = sum(len(asker.answers) for asker in askers)
    print(f"\n{what}: {queries} queries, {len(failed)} failed, {len(wrong)} wrong")
    assert failed == []
    assert wrong == []
    assert dishonest == []
    assert regions.entries[: len(before)] == before
