"""`ray up` on three machines, as a user would call it: from a laptop, with the files as shipped.

The machines are namespaces of this one (see `machines.py`). They take the packages from this one's
virtual environment instead of installing them; all else of the launcher file runs as it stands.
The tests are one story and follow each other.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from actors.models.starter_models import STARTER_EMBEDDER
from cluster import clock
from tests.support.regions import search_load
from tests.support.regions.machines import (
    HOME,
    NETWORK,
    SHARED,
    Machine,
    copy_checkout,
    give_installation,
    machines,
    missing,
)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]
T = TypeVar("T")

CHECKOUT = "raygion"
RAYGION = f"{HOME}/{CHECKOUT}/.venv/bin/raygion"
URL, STATS = "http://127.0.0.1:8000", "http://127.0.0.1:8404/stats;csv"
DIMENSION = 384
UP_TIMEOUT_S, WAIT_S = 300.0, 240.0
GONE_WITHIN_S = 120.0
"""After `ray down`: the machines notice within a minute, and then end what they have."""
SECRET = "import secrets; print(secrets.token_hex(32))"
# `replicas: 2` and `embedder.replicas` are what the settings say by themselves.
EDITS = {
    "cluster-local.yaml": {
        "head_ip: 10.0.0.1 ": f"head_ip: {NETWORK}.11 ",
        "ssh_user: ubuntu": "ssh_user: root",
    },
    "regions.yaml": {
        "url: .raygion/store": f"url: {SHARED}/store",
        "generator: {source: starter, replicas: 1}": "generator: {source: null}",
    },
}


class Cluster:
    """A laptop, the head, and workers."""

    def __init__(self, laptop: Machine, head: Machine, *workers: Machine) -> None:
        self.laptop, self.head, self.workers = laptop, head, workers
        ips = ", ".join(worker.address for worker in workers)
        edits = {**EDITS, "cluster-local.yaml": dict(EDITS["cluster-local.yaml"])}
        edits["cluster-local.yaml"]["[10.0.0.2, 10.0.0.3]"] = f"[{ips}]"
        copy_checkout(laptop, CHECKOUT, edits)
        for machine in (laptop, *self.machines):
            give_installation(machine, CHECKOUT)
        self.on_laptop(f"(umask 077; python -c {shlex.quote(SECRET)} > auth_token)")

    @property
    def machines(self) -> list[Machine]:
        return [self.head, *self.workers]

    def on_laptop(self, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """In the checkout, with the virtual environment active."""
        return self.laptop.run(
            f"cd {CHECKOUT} && . .venv/bin/activate && {command}",
            timeout_s=UP_TIMEOUT_S,
            check=check,
        )

    def ray_exec(self, command: str) -> str:
        return self.on_laptop(f"ray exec cluster-local.yaml {shlex.quote(command)}").stdout

    def status(self) -> dict[str, Any]:
        """What `raygion status` says on the head, in the home folder; empty when it fails."""
        done = self.head.run(f"{RAYGION} status --json", check=False)
        told: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return told

    def holding(self) -> dict[str, dict[str, Any]]:
        """What runs on each machine that is alive, by its address."""
        return {machine["address"]: machine for machine in self.status().get("machines", ())}

    def is_spread(self) -> bool:
        """Whether everything serves, and every machine has its share."""
        status = self.status()
        held = status.get("machines", ())
        if not status.get("healthy") or len(held) != len(self.machines):
            return False
        replicas = [sum(machine["replicas"].values()) for machine in held]
        apart = all(machine[kind] <= 1 for machine in held for kind in ("embedders", "gateways"))
        two = all(sum(m[kind] for m in held) == 2 for kind in ("embedders", "gateways"))
        actors = [n + machine["embedders"] for n, machine in zip(replicas, held, strict=True)]
        return apart and two and max(actors) - min(actors) <= 1 and min(replicas) >= 1

    def remains(self) -> dict[str, list[str]]:
        """What runs on the machines."""
        left = {machine.name: machine.processes() for machine in self.machines}
        return {name: processes for name, processes in left.items() if processes}


def wait_until(look: Callable[[], T], what: str, timeout_s: float = WAIT_S) -> T:
    started_s = time.monotonic()
    found = clock.wait_until(look, timeout_s, poll_s=1.0)
    assert found, f"waited {timeout_s:g} s for {what}"
    print(f"\n{what} after {time.monotonic() - started_s:.0f} s")
    return found


@contextmanager
def clusters(folder: Path, *workers: str) -> Iterator[Cluster]:
    with machines(folder, ["head", *workers]) as (laptop, head, *others):
        yield Cluster(laptop, head, *others)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with clusters(tmp_path_factory.mktemp("machines"), "w1", "w2") as made:
        yield made


class Load:
    """Searches at the head's endpoint for the time of a block."""

    def __init__(self, cluster: Cluster) -> None:
        self._command = cluster.head.on_its_network(
            [sys.executable, search_load.__file__, URL, str(DIMENSION)]
        )
        self.asked: Counter[str] = Counter()
        self.failed: list[str] = []
        self.slowest_s = 0.0

    def __enter__(self) -> Load:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        outcomes = json.loads(self._process.communicate(timeout=120)[0])
        for kind, _, took_s, wrong in outcomes:
            self.asked[kind] += 1
            self.slowest_s = max(self.slowest_s, took_s)
            if wrong:
                self.failed.append(f"{kind} after {took_s:.1f} s: {wrong}")
        print(f"\nasked {dict(self.asked)}, failed {self.failed}, slowest {self.slowest_s:.1f} s")


def searches_by_gateway(head: Machine) -> dict[str, int]:
    """How many requests HAProxy has sent to each server, by its name."""
    read = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8404/stats;csv').read().decode())"
    stats = subprocess.run(
        head.on_its_network([sys.executable, "-c", read]),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    rows = csv.DictReader(io.StringIO(stats.lstrip("# ")))
    return {row["svname"]: int(row["stot"]) for row in rows if row["svname"].startswith("SERVE")}


def test_a_ray_up_that_fails_says_why_and_ray_down_leaves_nothing(cluster: Cluster) -> None:
    listen = "import socket; held = socket.create_server(('127.0.0.1', 8000)); input()"
    blocker = subprocess.Popen(
        cluster.head.on_its_network([sys.executable, "-c", listen]), stdin=subprocess.PIPE
    )
    try:
        failed = cluster.on_laptop("ray up --yes cluster-local.yaml", check=False)
        assert failed.returncode != 0
        assert "another program listens on port 8000" in failed.stdout + failed.stderr
    finally:
        blocker.communicate()
    cluster.on_laptop("ray down --yes cluster-local.yaml")
    assert cluster.remains() == {}


def test_the_files_as_shipped_bring_up_all_machines(cluster: Cluster) -> None:
    cluster.on_laptop("ray up --yes cluster-local.yaml")
    wait_until(lambda: len(cluster.holding()) == 3, "all machines")
    assert set(cluster.holding()) == {machine.address for machine in cluster.machines}


def test_a_second_ray_up_changes_nothing(cluster: Cluster) -> None:
    # Not HAProxy: another process takes over whenever a gateway comes, as the second one may now.
    before = [machine.pids("raylet", "gcs_server") for machine in cluster.machines]
    again = cluster.on_laptop("ray up --yes cluster-local.yaml")
    assert "Region local is up" in again.stdout
    assert [machine.pids("raylet", "gcs_server") for machine in cluster.machines] == before
    assert len(cluster.holding()) == 3


def test_commands_work_on_the_head_in_any_folder(cluster: Cluster) -> None:
    assert "Region local: release none" in cluster.ray_exec("raygion status")
    assert "There is no release yet" in cluster.ray_exec("cd /tmp && raygion release list")
    told = cluster.head.run(f"cd / && {RAYGION} status")
    assert f'connect("{cluster.head.address}:6379"' in told.stdout


def test_a_file_on_the_head_alone_becomes_a_release(cluster: Cluster) -> None:
    rows = ({"id": f"n{i}", "text": f"Note {i} on subject {i % 17}."} for i in range(400))
    notes = cluster.head.home / "notes.jsonl"
    notes.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    cluster.ray_exec("raygion ingest factbook ~/notes.jsonl")
    cluster.ray_exec("raygion build factbook")
    cluster.ray_exec("raygion release propose --commit")
    wait_until(cluster.is_spread, "replicas, embedders and gateways on different machines")
    shown = cluster.ray_exec("raygion status")
    assert all(machine.address in shown for machine in cluster.machines)


def test_a_gateway_on_a_worker_takes_its_share(cluster: Cluster) -> None:
    before = searches_by_gateway(cluster.head)
    with Load(cluster) as load:
        time.sleep(5)
    assert load.failed == []
    served = {n: count - before[n] for n, count in searches_by_gateway(cluster.head).items()}
    fallback = [count for name, count in served.items() if "fallback" in name]
    gateways = [count for name, count in served.items() if "fallback" not in name]
    assert fallback == [0]
    assert len(gateways) == 2
    assert min(gateways) > 0.2 * sum(gateways)


def test_a_worker_without_power_fails_no_query_and_gets_its_share_back(cluster: Cluster) -> None:
    lost = worker_with_gateway(cluster)
    with Load(cluster) as load:
        time.sleep(3)
        lost.lose()
        wait_until(lambda: lost.address not in cluster.holding(), "the region to notice")
        wait_until(lambda: cluster.status().get("healthy"), "all replicas on the other machines")
        lost.start()
        wait_until(cluster.is_spread, "its share on the machine that is back")
        time.sleep(3)
    assert load.failed == []


def test_a_worker_whose_processes_are_killed_fails_no_query(cluster: Cluster) -> None:
    lost = worker_with_gateway(cluster)
    # Titles of Ray's workers, its own programs, and what keeps them.
    victims = "pkill -KILL -f 'machine_keeper|raylet|^ray::'"
    with Load(cluster) as load:
        time.sleep(3)
        lost.run(victims, check=False)
        wait_until(lambda: not lost.pids("raylet")["raylet"], "the end of its Ray", 10)
        wait_until(cluster.is_spread, "its share on the machine that is back")
        time.sleep(3)
    assert load.failed == []


def worker_with_gateway(cluster: Cluster) -> Machine:
    holding = cluster.holding()
    return next(w for w in cluster.workers if holding[w.address]["gateways"])


def test_more_replicas_come_where_the_shard_has_none(cluster: Cluster) -> None:
    cluster.ray_exec("raygion scale factbook --replicas 3")
    held = wait_until(
        lambda: [m for m in cluster.holding().values() if m["replicas"].get("factbook") == 2],
        "two replicas on a machine",
    )
    wait_until(
        lambda: [m["replicas"].get("factbook") for m in cluster.holding().values()] == [2, 2, 2],
        "one of each shard on every machine",
    )
    assert held


def test_ray_down_leaves_nothing(cluster: Cluster) -> None:
    cluster.on_laptop("ray down --yes cluster-local.yaml")
    wait_until(lambda: not cluster.head.processes(), "the head to be empty", 30)
    wait_until(lambda: not cluster.remains(), "all machines to be empty", GONE_WITHIN_S)


def test_one_worker_alone_joins_and_a_slip_in_the_settings_leaves_the_region_to_ray_down(
    tmp_path: Path,
) -> None:
    with clusters(tmp_path, "w1") as cluster:
        cluster.on_laptop("ray up --yes cluster-local.yaml")
        wait_until(lambda: len(cluster.holding()) == 2, "both machines")
        settings = cluster.laptop.home / CHECKOUT / "regions.yaml"
        settings.write_text(settings.read_text() + "\nslip: 1\n")
        told = cluster.on_laptop("ray up --yes cluster-local.yaml").stdout
        assert "slip: unknown key" in told
        assert "goes on as it was started" in told
        assert cluster.head.pids("raylet")["raylet"]
        cluster.on_laptop("ray down --yes cluster-local.yaml")
        wait_until(lambda: not cluster.remains(), "both machines to be empty", GONE_WITHIN_S)


def test_the_embedder_is_the_one_that_the_load_makes_vectors_for() -> None:
    assert (STARTER_EMBEDDER, DIMENSION) == ("all-MiniLM-L6-v2", 384)
