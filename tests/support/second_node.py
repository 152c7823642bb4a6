"""One more Ray node for a cluster on this machine, which tests and chaos runs may lose."""

from __future__ import annotations

import secrets
import sys

from deployments.nodes.detached import spawn_detached
from deployments.nodes.local_cluster import LocalCluster
from deployments.nodes.marked_processes import is_marked
from deployments.nodes.ports import LOOPBACK
from deployments.nodes.ray_starter import cluster_env
from tests.support.waiting import wait_until

_STARTED = "Ray runtime started."
_STORE_BYTES = 100_000_000


def add_node(cluster: LocalCluster) -> int:
    """Waits until the node, which has one CPU, has joined. Returns the pid that holds it together:
    kill it to lose the node. `LocalCluster.stop` ends it with the others.
    """
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start"),
        "--block",
        f"--address={cluster.ray_address}",
        f"--node-ip-address={LOOPBACK}",
        "--num-cpus=1",
        f"--object-store-memory={_STORE_BYTES}",
        "--dashboard-agent-listen-port=0",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--include-log-monitor=false",
        "--log-color=false",
    ]
    env = cluster_env(
        marker=cluster.marker,
        temp_dir=cluster.temp_dir,
        token_path=cluster.token_path,
        ports=cluster.ports,
        added=cluster.env,
    )
    log = cluster.run_dir / "logs" / f"ray-node-{secrets.token_hex(4)}.log"
    pid = spawn_detached(command, env=env, cwd=cluster.temp_dir, log=log)

    def has_started() -> bool:
        assert is_marked(pid, cluster.marker), f"the node ended while starting, see {log}"
        return _STARTED in log.read_text()

    wait_until(has_started, "the node to join")
    return pid
