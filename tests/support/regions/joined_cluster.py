"""A cluster with Serve and without a region, for tests that deploy applications of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray import serve

from deployments.nodes.local_cluster import LocalCluster, start_local_cluster

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def joined_cluster(name: str, run_dir: Path, num_cpus: int) -> Iterator[LocalCluster]:
    """The test process is its driver, and its workers import this checkout."""
    cluster = start_local_cluster(
        name=name,
        run_dir=run_dir,
        http_port=0,
        num_cpus=num_cpus,
        object_store_memory_bytes=100_000_000,
        env={"PYTHONPATH": str(ROOT)},
    )
    try:
        cluster.prepare_driver()
        ray.init(log_to_driver=False)
        serve.start(proxy_location="Disabled")
        yield cluster
    finally:
        ray.shutdown()
        cluster.stop()
