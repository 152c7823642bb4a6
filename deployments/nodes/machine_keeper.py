"""Holds the processes of one Ray node together: starts Ray, waits until it ends, ends the rest.

    python -m deployments.nodes.machine_keeper ray start ...

Ray leaves processes behind when a node loses its cluster or is stopped: log monitors, agents, the
HAProxy of Serve, helpers of language models. All of them inherit the mark in this process's
environment, and go with the node. The node itself ends when its raylet does, or, on the head, its
control store: a raylet ends within about a minute after it has lost the control store. Where its
state outlives it (`deployments.nodes.gcs_storage`) the control store is started again instead.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import psutil

from cluster.clock import SYSTEM_CLOCK
from deployments.nodes.autoscaler_watch import AutoscalerWatch, state_file
from deployments.nodes.gcs_storage import REDIS_VARIABLE, ControlStore
from deployments.nodes.marked_processes import (
    MARKER_VARIABLE,
    end_marked_processes,
    is_marked,
    marked_processes,
)

_RAYLET, _GCS = "raylet", "gcs_server"
_VITAL = (_RAYLET, _GCS)
"""Processes of a living node; the control store may be missing where its state is elsewhere."""
_LOOK_S = 1.0
_WATCH_EVERY = 10
"""Looks from one to the next at the autoscaler, which takes a look at all processes."""
_END_TIMEOUT_S = 30.0
_RAY_FOLDER = Path("/tmp/ray")
"""Folder in which the autoscaler keeps its state, whatever `--temp-dir` says."""


COMMAND = (sys.executable, "-m", __name__)
"""Goes before the command that starts Ray."""


def keep(marker: str, command: list[str]) -> int:
    """Returns the status of `command` once the node is gone and nothing of it runs any more."""
    status = subprocess.call(command)
    vital = _vital_processes(marker) if status == 0 else {}
    print(f"Watching over {', '.join(sorted(vital)) or 'nothing'}", flush=True)
    control_store = None
    if REDIS_VARIABLE in os.environ and _GCS in vital:
        control_store = ControlStore(vital.pop(_GCS))
    state = state_file(command, _RAY_FOLDER) if vital else None
    watch = None if state is None else AutoscalerWatch(marker, state)
    for number in itertools.count():
        if not vital or not all(is_marked(process.pid, marker) for process in vital.values()):
            break
        if control_store is not None:
            control_store.keep_running()
        if watch is not None and number % _WATCH_EVERY == 0:
            watch.look(SYSTEM_CLOCK.monotonic_s())
        SYSTEM_CLOCK.sleep(_LOOK_S)
    end_marked_processes(marker, timeout_s=_END_TIMEOUT_S)
    return status


def _vital_processes(marker: str) -> dict[str, psutil.Process]:
    """The processes by their names.

    A child bears the name of its parent until it becomes another program, and so does each worker
    that a raylet starts: only a process whose parent has another name is the one that is meant.
    """
    found: dict[str, psutil.Process] = {}
    for process in marked_processes(marker):
        try:
            name = process.name()
            parent = process.parent()
            if name in _VITAL and (parent is None or parent.name() != name):
                found[name] = process
        except psutil.Error:
            continue
    return found


def main() -> NoReturn:
    sys.exit(keep(os.environ[MARKER_VARIABLE], sys.argv[1:]))


if __name__ == "__main__":
    main()
