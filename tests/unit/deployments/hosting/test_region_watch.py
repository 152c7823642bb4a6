"""When the watch brings a region up again, and when it ends."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cluster.config import Settings
from deployments.hosting.region_watch import (
    RunState,
    WatchTimes,
    keep_up,
    run_state_of,
    run_while_it_lives,
)
from deployments.installation import Installation
from deployments.nodes import local_cluster, machine
from deployments.nodes.local_cluster import LocalCluster
from deployments.nodes.machine import Machine

GOES_ON = [sys.executable, "-c", "import time; time.sleep(600)"]
BRIEF = WatchTimes(look_s=0.01, retry_s=0.0, notice_s=0.05)
UP, DIED, ENDED = RunState.UP, RunState.DIED, RunState.ENDED


class Region:
    """Starts end with the given statuses, and looks find the given states, one by one."""

    def __init__(self, starts: list[int], *looks: RunState) -> None:
        self.starts, self.looks = iter(starts), iter(looks)
        self.deaths = 0

    def kept_up(self) -> int:
        return keep_up(lambda: next(self.starts), self.run_state, self.note, BRIEF)

    def note(self) -> None:
        self.deaths += 1

    def run_state(self) -> RunState:
        return next(self.looks)


def test_it_is_brought_up_again_each_time_it_died_until_it_is_ended() -> None:
    region = Region([0, 0, 0], UP, DIED, UP, DIED, ENDED)
    assert region.kept_up() == 0
    assert (list(region.starts), region.deaths) == ([], 2)


def test_a_first_start_that_fails_is_told_and_not_repeated() -> None:
    region = Region([2, 0])
    assert region.kept_up() == 2
    assert list(region.starts) == [0]


def test_later_ones_are_tried_until_one_goes_well() -> None:
    region = Region([0, 1, 2, 0], DIED, ENDED)
    assert region.kept_up() == 0
    assert (list(region.starts), region.deaths) == ([], 1)


def test_the_status_of_a_start_is_that_of_its_command() -> None:
    looks = Region([], *[DIED] * 10_000)  # the record is that of the one before
    assert run_while_it_lives([sys.executable, "-c", "exit(3)"], looks.run_state, BRIEF) == 3


def test_a_start_whose_region_dies_meanwhile_is_ended() -> None:
    looks = Region([], DIED, DIED, UP, UP, *[DIED] * 10)
    assert run_while_it_lives(GOES_ON, looks.run_state, BRIEF) == -signal.SIGTERM


def test_a_start_that_notices_by_itself_says_why() -> None:
    looks = Region([], UP, *[DIED] * 10_000)
    command = [sys.executable, "-c", "import time; time.sleep(1); exit(3)"]
    assert run_while_it_lives(command, looks.run_state, replace(BRIEF, notice_s=60.0)) == 3


def test_a_start_that_tries_once_more_by_itself_goes_on() -> None:
    tries = [UP, DIED, DIED, ENDED] * 5
    looks = Region([], *tries, UP, *[DIED] * 10)
    assert run_while_it_lives(GOES_ON, looks.run_state, BRIEF) == -signal.SIGTERM
    assert ENDED not in looks.looks


def test_a_head_that_was_stopped_is_told_from_one_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    died = Machine(
        config=tmp_path / "regions.yaml",
        region="here",
        ray_address="127.0.0.1:6379",
        token_path=tmp_path / "token",
        marker="no process carries this",
        keeper_pid=2**22 + 1,
        is_head=True,
    )
    machine.record_machine(died)
    recorded = machine.find_machine()
    assert recorded is not None
    assert not recorded.was_stopped
    states: list[RunState] = []
    installation = Installation(Settings(), "local")
    run_state = partial(run_state_of, installation, one_of_several=True)
    monkeypatch.setattr(machine, "end_marked_processes", noting(states, run_state))
    assert run_state() is DIED
    recorded.stop()
    assert [*states, run_state()] == [ENDED, ENDED]


def test_a_cluster_that_is_being_stopped_is_told_from_one_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(state_folder=tmp_path)
    installation = Installation(settings, "local")
    run_dir = installation.run_folder
    run_dir.mkdir(parents=True)
    died = LocalCluster(
        name="local",
        run_dir=run_dir,
        temp_dir=run_dir / "temp",
        port_base=20_224,
        http_port=8000,
        marker="no process carries this",
        head_pid=2**22 + 1,
    )
    local_cluster.record_local_cluster(died)
    states: list[RunState] = []
    run_state = partial(run_state_of, installation, one_of_several=False)
    monkeypatch.setattr(local_cluster, "end_marked_processes", noting(states, run_state))
    assert run_state() is DIED
    died.stop()
    assert [*states, run_state()] == [ENDED, ENDED]


def noting(states: list[RunState], run_state: Callable[[], RunState]) -> Callable[..., list[int]]:
    """In place of what ends the processes: what a watch makes of the moment."""

    def end(*_: object, **__: object) -> list[int]:
        states.append(run_state())
        return []

    return end
