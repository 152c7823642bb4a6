"""What is done to the region, one thing after another, and when it is whole again.

Each scenario breaks something, returns once all is in order, and raises what it may not find. It
runs under the steady load of `tests.chaos.steady_load`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil

from actors.shards.index import INDEX_FILE
from actors.shards.replica import ReplicaStatus
from cluster.artifacts.fetch import blob_path
from cluster.artifacts.files import ArtifactFile
from cluster.errors import Conflict
from cluster.releases.entries import ReleaseStatus
from tests.chaos.cluster_scenarios import CLUSTER_SCENARIOS
from tests.chaos.region import GATEWAYS, ChaosRegion, ask, nodes_of_replicas
from tests.chaos.scenario import Scenario
from tests.chaos.slow_disk import NoSlowDisk, forget, slow_disk
from tests.support.regions.search_region import CORPUS, REPLICA_NAMES, replica_status
from tests.support.waiting import wait_until

COORDINATOR = "ray::Coordinator"
GATEWAY = "ray::ServeReplica:gateway:"
GENERATOR = "ray::ServeReplica:generator-"
_GENERATORS = 2
_BURST = 60
"""Answers asked for at once; the generators take 8 and 4 wait in each gateway."""
_SLOW_BYTES_PER_S = 16 * 1024
_LOOK_S = 0.3


def kill_replica(region: ChaosRegion, replica: str) -> str:
    before = _status(region, replica)
    assert before is not None
    os.kill(before.pid, signal.SIGKILL)

    def is_back() -> bool:
        now = _status(region, replica)
        return (
            now is not None
            and now.pid != before.pid
            and now.index_versions >= before.index_versions
        )

    wait_until(is_back, f"{replica} with its data")
    return ""


def stop_replica(region: ChaosRegion, replica: str) -> str:
    with _stopped(region, replica):
        noticed_s = wait_until(lambda: not region.search.is_whole(), "the region to notice")
        time.sleep(3.0)
    return f"stopped for {noticed_s + 3.0:.1f} s"


def kill_gateway(region: ChaosRegion) -> str:
    return _kill_one(region, GATEWAY, GATEWAYS, "gateway")


def kill_generator(region: ChaosRegion) -> str:
    return _kill_one(region, GENERATOR, _GENERATORS, "generator-")


def kill_coordinator(region: ChaosRegion) -> str:
    return _kill_one(region, COORDINATOR, 1)


def kill_node(region: ChaosRegion) -> str:
    replicas = nodes_of_replicas(region)
    assert len(set(replicas)) == 2
    os.kill(region.search.node_pid, signal.SIGKILL)

    def are_back() -> bool:
        found = nodes_of_replicas(region)
        return len(found) == len(replicas) and len(set(found)) == 1

    wait_until(are_back, "the replicas on the node that is left")
    return ""


def offer_corrupt_artifact(region: ChaosRegion) -> str:
    """A release one of whose indexes has a flipped bit is refused; the same one, whole, is not."""
    search = region.search
    serving = search.status()["release"]
    with _damaged(_stored(region, _files_of_b(region, INDEX_FILE)[0])):
        try:
            _release_b(region)
        except Conflict as error:
            refused = error.message
        else:
            raise AssertionError("a release with a damaged index was committed")
    number, proposal = max(search.release_log.proposals.items())
    assert proposal.status is ReleaseStatus.ABORTED
    assert search.status()["release"] == serving
    assert number != serving
    return f"refused: {refused[:120]}"


def switch_on_a_slow_disk(region: ChaosRegion) -> str:
    """Another release is fetched, verified and served while the disk hardly reads."""
    files = [_stored(region, file) for file in _files_of_b(region)]
    forget(files)
    size = sum(file.stat().st_size for file in files)
    started_s = time.monotonic()
    with slow_disk(region.search.cluster.pids(), files[0].parent, _SLOW_BYTES_PER_S):
        _release_b(region)
    took_s = time.monotonic() - started_s
    return f"release switched after {took_s:.1f} s, {size:,} bytes at {_SLOW_BYTES_PER_S:,} bytes/s"


def fill_the_queue(region: ChaosRegion) -> str:
    """More answers at once than generators and queues hold: the rest is told to come back."""
    questions = list(region.questions)
    replies = []

    def ask_one(number: int) -> None:
        replies.append(ask(client, questions[number % len(questions)]))

    # One for all: to make a client takes longer than to be refused.
    with region.search.client() as client:
        threads = [threading.Thread(target=ask_one, args=(n,)) for n in range(_BURST)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    refused = [r for r in replies if r.error.startswith("503") and '"overloaded"' in r.error]
    failed = [r.error for r in replies if r.error and r not in refused]
    assert not failed, failed[0]
    assert refused, "the queue was never full"
    took_s = sorted(r.took_s for r in refused)
    return (
        f"of {_BURST} answers at once {len(refused)} refused, half of them within "
        f"{took_s[len(took_s) // 2]:.2f} s, the last after {took_s[-1]:.2f} s"
    )


SCENARIOS = [
    *(
        Scenario(f"kill -9 of {name}", partial(kill_replica, replica=name))
        for name in REPLICA_NAMES
    ),
    Scenario("SIGSTOP of a replica", partial(stop_replica, replica=REPLICA_NAMES[0])),
    Scenario("kill -9 of a gateway", kill_gateway),
    Scenario("kill -9 of a generator", kill_generator, needs_answers=True),
    Scenario("kill -9 of the coordinator", kill_coordinator),
    Scenario("full queue", fill_the_queue, needs_answers=True),
    Scenario("corrupt artifact offered", offer_corrupt_artifact),
    Scenario("slow disk", switch_on_a_slow_disk),
    *CLUSTER_SCENARIOS,
    Scenario("kill -9 of a Ray node", kill_node),
]
NOT_POSSIBLE = (NoSlowDisk,)


def _status(region: ChaosRegion, replica: str) -> ReplicaStatus | None:
    status: ReplicaStatus | None = region.search.run(replica_status, replica)
    return status


@contextmanager
def _stopped(region: ChaosRegion, replica: str) -> Iterator[None]:
    status = _status(region, replica)
    assert status is not None
    os.kill(status.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(status.pid, signal.SIGCONT)


def _kill_one(region: ChaosRegion, title: str, wanted: int, application: str | None = None) -> str:
    """Kills a process; returns when another one has taken its place and, in Serve, its work."""
    cluster = region.search.cluster
    before = set(cluster.pids(title))
    assert len(before) == wanted, f"{len(before)} processes {title}"
    os.kill(_busiest(before), signal.SIGKILL)

    def is_replaced() -> bool:
        now = set(cluster.pids(title))
        if len(now) != wanted or len(now - before) != 1:
            return False
        return application is None or region.search.run(num_running, application) == wanted

    wait_until(is_replaced, title, 240)
    return ""


def _busiest(pids: set[int]) -> int:
    """The one that works most at the moment, with its children: it has the most to lose."""

    def cpu_s(pid: int) -> float:
        times = psutil.Process(pid).cpu_times()
        children = (child.cpu_times() for child in psutil.Process(pid).children(recursive=True))
        return sum(t.user + t.system for t in (times, *children))

    before = {pid: cpu_s(pid) for pid in pids}
    time.sleep(_LOOK_S)
    return max(pids, key=lambda pid: cpu_s(pid) - before[pid])


def _files_of_b(region: ChaosRegion, name: str | None = None) -> list[ArtifactFile]:
    """Of the index that the region has not served yet."""
    installation = region.search.installation
    ref = region.search.contents["b"].indexes[CORPUS]
    shards = installation.catalog.read_index(CORPUS, ref).shards
    return [file for shard in shards for file in shard.files if name in (None, file.path)]


def _stored(region: ChaosRegion, file: ArtifactFile) -> Path:
    return Path(region.search.installation.settings.store.url) / blob_path(file.sha256)


@contextmanager
def _damaged(blob: Path) -> Iterator[None]:
    right = blob.read_bytes()
    middle = len(right) // 2
    _put_in_place(blob, right[:middle] + bytes([right[middle] ^ 1]) + right[middle + 1 :])
    try:
        yield
    finally:
        _put_in_place(blob, right)


def _put_in_place(path: Path, data: bytes) -> None:
    draft = path.with_name(f"{path.name}.draft")
    draft.write_bytes(data)
    draft.replace(path)


def _release_b(region: ChaosRegion) -> None:
    """Proposes the vectors b; returns when they are served. Raises Conflict when aborted."""
    search = region.search
    number = search.propose("b")
    search.coordinator("wait_until_committed", number, 120.0)
    search.coordinator("wait_until_serving", number, 60.0)


# What runs in the driver's process.


def num_running(application: str) -> int:
    """Replicas that Serve counts as running, of the applications whose names begin so."""
    from ray import serve
    from ray.serve._private.common import ReplicaState  # noqa: TID251

    found = [a for name, a in serve.status().applications.items() if name.startswith(application)]
    states = [d.replica_states for a in found for d in a.deployments.values()]
    return sum(state.get(ReplicaState.RUNNING, 0) for state in states)
