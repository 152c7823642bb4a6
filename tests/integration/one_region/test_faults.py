"""Parts of a region die or hang while it is asked all the time: no query fails, none is wrong."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from actors.runtime import names
from cluster.errors import RaygionError
from cluster.releases.entries import RELEASE_LOG, ReleaseContents, ReleaseStatus
from cluster.releases.events import RegionStatus
from cluster.releases.requests import CommitRelease, ProposeRelease, ReleaseRequest, RollBackTo
from cluster.store.numbered_log import NumberedLog
from tests.support.regions.search_region import (
    CORPUS,
    REGION,
    REPLICAS,
    SHARDS,
    Load,
    SearchRegion,
    call_coordinator,
    head_node,
    node_of_replica,
    replica_status,
    search_region,
    search_settings,
)
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

COORDINATOR, GATEWAY = "ray::Coordinator", "ray::ServeReplica:gateway:gateway"
GATEWAY_BACK_S_MAX = 60.0
ALL_REPLICAS = [names.replica(CORPUS, s, r) for s in range(SHARDS) for r in range(REPLICAS)]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchRegion]:
    folder = tmp_path_factory.mktemp("faulty")
    # Without gateways that search by themselves, so that every fault of an actor is felt.
    with search_region(folder, search_settings(folder, local_first=False)) as region:
        yield region


@pytest.fixture
def whole(faulty: SearchRegion) -> SearchRegion:
    """The region with all of its parts in order."""
    wait_until(faulty.is_whole, "a whole region")
    return faulty


def pid_of(region: SearchRegion, replica: str) -> int | None:
    status = region.run(replica_status, replica)
    return None if status is None else status.pid


@contextmanager
def hanging(region: SearchRegion, *replicas: str) -> Iterator[None]:
    pids = [pid_of(region, replica) for replica in replicas]
    assert None not in pids
    for pid in pids:
        os.kill(pid or 0, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid or 0, signal.SIGCONT)


def log_entries(region: SearchRegion) -> list[bytes]:
    return [data for _, data in NumberedLog(region.installation.store, RELEASE_LOG).read_after(0)]


@pytest.mark.parametrize("replica", ALL_REPLICAS)
def test_killing_a_replica_fails_no_query_and_it_comes_back_with_its_data(
    whole: SearchRegion, replica: str
) -> None:
    versions = whole.run(replica_status, replica).index_versions
    assert versions
    with Load(whole) as load:
        pid = pid_of(whole, replica)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

        def is_back() -> bool:
            status = whole.run(replica_status, replica)
            return status is not None and status.pid != pid and status.index_versions == versions

        back_s = wait_until(is_back, f"{replica} with its data")
        wait_until(whole.is_whole, "all replicas serving")
        load.go_on()
    assert load.verdict(f"killed {replica}, back after {back_s:.1f} s") == ([], [])


def test_queries_outlast_a_replica_that_hangs(whole: SearchRegion) -> None:
    with Load(whole, timeout_ms=6_000) as load:
        with hanging(whole, ALL_REPLICAS[0]):
            wait_until(lambda: not whole.is_whole(), "the region noticing")
            load.go_on(100)
        back_s = wait_until(whole.is_whole, "all replicas serving")
        load.go_on()
    assert load.verdict(f"a replica hung, whole again after {back_s:.1f} s") == ([], [])


def test_a_shard_without_replicas_is_a_number_or_a_typed_error(whole: SearchRegion) -> None:
    with whole.client() as client, hanging(whole, *ALL_REPLICAS[:REPLICAS]):
        partial = whole.search(client, 0, min_coverage=0, timeout_ms=3_000)
        assert (partial.error, partial.coverage) == ("", 1 / SHARDS)
        assert partial.ids
        refused = whole.search(client, 0, timeout_ms=1_000)
        assert refused.error.startswith("504")
        assert '"deadline_exceeded"' in refused.error
    wait_until(whole.is_whole, "all replicas serving")
    with whole.client() as client:
        assert whole.is_right(whole.search(client, 0), whole.letters())


def test_killing_all_replicas_of_a_shard_gives_typed_errors_until_it_is_back(
    whole: SearchRegion,
) -> None:
    pids = [pid_of(whole, replica) for replica in ALL_REPLICAS[:REPLICAS]]
    with Load(whole) as load:
        for pid in pids:
            os.kill(pid or 0, signal.SIGKILL)
        with whole.client() as client:
            # Whole, if Ray has a replica back before the query has given it up.
            partial = whole.search(client, 0, min_coverage=0)
            assert partial.error == ""
            assert partial.coverage in {1 / SHARDS, 1.0}
            back_s = wait_until(lambda: not whole.search(client, 0).error, "the whole shard")
        wait_until(whole.is_whole, "all replicas serving")
        load.go_on()
    failed, wrong = load.verdict(
        f"killed a whole shard, back after {partial.took_s + back_s:.1f} s"
    )
    assert wrong == []
    assert {reply.error[:3] for reply in failed} <= {"503", "504"}
    assert all('"unavailable"' in r.error or '"deadline_exceeded"' in r.error for r in failed)


def test_losing_a_node_fails_no_query(whole: SearchRegion) -> None:
    nodes = {replica: whole.run(node_of_replica, replica) for replica in ALL_REPLICAS}
    for shard in range(SHARDS):
        of_shard = {nodes[names.replica(CORPUS, shard, r)] for r in range(REPLICAS)}
        assert len(of_shard) == REPLICAS
    head = whole.run(head_node)
    assert set(nodes.values()) > {head}
    with Load(whole) as load:
        os.kill(whole.node_pid, signal.SIGKILL)

        def are_back() -> bool:
            return {whole.run(node_of_replica, replica) for replica in ALL_REPLICAS} == {head}

        back_s = wait_until(are_back, "the replicas on the node that is left")
        whole_s = back_s + wait_until(whole.is_whole, "all replicas serving")
        load.go_on()
    assert load.verdict(f"node killed, whole again after {whole_s:.1f} s") == ([], [])


def kill_coordinator(
    region: SearchRegion,
    moment: Callable[[], object],
    request: ReleaseRequest,
) -> object:
    """Sends the coordinator a request and kills the coordinator when the moment has come.

    Returns what the request gave or, since the kill may cut it off, its typed error.
    """
    call = region.submit(call_coordinator, "request", (request,))
    wait_until(moment, "the moment")
    region.kill(COORDINATOR)
    try:
        return call.result(120)
    except RaygionError as error:
        return error


def next_contents(region: SearchRegion) -> ReleaseContents:
    """Other vectors than those of the last release."""
    letters = region.letters()
    return region.contents["b" if letters[max(letters)] == "a" else "a"]


@pytest.mark.parametrize("appended", [0, 1, 2], ids=["at once", "proposed", "committed"])
def test_an_auto_commit_is_finished_by_the_next_coordinator(
    whole: SearchRegion, appended: int
) -> None:
    before = log_entries(whole)
    number = whole.release_log.next_release
    with Load(whole) as load:
        outcome = kill_coordinator(
            whole,
            lambda: len(log_entries(whole)) >= len(before) + appended,
            ProposeRelease(contents=next_contents(whole), targets=(REGION,), auto_commit=True),
        )
        back_s = wait_until(whole.is_whole, "the coordinator to be back")
        landed = number in whole.release_log.proposals
        # What was acknowledged is in the log; what was cut off may be.
        assert landed or (appended == 0 and isinstance(outcome, RaygionError))
        if landed:
            whole.coordinator("wait_until_serving", number, 120.0)
        load.go_on()
    assert log_entries(whole)[: len(before)] == before
    assert load.verdict(f"coordinator killed, back after {back_s:.1f} s") == ([], [])


def test_a_prepared_release_outlasts_two_coordinators(whole: SearchRegion) -> None:
    def is_prepared() -> bool:
        heartbeat = whole.installation.store.get(f"regions/{REGION}/status.json")
        return number in RegionStatus.from_bytes(heartbeat, source="heartbeat").prepared

    number = whole.release_log.next_release
    with Load(whole) as load:
        outcome = kill_coordinator(
            whole,
            is_prepared,
            ProposeRelease(contents=next_contents(whole), targets=(REGION,), auto_commit=False),
        )
        assert outcome == number
        wait_until(lambda: whole.pid_of(COORDINATOR), "the next coordinator")
        whole.kill(COORDINATOR)
        back_s = wait_until(whole.is_whole, "the one after it to be back")
        assert whole.release_log.proposals[number].status is ReleaseStatus.OPEN
        whole.coordinator("wait_until_prepared", number, 120.0)
        whole.request(CommitRelease(release=number))
        whole.coordinator("wait_until_serving", number, 120.0)
        load.go_on()
    assert load.verdict(f"coordinator killed twice, back after {back_s:.1f} s") == ([], [])


@pytest.mark.parametrize("appended", [0, 1], ids=["at once", "rolled back"])
def test_a_rollback_outlasts_the_coordinator(whole: SearchRegion, appended: int) -> None:
    before, switches = log_entries(whole), whole.release_log.switches
    with Load(whole) as load:
        outcome = kill_coordinator(
            whole, lambda: len(log_entries(whole)) >= len(before) + appended, RollBackTo()
        )
        back_s = wait_until(whole.is_whole, "the coordinator to be back")
        rolled_back = whole.release_log.switches[len(switches) :]
        assert rolled_back or (appended == 0 and isinstance(outcome, RaygionError))
        for switch in rolled_back:
            assert switch.release != switches[-1].release
            whole.coordinator("wait_until_serving", switch.release, 120.0)
        load.go_on()
    assert log_entries(whole)[: len(before)] == before
    assert load.verdict(f"coordinator killed, back after {back_s:.1f} s") == ([], [])


def test_a_killed_gateway_is_replaced(whole: SearchRegion) -> None:
    """There is one gateway: what it was working on fails, what comes meanwhile waits or fails."""
    with Load(whole) as load:
        pid = whole.kill(GATEWAY)
        with whole.client() as client:
            back_s = wait_until(lambda: not whole.search(client, 0).error, "a new gateway")
        assert whole.pid_of(GATEWAY) not in (None, pid)
        answered_before = len(load.replies)
        load.go_on(100)
    _, wrong = load.verdict(f"gateway killed, back after {back_s:.1f} s")
    assert wrong == []
    assert not [reply for reply in load.replies[answered_before:] if reply.error]
    assert back_s < GATEWAY_BACK_S_MAX
