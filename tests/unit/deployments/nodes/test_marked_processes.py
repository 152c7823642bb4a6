from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from deployments.nodes.local_cluster import LocalCluster
from deployments.nodes.marked_processes import MARKER_VARIABLE, title_of


@pytest.fixture
def cluster(tmp_path: Path) -> LocalCluster:
    """Only its mark: none of its processes is Ray's."""
    return LocalCluster(
        name="test",
        run_dir=tmp_path,
        temp_dir=tmp_path,
        port_base=1,
        http_port=1,
        marker=secrets.token_hex(16),
    )


@pytest.fixture
def processes(cluster: LocalCluster) -> Iterator[dict[str, int]]:
    """Some of the cluster, by title, and one that is like them but of another cluster."""
    with ExitStack() as stack:

        def started(title: str, marker: str) -> int:
            process = subprocess.Popen(
                [title, "-c", "import sys; sys.stdin.read()"],
                executable=sys.executable,
                env={**os.environ, MARKER_VARIABLE: marker},
                stdin=subprocess.PIPE,
            )
            stack.callback(process.communicate)
            return process.pid

        started("ray::Coordinator", "of another one")
        titles = ("ray::Coordinator.propose", "ray::CoordinatorClient", "raylet")
        yield {title: started(title, cluster.marker) for title in titles}


def test_the_processes_of_a_cluster_are_found_by_how_their_title_begins(
    cluster: LocalCluster, processes: dict[str, int]
) -> None:
    assert sorted(cluster.pids()) == sorted(processes.values())
    assert cluster.pids("ray::Coordinator.") == [processes["ray::Coordinator.propose"]]
    assert len(cluster.pids("ray::Coordinator")) == 2
    assert cluster.pids("ray::Nobody") == []


def test_a_process_that_is_gone_has_no_title() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    known = psutil.Process(process.pid)
    process.wait()
    assert title_of(known) == ""


# Notes the polite signal in a file and does not end.
STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: pathlib.Path(sys.argv[1]).touch())
print(flush=True)
while True:
    time.sleep(60)
"""


@pytest.mark.parametrize("is_alive", [True, False])
def test_only_a_cluster_that_lives_is_asked_to_end_before_it_is_killed(
    cluster: LocalCluster, tmp_path: Path, is_alive: bool
) -> None:
    asked = tmp_path / "asked"
    with subprocess.Popen(
        [sys.executable, "-c", STUBBORN, str(asked)],
        env={**os.environ, MARKER_VARIABLE: cluster.marker},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        left = replace(cluster, head_pid=process.pid if is_alive else 0)
        assert left.stop(timeout_s=2) == [process.pid]
    assert asked.exists() is is_alive
