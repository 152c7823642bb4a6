"""`raygion up --watch`: a region is brought up again whenever it has died.

A region dies as a whole: with its control store (unless that keeps its state in Redis), with the
raylet of its head, or with its machine, whose service manager then starts the watch. Its store has
all that it needs to come back.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from enum import StrEnum

from deployments.installation import Installation
from deployments.local_cluster import find_local_cluster
from deployments.machine import Machine, find_machine

_LOOK_S = 0.5
_RETRY_S = 2.0


class Standing(StrEnum):
    """Of a region that was brought up on this machine."""

    UP = "up"
    DIED = "died"
    ENDED = "ended"
    """Because somebody wanted it so."""


def standing_of(installation: Installation, *, is_head: bool) -> Standing:
    """`is_head`: whether this machine is the head of a cluster that others join."""
    found = find_machine() if is_head else find_local_cluster(installation.run_folder)
    if found is None or (isinstance(found, Machine) and found.was_stopped):
        return Standing.ENDED
    return Standing.UP if found.is_alive() else Standing.DIED


def keep_up(
    command: Sequence[str], standing: Callable[[], Standing], note: Callable[[str], None]
) -> int:
    """Runs `command`, which brings the region up, and again whenever the region has died.

    Each time in a process of its own, since what a process has imported of Ray belongs to one
    cluster. Returns 0 once the region was ended, or the status with which the first start failed;
    later ones are tried until one goes well.
    """
    if status := _run(command):
        return status
    while True:
        match standing():
            case Standing.UP:
                time.sleep(_LOOK_S)
            case Standing.ENDED:
                return 0
            case Standing.DIED:
                note("The region has died; it is brought up again")
                while _run(command):
                    time.sleep(_RETRY_S)


def _run(command: Sequence[str]) -> int:
    # What this process writes to may have been moved from descriptor 2.
    process = subprocess.Popen(command, stderr=sys.stderr)
    try:
        return process.wait()
    except BaseException:
        # The watch was told to end; what it started must not go on without it.
        process.terminate()
        process.wait()
        raise
