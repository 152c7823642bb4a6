"""`raygion up --watch` brings a region back that lost what it cannot live without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from deployments.cluster_ports import find_port_block
from deployments.local_cluster import LocalCluster, find_local_cluster
from tests.search_region import CORPUS, TOP_K, make_vectors, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

RAYGION = str(Path(sys.executable).with_name("raygion"))
BACK_S = 120.0


class Watched:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{find_port_block().http}"
        port = self.url.rpartition(":")[2]
        (folder / "regions.yaml").write_text(
            f"regions: {{here: {{http: {{port: {port}}}}}}}\n"
            "generator: {source: null}\n"
            f"corpora: {{{CORPUS}: {{index: {{kind: Flat}}}}}}\n"
        )
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYGION_"))}
        self._run = {"cwd": folder, "env": kept}
        self.queries, self.vectors = make_vectors()

    def does(self, *arguments: str) -> None:
        done = subprocess.run([RAYGION, *arguments], check=False, capture_output=True, **self._run)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr

    def watch(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([RAYGION, "up", "--watch"], **self._run)  # type: ignore[call-overload,no-any-return]

    @property
    def cluster(self) -> LocalCluster | None:
        return find_local_cluster(self.folder / ".raygion" / "regions" / "here")

    def finds(self) -> bool:
        """Whether a search is answered; what it finds is right."""
        body = {"corpus": CORPUS, "vector": self.queries[0].tolist(), "top_k": TOP_K}
        try:
            reply = httpx.post(f"{self.url}/v1/search", json=body, timeout=10, trust_env=False)
        except httpx.TransportError:
            return False
        if reply.status_code != 200:
            return False
        expected = self.vectors["a"].expected[0]
        assert tuple(hit["id"] for hit in reply.json()["hits"]) == expected
        return True


@pytest.mark.slow
def test_a_region_that_died_is_brought_back_until_it_is_taken_down(tmp_path: Path) -> None:
    region = Watched(tmp_path)
    source = region.vectors["a"].write(tmp_path)
    watch = region.watch()
    try:
        wait_until(lambda: is_ready(region.url), "the region", BACK_S)
        region.does("ingest", CORPUS, str(source))
        region.does("build", CORPUS)
        region.does("release", "propose", "--commit")
        assert region.finds()
        for vital in ("gcs_server", "raylet"):
            cluster = region.cluster
            assert cluster is not None
            os.kill(pid_of(cluster, vital), signal.SIGKILL)
            started_s = time.monotonic()
            wait_until(lambda c=cluster: region.cluster != c, f"another cluster after {vital}")  # type: ignore[misc]
            wait_until(region.finds, "the region's answers", BACK_S)
            print(f"\n{vital}: back after {time.monotonic() - started_s:.1f} s")
        cluster = region.cluster
        assert cluster is not None
        region.does("down")
        assert watch.wait(60) == 0
        assert cluster.pids() == []
    finally:
        watch.terminate()
        watch.wait(60)
        if region.cluster is not None:
            region.cluster.stop()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=10, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def pid_of(cluster: LocalCluster, name: str) -> int:
    return next(pid for pid in cluster.pids() if psutil.Process(pid).name() == name)
