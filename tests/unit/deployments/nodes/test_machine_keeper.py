"""The keeper of a node, with programs that only have the names of Ray's."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from deployments.nodes import machine_keeper
from deployments.nodes.gcs_storage import REDIS_VARIABLE
from deployments.nodes.marked_processes import (
    MARKER_VARIABLE,
    end_marked_processes,
    marked_processes,
)
from tests.support.waiting import wait_until

START = "for name in raylet gcs_server log_monitor; do $0/$name 300 & done; sleep 1"
"""As `ray start`, it leaves the processes running and ends."""
FORKING_START = """
    $0/gcs_server 300 &
    $0/forking/raylet -c '(while :; do sleep 300; done) & wait' &
    sleep 1
"""
"""The same with a raylet whose child has not become another program yet."""


class Node:
    def __init__(self, folder: Path, redis: str | None, start: str) -> None:
        self.marker = secrets.token_hex(16)
        for name in ("raylet", "gcs_server", "log_monitor"):
            shutil.copy("/bin/sleep", folder / name)
        (folder / "forking").mkdir()
        shutil.copy("/bin/bash", folder / "forking/raylet")
        kept = {k: v for k, v in os.environ.items() if k != REDIS_VARIABLE}
        named = {} if redis is None else {REDIS_VARIABLE: redis}
        self.keeper = subprocess.Popen(
            [*machine_keeper.COMMAND, "/bin/sh", "-c", start, str(folder)],
            env={**kept, **named, MARKER_VARIABLE: self.marker},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.keeper.stdout is not None
        with self.keeper.stdout as told:
            assert told.readline() == "Watching over gcs_server, raylet\n"

    def pids(self, name: str) -> list[int]:
        found = []
        for process in marked_processes(self.marker):
            try:
                if process.name() == name:
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    def kill(self, name: str) -> int:
        (pid,) = self.pids(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def is_gone(self) -> bool:
        return self.keeper.wait(60) == 0 and marked_processes(self.marker) == []


class StartNode(Protocol):
    def __call__(self, redis: str | None, command: str = START) -> Node: ...


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartNode]:
    made: list[Node] = []

    def start(redis: str | None, command: str = START) -> Node:
        made.append(Node(tmp_path, redis, command))
        return made[-1]

    yield start
    for node in made:
        end_marked_processes(node.marker, timeout_s=10)
        node.keeper.wait()


@pytest.mark.parametrize("redis", [None, "127.0.0.1:6379"])
def test_a_node_ends_with_its_raylet_and_nothing_is_left(
    start: StartNode, redis: str | None
) -> None:
    node = start(redis)
    node.kill("raylet")
    assert node.is_gone()


def test_a_child_that_bears_the_raylets_name_is_not_taken_for_it(start: StartNode) -> None:
    node = start(None, FORKING_START)
    parent, child = sorted(node.pids("raylet"))
    assert psutil.Process(child).ppid() == parent
    os.kill(parent, signal.SIGKILL)
    assert node.is_gone()


def test_a_head_ends_with_a_control_store_that_keeps_its_state_to_itself(
    start: StartNode,
) -> None:
    node = start(None)
    node.kill("gcs_server")
    assert node.is_gone()


def test_a_control_store_whose_state_is_in_redis_is_started_again_each_time(
    start: StartNode,
) -> None:
    node = start("127.0.0.1:6379")
    (raylet,) = node.pids("raylet")
    for _ in range(2):
        killed = node.kill("gcs_server")
        wait_until(lambda k=killed: node.pids("gcs_server") not in ([], [k]), "another", 30)  # type: ignore[misc]
        (started,) = node.pids("gcs_server")
        assert psutil.Process(started).cmdline()[1:] == ["300"]
    assert node.pids("raylet") == [raylet]
    assert node.keeper.poll() is None
