"""What Ray and Ray Serve run for a region, killed: HAProxy, Serve's actors, the control store, and
what holds another node than the head's together.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial

import psutil

from deployments.nodes.local_cluster import LocalCluster
from tests.chaos.region import ChaosRegion, nodes_of_replicas
from tests.chaos.scenario import Scenario
from tests.support.second_node import add_node
from tests.support.waiting import wait_until

_GONE_S = 1.0
"""How long requests may be lost that met a HAProxy which had just died."""
_AGENT = "ray::DashboardAgent"
_SETTLED_S = 12.0
"""Serve looks after its proxies every ten seconds."""


def kill_haproxy(region: ChaosRegion) -> str:
    return _kill_one(region, haproxies)


def kill_actor(region: ChaosRegion, title: str) -> str:
    return _kill_one(region, lambda cluster: cluster.pids(title))


def kill_control_store(region: ChaosRegion) -> str:
    noted = _kill_one(region, control_stores)
    # What asks it only now and then must find it, too.
    time.sleep(_SETTLED_S)
    return noted


def kill_on_the_second_node(region: ChaosRegion, name: str) -> str:
    """The node goes with it; another one takes its place, and replicas move there."""
    search = region.search
    replicas = len(nodes_of_replicas(region))
    children = psutil.Process(search.node_pid).children(recursive=True)
    (victim,) = [p for p in children if p.name() == name or name in " ".join(p.cmdline())]
    victim.kill()

    def are_on(nodes: int) -> bool:
        found = nodes_of_replicas(region)
        return len(found) == replicas and len(set(found)) == nodes

    gone_s = wait_until(lambda: are_on(1), "the replicas on the head", 240)
    search.node_pid = add_node(search.cluster)
    wait_until(lambda: are_on(2), "replicas on the new node", 240)
    return f"all replicas on the head after {gone_s:.1f} s, then a node in place of the lost one"


CLUSTER_SCENARIOS = [
    Scenario("kill -9 of HAProxy", kill_haproxy, lost_s=_GONE_S),
    Scenario(
        "kill -9 of HAProxy's manager", partial(kill_actor, title="ray::WatchedHAProxyManager")
    ),
    Scenario("kill -9 of Serve's fallback proxy", partial(kill_actor, title="ray::ProxyActor")),
    Scenario("kill -9 of Serve's controller", partial(kill_actor, title="ray::ServeController")),
    Scenario("kill -9 of the control store, with Redis", kill_control_store, needs_redis=True),
    Scenario("kill -9 of a raylet", partial(kill_on_the_second_node, name="raylet")),
    Scenario("kill -9 of a dashboard agent", partial(kill_on_the_second_node, name=_AGENT)),
]


def haproxies(cluster: LocalCluster) -> list[int]:
    return _named(cluster, "haproxy")


def control_stores(cluster: LocalCluster) -> list[int]:
    return _named(cluster, "gcs_server")


def _named(cluster: LocalCluster, name: str) -> list[int]:
    found = []
    for pid in cluster.pids():
        try:
            if psutil.Process(pid).name() == name:
                found.append(pid)
        except psutil.Error:  # it has just ended
            continue
    return found


def _kill_one(region: ChaosRegion, pids: Callable[[LocalCluster], list[int]]) -> str:
    cluster = region.search.cluster
    before = set(pids(cluster))
    assert before
    for pid in before:
        os.kill(pid, signal.SIGKILL)

    def is_replaced() -> bool:
        now = set(pids(cluster))
        return len(now) >= len(before) and not now & before

    took_s = wait_until(is_replaced, "another one", 120)
    return f"another one after {took_s:.1f} s"
