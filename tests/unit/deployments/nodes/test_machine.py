"""Ray on one machine of several: started once, found again from anywhere, ended whole."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cluster.errors import Conflict, InvalidArgument, Unavailable
from deployments.cli.options import opened, read_settings
from deployments.nodes import machine
from deployments.nodes.haproxy import GatewaySlots
from deployments.nodes.machine import Machine, NodeStarter, find_machine
from deployments.nodes.marked_processes import marked_processes
from deployments.nodes.ports import find_port_block
from tests.support.waiting import wait_until

HEAD = ["ray", "start", "--head", "--port=6379"]
WORKER = ["ray", "start", "--address=10.0.0.1:6379"]
SETTINGS = "store: {url: here}\nregions: {south: {}}\n"
# What `ray start` does, as far as a keeper sees it: it leaves processes behind and ends.
RAY = """#!/bin/sh
echo "$@" >> {calls}
while [ -e {waits} ]; do sleep 0.05; done
if [ -e {fails} ]; then rm {fails}; sleep 1000 & echo "no port is free"; exit 1; fi
{raylet} -c 'sleep 1000; true' --node_id=abc --gcs-address=10.0.0.1:6379 &
until grep -qs raylet /proc/$!/comm; do sleep 0.01; done
sleep 1000 &
echo "Ray runtime started."
"""


class Host:
    """A home folder, a program `ray` and a settings file of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.installed = folder / "installed"
        self.calls, self.fails, self.waits = (folder / name for name in ("calls", "fails", "waits"))
        for made in (self.home, self.installed, programs := folder / "programs"):
            made.mkdir()
        raylet = programs / "raylet"
        shutil.copy("/bin/bash", raylet)
        ray = programs / "ray"
        ray.write_text(
            RAY.format(calls=self.calls, waits=self.waits, fails=self.fails, raylet=raylet)
        )
        ray.chmod(0o755)
        self.path = f"{programs}:{os.environ['PATH']}"
        self.token = folder / "auth_token"
        self.token.write_text("0" * 64)
        self.config = self.installed / "regions.yaml"
        self.config.write_text(SETTINGS)

    def starter(self, command: list[str], region: str = "south") -> NodeStarter:
        return NodeStarter(
            config=self.config,
            region=region,
            run_folder=self.installed / "run",
            slots=GatewaySlots(),
            http_port=find_port_block().http,
            gcs_redis=None,
            command=command,
        )

    @property
    def num_starts(self) -> int:
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    host = Host(tmp_path)
    monkeypatch.setenv("HOME", str(host.home))
    monkeypatch.setenv("PATH", host.path)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(host.token))
    # The keeper imports this package wherever it is started.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[4]))
    try:
        yield host
    finally:
        if (found := find_machine()) is not None:
            found.stop()


def processes(found: Machine, name: str = "") -> list[psutil.Process]:
    return [process for process in marked_processes(found.marker) if name in process.name()]


def test_a_head_is_started_once_and_found_again(host: Host) -> None:
    first, started = host.starter(HEAD).start_head()
    assert started
    assert first.is_alive()
    assert (first.ray_address, first.is_head) == ("10.0.0.1:6379", True)
    assert find_machine() == first
    again, started = host.starter(HEAD).start_head()
    assert (again, started) == (first, False)
    assert host.num_starts == 1
    assert (host.home / machine.RECORD).stat().st_mode & 0o777 == 0o600
    assert host.token.read_text() not in (host.home / machine.RECORD).read_text()


def test_what_the_launcher_sets_is_kept_but_nothing_is_reported_to_rays_makers(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_NODE_TYPE_NAME", "local.cluster.node")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    found, _ = host.starter(HEAD).start_head()
    (raylet,) = processes(found, "raylet")
    told = raylet.environ()
    assert told["RAY_NODE_TYPE_NAME"] == "local.cluster.node"
    assert told["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_a_start_waits_for_another_one_and_finds_what_that_started(
    host: Host, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(machine, "_is_member", lambda _: True)
    starter = host.starter(HEAD if kind == "head" else WORKER)
    start = starter.start_head if kind == "head" else starter.start_worker
    host.waits.touch()
    with ThreadPoolExecutor() as threads:
        one = threads.submit(start)
        wait_until(lambda: host.num_starts == 1)
        other = threads.submit(start)
        # Time for one that does not wait to end what the first has started.
        with suppress(TimeoutError):
            other.result(timeout=1)
        host.waits.unlink()
        (first, started), (second, started_again) = one.result(), other.result()
    assert (started, started_again, host.num_starts) == (True, False, 1)
    assert first == second == find_machine()


def test_it_ends_with_all_that_it_started(host: Host) -> None:
    found, _ = host.starter(HEAD).start_head()
    assert len(found.stop()) >= 3
    assert processes(found) == []
    assert not found.is_alive()
    _, started = host.starter(HEAD).start_head()
    assert started


def test_what_is_left_of_a_dead_node_goes_by_itself(host: Host) -> None:
    found, _ = host.starter(WORKER).start_worker()
    assert processes(found, "sleep")
    for process in processes(found, "raylet"):
        process.kill()
    wait_until(lambda: not processes(found))
    assert not found.is_alive()


def test_what_a_dead_keeper_left_is_ended_before_the_next_start(host: Host) -> None:
    found, _ = host.starter(HEAD).start_head()
    os.kill(found.keeper_pid, signal.SIGKILL)
    wait_until(lambda: not found.is_alive())
    assert processes(found, "raylet")
    again, started = host.starter(HEAD).start_head()
    assert started
    assert processes(found) == []
    assert len(processes(again, "raylet")) == 1


def test_a_start_that_fails_says_why_and_leaves_nothing(host: Host) -> None:
    host.fails.touch()
    with pytest.raises(Unavailable, match="no port is free"):
        host.starter(HEAD).start_head()
    found = find_machine()
    assert found is not None
    assert processes(found) == []
    assert host.num_starts == 1


def test_a_worker_tries_again_since_ray_would_not_ask_it_again(host: Host) -> None:
    host.fails.touch()
    found, started = host.starter(WORKER).start_worker()
    assert (started, found.is_alive(), found.is_head) == (True, True, False)
    assert host.num_starts == 2


@pytest.mark.parametrize("counted_on", [True, False])
def test_a_worker_starts_anew_when_the_cluster_has_given_it_up(
    host: Host, monkeypatch: pytest.MonkeyPatch, counted_on: bool
) -> None:
    found, _ = host.starter(WORKER).start_worker()
    monkeypatch.setattr(machine, "_is_member", lambda _: counted_on)
    again, started = host.starter(WORKER).start_worker()
    assert started is not counted_on
    assert (again == found) is counted_on
    assert len(processes(again, "raylet")) == 1


def test_a_machine_serves_one_region(host: Host) -> None:
    host.starter(HEAD).start_head()
    with pytest.raises(Conflict, match="serves region 'south'"):
        host.starter(HEAD, region="north").start_head()
    with pytest.raises(Conflict, match="is the head of region 'south'"):
        host.starter(WORKER).start_worker()


@pytest.mark.parametrize(
    "command", [[], ["ray"], ["ray", "stop"], ["raylet"], ["ray", "start", "--block"]]
)
def test_anything_but_ray_start_is_refused(host: Host, command: list[str]) -> None:
    with pytest.raises(InvalidArgument, match="command"):
        host.starter(command)


def test_without_the_secret_nothing_is_started(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(host.home / "nowhere"))
    with pytest.raises(InvalidArgument, match=r"there is no file .*nowhere"):
        host.starter(HEAD)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    with pytest.raises(InvalidArgument, match="RAY_AUTH_TOKEN_PATH: set it"):
        host.starter(HEAD)


def test_commands_find_settings_and_cluster_from_any_folder(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = host.starter(HEAD).start_head()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert set(read_settings(None).regions) == {"south"}
    installation = opened(None, None)
    assert installation.settings.store.url == str(host.installed / "here")
    assert (installation.ray_address, installation.machine) == ("10.0.0.1:6379", found)
    # In the installation's own folder it is the same.
    monkeypatch.chdir(host.installed)
    assert opened(None, None).ray_address == "10.0.0.1:6379"
    # Another installation has nothing to do with it, nor has one that is named.
    (elsewhere / "regions.yaml").write_text("regions: {south: {}}\n")
    monkeypatch.chdir(elsewhere)
    assert opened(None, None).ray_address is None
    assert opened(host.config, None).ray_address == "10.0.0.1:6379"
    # What the settings say goes over it; and a node that is gone is no cluster.
    host.config.write_text(SETTINGS.replace("{}", "{ray_address: 'there:1'}"))
    assert opened(host.config, None).ray_address == "there:1"
    host.config.write_text(SETTINGS)
    found.stop()
    assert opened(host.config, None).ray_address is None
