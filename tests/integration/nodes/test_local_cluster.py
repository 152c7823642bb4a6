"""Real clusters on this machine: reachable by HTTP, closed to the network, gone when stopped."""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from cluster.errors import Conflict, InvalidArgument, Unavailable
from deployments.nodes.local_cluster import LocalCluster, find_local_cluster, start_local_cluster
from deployments.nodes.marked_processes import MARKER_VARIABLE, end_marked_processes
from deployments.nodes.ports import BLOCK_SIZE, LOOPBACK, find_port_block, is_answered, is_port_free
from tests.support.second_node import add_node
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

# The stream sends its second part when the test, having read the first one, lets it.
SERVE_DRIVER = """
import asyncio, json, os, sys
from pathlib import Path
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from ray import serve

app = FastAPI()

@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.1})
@serve.ingress(app)
class Echo:
    @app.get("/echo")
    async def echo(self, text: str) -> str:
        return text

    @app.get("/stream")
    async def stream(self, gate: str) -> StreamingResponse:
        async def parts():
            yield "first"
            while not Path(gate).exists():
                await asyncio.sleep(0.01)
            yield "second"

        return StreamingResponse(parts(), media_type="text/plain")

serve.start(http_options=json.loads(sys.argv[1]), proxy_location="HeadOnly")
serve.run(Echo.bind(), name="echo", route_prefix="/")
"""

TASK_DRIVER = """
import ray
ray.init(logging_level="ERROR", log_to_driver=False)

@ray.remote(num_cpus=0.1)
def import_packages():
    import actors, cluster, deployments
    return "imported"

print(ray.get(import_packages.remote()), len([n for n in ray.nodes() if n["Alive"]]))
"""

# Holds shared memory, as vLLM's processes do, and does not end when asked.
STUBBORN = """
import signal
from multiprocessing import get_context, resource_tracker, shared_memory
lock = get_context("spawn").Lock()
resource_tracker.unregister(lock._semlock.name, "semaphore")
segment = shared_memory.SharedMemory(create=True, size=1000)
resource_tracker.unregister(segment._name, "shared_memory")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(segment.name, 'sem.' + lock._semlock.name.strip('/'), flush=True)
signal.pause()
"""

STOPPER = """
import sys
from pathlib import Path
from deployments.nodes.local_cluster import find_local_cluster
print(len(find_local_cluster(Path(sys.argv[1])).stop()))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Socket:
    program: str
    address: str
    port: int

    @property
    def is_loopback(self) -> bool:
        ip = ipaddress.ip_address(self.address)
        mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
        return (mapped or ip).is_loopback


def listening_sockets(pids: list[int]) -> list[Socket]:
    sockets = []
    for pid in pids:
        process = psutil.Process(pid)
        sockets += [
            Socket(program=process.name(), address=found.laddr.ip, port=found.laddr.port)
            for found in process.net_connections(kind="tcp")
            if found.status == psutil.CONN_LISTEN
        ]
    return sockets


def run_python(
    source: str, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", source, *arguments],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
    )


def assert_nothing_is_left(cluster: LocalCluster) -> None:
    assert cluster.pids() == []
    assert not any(map(is_answered, range(cluster.port_base, cluster.port_base + BLOCK_SIZE)))
    assert not cluster.temp_dir.exists()
    assert not cluster.token_path.exists()
    assert find_local_cluster(cluster.run_dir) is None


@pytest.fixture(scope="module")
def local_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster whose starter's environment tried to switch authentication off."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        cluster = start_local_cluster(
            name="test", run_dir=tmp_path_factory.mktemp("region"), http_port=0, num_cpus=2
        )
    try:
        yield cluster
    finally:
        cluster.stop()
    assert_nothing_is_left(cluster)


@pytest.fixture(scope="module")
def served(local_cluster: LocalCluster) -> LocalCluster:
    """The cluster with two replicas of a deployment behind HAProxy."""
    options = json.dumps({"host": LOOPBACK, "port": local_cluster.http_port})
    driver = run_python(SERVE_DRIVER, options, env=local_cluster.driver_env())
    assert driver.returncode == 0, driver.stderr
    return local_cluster


@pytest.fixture(scope="module")
def node_pid(local_cluster: LocalCluster) -> int:
    """A second node of the cluster; the last test that uses it ends it."""
    return add_node(local_cluster)


def url(cluster: LocalCluster, path: str) -> str:
    return f"http://127.0.0.1:{cluster.http_port}{path}"


def echoed(cluster: LocalCluster, text: str) -> object:
    reply = httpx.get(url(cluster, "/echo"), params={"text": text}, trust_env=False)
    return reply.json()


def test_is_found_again_by_its_folder(local_cluster: LocalCluster) -> None:
    assert find_local_cluster(local_cluster.run_dir) == local_cluster
    assert local_cluster.is_alive()
    with pytest.raises(Conflict, match="already runs"):
        start_local_cluster(name="twin", run_dir=local_cluster.run_dir, http_port=0)


def test_secrets_are_for_its_user_only(local_cluster: LocalCluster) -> None:
    assert local_cluster.token_path.stat().st_mode & 0o777 == 0o600
    assert (local_cluster.run_dir / "cluster.json").stat().st_mode & 0o777 == 0o600
    assert local_cluster.temp_dir.stat().st_mode & 0o777 == 0o700
    assert (
        local_cluster.token_path.read_text()
        not in (local_cluster.run_dir / "cluster.json").read_text()
    )


def test_answers_and_streams_through_haproxy(served: LocalCluster, tmp_path: Path) -> None:
    assert echoed(served, "hello") == "hello"
    gate = tmp_path / "gate"
    with httpx.stream(
        "GET", url(served, "/stream"), params={"gate": str(gate)}, trust_env=False
    ) as response:
        parts = response.iter_text()
        assert next(parts) == "first"
        gate.touch()
        assert "".join(parts) == "second"
    programs = {
        found.program
        for found in listening_sockets(served.pids())
        if found.port == served.http_port
    }
    assert programs == {"haproxy"}


def test_listens_on_loopback_only(served: LocalCluster, node_pid: int) -> None:
    sockets = listening_sockets(served.pids())
    assert [found for found in sockets if not found.is_loopback] == []
    programs = {found.program for found in sockets}
    assert {"gcs_server", "raylet", "haproxy"} <= programs
    assert any(program.startswith("ray::ServeRepli") for program in programs)
    ports = {found.port for found in sockets}
    block = served.ports
    assert {block.gcs, block.haproxy_stats, block.haproxy_metrics, served.http_port} <= ports
    assert len(ports & set(block.replicas_http)) == 2


def test_drivers_without_the_token_are_refused(local_cluster: LocalCluster) -> None:
    # Ray asks this many times, a second apart, before it gives up.
    env = {**local_cluster.driver_env(), "RAY_NUM_REDIS_GET_RETRIES": "1"}
    for refused in (
        {**env, "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": ""},
        {**env, "RAY_AUTH_TOKEN": "0" * 64},
    ):
        driver = run_python(TASK_DRIVER, env=refused)
        assert driver.returncode != 0
        assert "InvalidAuthToken" in driver.stderr
        assert driver.stdout == ""


def test_an_added_node_works_and_is_lost_with_one_process(
    local_cluster: LocalCluster, node_pid: int
) -> None:
    driver = run_python(TASK_DRIVER, env=local_cluster.driver_env())
    assert driver.returncode == 0, driver.stderr
    assert driver.stdout.split() == ["imported", "2"]
    raylets = {child.pid for child in psutil.Process(node_pid).children()}
    assert raylets
    os.kill(node_pid, signal.SIGKILL)
    gone = {node_pid, *raylets}
    wait_until(lambda: not gone & set(local_cluster.pids()), "the node to be gone")
    assert local_cluster.is_alive()


def test_a_killed_cluster_is_cleared_away_by_another_process(
    served: LocalCluster, tmp_path: Path
) -> None:
    other = start_local_cluster(name="other", run_dir=tmp_path, http_port=0, num_cpus=1)
    try:
        assert other.ray_address != served.ray_address
        os.kill(other.head_pid, signal.SIGKILL)
        wait_until(lambda: not other.is_alive(), "the head to be gone")
        stopper = run_python(STOPPER, str(tmp_path))
        assert stopper.returncode == 0, stopper.stderr
        assert int(stopper.stdout) > 0
    finally:
        assert other.stop() == []
    assert_nothing_is_left(other)
    assert echoed(served, "still") == "still"


def test_a_failed_start_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as temp_dir:
        monkeypatch.setattr(tempfile, "tempdir", temp_dir)
        with pytest.raises(Unavailable, match=r"(?s)ray-start\.log.*memory"):
            start_local_cluster(
                name="small", run_dir=tmp_path, http_port=0, object_store_memory_bytes=1
            )
        assert os.listdir(temp_dir) == []
    assert find_local_cluster(tmp_path) is None
    assert (tmp_path / "logs" / "ray-start.log").exists()


def test_a_taken_http_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(InvalidArgument, match=f"{port}") as refused:
            start_local_cluster(name="late", run_dir=tmp_path, http_port=port)
    assert refused.value.field == "http_port"
    with pytest.raises(InvalidArgument, match="not a TCP port"):
        start_local_cluster(name="late", run_dir=tmp_path, http_port=70_000)
    assert find_local_cluster(tmp_path) is None


def test_ends_marked_processes_with_their_shared_memory_and_no_others() -> None:
    markers = [secrets.token_hex(16) for _ in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STUBBORN],
            env={**os.environ, MARKER_VARIABLE: marker},
            stdout=subprocess.PIPE,
            text=True,
        )
        for marker in markers
    ]
    segments = []
    try:
        for process in processes:
            assert process.stdout is not None
            segments += [Path("/dev/shm", name) for name in process.stdout.readline().split()]
        assert processes[0].pid in end_marked_processes(markers[0], timeout_s=1)
        assert [segment.exists() for segment in segments] == [False, False, True, True]
        assert processes[1].poll() is None
    finally:
        for marker, process in zip(markers, processes, strict=True):
            end_marked_processes(marker, timeout_s=1)
            with process:
                assert process.wait(timeout=10) is not None
    assert not any(segment.exists() for segment in segments)


def test_port_blocks_avoid_what_is_taken() -> None:
    first = find_port_block()
    assert find_port_block(avoid=[first.http]).base != first.base
    with socket.create_server(("127.0.0.1", first.gcs)):
        assert not is_port_free(first.gcs)
        assert all(find_port_block().base != first.base for _ in range(20))
