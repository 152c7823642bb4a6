"""A region that `raygion up --watch` keeps up, as a user has it: a folder with a `regions.yaml`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from deployments.nodes.local_cluster import LocalCluster, find_local_cluster
from tests.support.regions.ports import region_port
from tests.support.regions.search_region import CORPUS, TOP_K, make_vectors
from tests.support.waiting import wait_until

_RAYGION = str(Path(sys.executable).with_name("raygion"))
_UP_S = 180.0
_END_S = 60.0


class WatchedRegion:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        port = region_port()
        self._url = f"http://127.0.0.1:{port}"
        (folder / "regions.yaml").write_text(
            f"regions: {{here: {{http: {{port: {port}}}}}}}\n"
            "generator: {source: null}\n"
            f"corpora: {{{CORPUS}: {{index: {{kind: Flat}}}}}}\n"
        )
        self._queries, vectors = make_vectors()
        self._vectors = vectors["a"]
        self.process = subprocess.Popen([_RAYGION, "up", "--watch"], cwd=folder, env=_environment())

    def serve_vectors(self) -> None:
        """Returns when a release with them is served."""
        wait_until(self._is_up, "the region", _UP_S)
        self.does("ingest", CORPUS, str(self._vectors.write(self._folder)))
        self.does("build", CORPUS)
        self.does("release", "propose", "--commit")

    def does(self, *arguments: str) -> None:
        command = [_RAYGION, *arguments]
        done = subprocess.run(
            command, cwd=self._folder, env=_environment(), capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr

    @property
    def cluster(self) -> LocalCluster | None:
        return find_local_cluster(self._folder / ".raygion" / "regions" / "here")

    def is_settled(self) -> bool:
        """Whether the watch has nothing under way to bring the region up."""
        return not psutil.Process(self.process.pid).children()

    def ask(self) -> bool | None:
        """Whether a search finds what it must; None when it is not answered."""
        body = {"corpus": CORPUS, "vector": self._queries[0].tolist(), "top_k": TOP_K}
        try:
            reply = httpx.post(f"{self._url}/v1/search", json=body, timeout=10, trust_env=False)
        except httpx.TransportError:
            return None
        if reply.status_code != 200:
            return None
        return tuple(hit["id"] for hit in reply.json()["hits"]) == self._vectors.expected[0]

    def _is_up(self) -> bool:
        try:
            reply = httpx.get(f"{self._url}/healthz", timeout=10, trust_env=False)
        except httpx.TransportError:
            return False
        return reply.status_code == 200 and self.process.poll() is None


@contextmanager
def watched_region(folder: Path) -> Iterator[WatchedRegion]:
    """With a release; nothing of it is left afterwards."""
    region = WatchedRegion(folder)
    try:
        region.serve_vectors()
        yield region
    finally:
        region.process.terminate()
        region.process.wait(_END_S)
        if region.cluster is not None:
            region.cluster.stop()


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYGION_"))}
