"""Two machines of one region without Ray's launcher, each under a watch: what dies comes back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.regions.machines import (
    HOME,
    SHARED,
    Machine,
    copy_checkout,
    give_installation,
    machines,
    missing,
)
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]
CHECKOUT = "raygion"
SETTINGS = f"""
store: {{url: {SHARED}/store}}
regions: {{local: {{}}}}
generator: {{source: null}}
"""
ENTER = (
    f"cd {CHECKOUT} && . .venv/bin/activate && "
    f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={HOME}/auth_token && "
)
START_HEAD = "raygion up --watch -- ray start --head --port=6379 --include-log-monitor=false"
START_WORKER = "raygion join --watch -- ray start --address={address}:6379"
# As a Redis would.
LISTEN = """
import socket
with socket.create_server(("127.0.0.1", 6379)):
    print(flush=True)
    input()
"""
BACK_S, END_S = 240.0, 60.0


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    with machines(tmp_path, ["head", "w1"]) as (_, head, worker):
        for machine in (head, worker):
            copy_checkout(machine, CHECKOUT, {})
            give_installation(machine, CHECKOUT)
            (machine.home / CHECKOUT / "regions.yaml").write_text(SETTINGS)
            (machine.home / "auth_token").write_text(f"{7:064x}")
        yield head, worker


@contextmanager
def started(machine: Machine, command: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(machine.command(ENTER + command), env=machine.env()) as process:
        try:
            yield process
        finally:
            process.kill()


def raygion(machine: Machine, command: str) -> str:
    return machine.run(f"{ENTER} raygion {command}").stdout


def machines_of(head: Machine) -> set[str]:
    """The addresses of the machines that the region counts on; none while it does not answer."""
    told = head.run(f"{ENTER} raygion status --json", check=False)
    held = json.loads(told.stdout)["machines"] if told.returncode == 0 else []
    return {machine["address"] for machine in held}


def test_what_dies_comes_back_with_both_machines_until_it_is_taken_down(
    hosts: tuple[Machine, Machine],
) -> None:
    head, worker = hosts
    both = {machine.address for machine in hosts}
    with ExitStack() as stack:
        of_head = stack.enter_context(started(head, START_HEAD))
        wait_until(lambda: machines_of(head) == {head.address}, "the head", BACK_S)
        join = START_WORKER.format(address=head.address)
        of_worker = stack.enter_context(started(worker, join))
        wait_until(lambda: machines_of(head) == both, "the worker", BACK_S)
        for machine, victim in ((head, "gcs_server"), (head, "raylet"), (worker, "raylet")):
            before = machine.pids(victim)[victim]
            machine.run(f"kill -KILL {before[0]}")
            wait_until(
                lambda m=machine, v=victim, b=before: m.pids(v)[v] not in ([], b), victim, BACK_S
            )
            took_s = wait_until(lambda: machines_of(head) == both, f"all after {victim}", BACK_S)
            print(f"\n{victim} of {machine.name}: all back {took_s:.0f} s after it runs again")
        # Whoever is not told to end stays until its own machine is told.
        raygion(head, "down")
        assert of_head.wait(END_S) == 0
        assert of_worker.poll() is None
        raygion(worker, "down")
        assert of_worker.wait(END_S) == 0
    assert [machine.processes() for machine in hosts] == [[], []]


def test_a_first_start_that_fails_says_why(hosts: tuple[Machine, Machine]) -> None:
    head, _ = hosts
    command = head.on_its_network([sys.executable, "-c", LISTEN])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as blocker:
        assert blocker.stdout is not None
        blocker.stdout.readline()
        failed = head.run(ENTER + START_HEAD, check=False, timeout_s=BACK_S)
        blocker.communicate()
    assert failed.returncode == 1
    assert "6379" in failed.stderr
