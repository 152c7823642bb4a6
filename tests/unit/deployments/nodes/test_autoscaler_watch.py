"""An autoscaler that has given a machine up, or has died, is started anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.nodes.autoscaler_watch import AutoscalerWatch, given_up, state_file
from deployments.nodes.marked_processes import (
    MARKER_VARIABLE,
    end_marked_processes,
    marked_processes,
)
from tests.support.waiting import wait_until

MARKER = "of the watch's test"


def machine(status: str, state: str = "running") -> dict[str, object]:
    return {"tags": {"ray-node-type": "worker", "ray-node-status": status}, "state": state}


@pytest.mark.parametrize(
    ("machines", "named"),
    [
        ({"m1": machine("up-to-date"), "m2": machine("uninitialized")}, {"m2"}),
        ({"m1": machine("waiting-for-ssh"), "m2": machine("setting-up")}, set()),
        ({"m1": machine("update-failed", "terminated"), "m2": machine("update-failed")}, set()),
        ({"m1": {"tags": {"ray-node-type": "worker"}, "state": "terminated"}}, set()),
        ({}, set()),
        ([], set()),
        ({"m1": "?"}, set()),
    ],
)
def test_a_machine_is_given_up_when_it_is_wanted_and_not_begun_with(
    machines: object, named: set[str]
) -> None:
    assert given_up(json.dumps(machines).encode()) == named


def test_a_state_that_is_half_written_says_nothing() -> None:
    assert given_up(b'{"m1": {"ta') == frozenset()


@pytest.mark.parametrize(("kind", "watched"), [("local", True), ("aws", False)])
def test_only_machines_of_ones_own_are_watched(tmp_path: Path, kind: str, watched: bool) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"cluster_name": "x", "provider": {"type": kind}}))
    command = ["ray", "start", "--head", f"--autoscaling-config={config}"]
    assert state_file(command, tmp_path) == (tmp_path / "cluster-x.state" if watched else None)
    assert state_file(command[:3], tmp_path) is None


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "cluster-x.state"
    path.write_text(json.dumps({"m1": machine("up-to-date")}))
    return path


@pytest.fixture
def autoscaler(tmp_path: Path) -> Iterator[int]:
    """The pid of one that does nothing."""
    program = tmp_path / "monitor.py"
    program.write_text("import time; time.sleep(1000)")
    env = {**os.environ, MARKER_VARIABLE: MARKER}
    process = subprocess.Popen([sys.executable, program], env=env)
    wait_until(lambda: marked_processes(MARKER))
    yield process.pid
    end_marked_processes(MARKER, timeout_s=10)
    process.wait()


def running() -> list[int]:
    return [process.pid for process in marked_processes(MARKER)]


def test_one_that_works_is_left_alone(autoscaler: int, state: Path) -> None:
    watch = AutoscalerWatch(MARKER, state)
    assert not any(watch.look(now_s) for now_s in range(0, 600, 10))
    assert running() == [autoscaler]


def test_one_that_has_given_a_machine_up_is_started_anew(autoscaler: int, state: Path) -> None:
    watch = AutoscalerWatch(MARKER, state)
    assert not watch.look(0.0)
    state.write_text(json.dumps({"m1": machine("uninitialized")}))
    looks = [now_s for now_s in range(10, 300, 10) if watch.look(now_s)]
    assert looks == [40, 160, 280], "not at once, and not all the time"
    (pid,) = running()
    assert pid != autoscaler


def test_one_that_has_died_is_started_anew(autoscaler: int, state: Path) -> None:
    watch = AutoscalerWatch(MARKER, state)
    watch.look(0.0)
    end_marked_processes(MARKER, timeout_s=10)
    assert watch.look(10.0)
    assert len(running()) == 1


def test_where_none_ever_ran_none_is_started(state: Path) -> None:
    assert not AutoscalerWatch(MARKER, state).look(1000.0)
    assert running() == []
