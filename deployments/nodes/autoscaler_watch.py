"""Keeps Ray's autoscaler at work on machines of one's own.

The autoscaler (v1) never again starts Ray on a machine on which that has failed once: a machine
that is lost while it joins, or is away for a quarter of an hour, would stay away for good. It
remembers that only as long as its process lives. So it is started anew when it has given a machine
up, and also when it has died.

A machine that it has given up stands in its state file as wanted and not begun with; of one that it
works on the file says how far it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import psutil

from deployments.nodes.detached import spawn_detached
from deployments.nodes.marked_processes import marked_processes

_CONFIG_OPTION = "--autoscaling-config="
_STATE = "cluster-{name}.state"
_PROGRAM = "monitor.py"
_STATUS, _NOT_BEGUN = "ray-node-status", "uninitialized"
_GIVEN_UP_AFTER_S = 30.0
"""The autoscaler begins with a machine that it wants within seconds."""
_REST_S = 120.0
"""Time from one start to the next."""


def given_up(state: bytes) -> frozenset[str]:
    """The machines that a state file names as wanted and not begun with."""
    try:
        machines = json.loads(state)
        return frozenset(
            address
            for address, machine in machines.items()
            if machine["state"] == "running" and machine["tags"].get(_STATUS) == _NOT_BEGUN
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        # Written at this moment, or by another version of Ray.
        return frozenset()


def state_file(command: Sequence[str], ray_folder: Path) -> Path | None:
    """The state file of the autoscaler that `ray start` was told to run; None where that has no
    machines of one's own to look after.
    """
    named = [arg.removeprefix(_CONFIG_OPTION) for arg in command if arg.startswith(_CONFIG_OPTION)]
    if not named:
        return None
    config = json.loads(Path(named[-1]).expanduser().read_text())
    if config["provider"]["type"] != "local":
        return None
    return ray_folder / _STATE.format(name=config["cluster_name"])


class AutoscalerWatch:
    """The watch of the node whose processes carry `marker`. Call `look` from time to time."""

    def __init__(self, marker: str, state: Path) -> None:
        self._marker = marker
        self._state = state
        self._command: list[str] = []
        self._environment: dict[str, str] = {}
        self._since_s: dict[str, float] = {}
        """Time at which each machine that is given up now was first seen given up."""
        self._rests_until_s = 0.0

    def look(self, now_s: float) -> bool:
        """True when the autoscaler was started anew."""
        gone = given_up(self._state.read_bytes()) if self._state.is_file() else frozenset()
        self._since_s = {machine: self._since_s.get(machine, now_s) for machine in gone}
        process = self._find()
        waited_s = max((now_s - since_s for since_s in self._since_s.values()), default=0.0)
        needed = process is None or waited_s >= _GIVEN_UP_AFTER_S
        if not needed or not self._command or now_s < self._rests_until_s:
            return False
        if process is not None:
            process.kill()
            process.wait(timeout=10)
        spawn_detached(self._command, env=self._environment, cwd=Path.home(), log=Path(os.devnull))
        self._since_s, self._rests_until_s = {}, now_s + _REST_S
        return True

    def _find(self) -> psutil.Process | None:
        for process in marked_processes(self._marker):
            try:
                command = process.cmdline()
                if any(Path(part).name == _PROGRAM for part in command):
                    self._command, self._environment = command, process.environ()
                    return process
            except psutil.Error:
                continue
        return None
