"""A Ray cluster inside the test process, for what needs Ray and no region."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray


@contextmanager
def local_ray() -> Iterator[None]:
    """Two CPUs on loopback, whose workers import this checkout."""
    root = str(Path(__file__).resolve().parents[3])
    # The path is short, since it holds Unix sockets.
    with (
        tempfile.TemporaryDirectory(prefix="rgt", dir="/tmp") as folder,
        pytest.MonkeyPatch.context() as environment,
    ):
        # Not in a runtime environment, which each worker would read in a process of its own first.
        environment.setenv("PYTHONPATH", root)
        try:
            _start(f"{folder}/1")
        except RuntimeError:
            # Ray forks beside the threads of gRPC that earlier tests have left, and such a child
            # may wait for ever for a lock that nobody holds any more. A fork hardly ever does.
            ray.shutdown()
            _start(f"{folder}/2")
        try:
            yield
        finally:
            ray.shutdown()


def _start(folder: str) -> None:
    """Raises RuntimeError when a process of Ray does not say in time that it has started."""
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=150_000_000,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=folder,
        _system_config={
            # As in a region's cluster (`deployments.nodes.ray_starter`).
            "idle_worker_killing_time_threshold_ms": 30_000,
            # A busy machine is no dead one: Ray ends a driver whose node it holds for dead, and
            # the driver is the process of the tests.
            "health_check_timeout_ms": 60_000,
            "health_check_failure_threshold": 20,
            "gcs_rpc_server_reconnect_timeout_s": 600,
        },
    )
