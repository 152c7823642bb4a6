"""`--watch`: a region is brought up again whenever it has died, and a machine joins again.

A region dies as a whole: with its control store (unless that keeps its state in Redis), with the
raylet of its head, or with its machine, whose service manager then starts the watch. Its store has
all that it needs to come back. The other machines lose it, and join what comes in its place.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cluster.clock import SYSTEM_CLOCK
from deployments.installation import Installation
from deployments.nodes.local_cluster import find_local_cluster
from deployments.nodes.machine import find_machine

_END_S = 30.0
"""Time for a command that is told to end, in which it ends the cluster that it started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchTimes:
    """How often a watch looks, and how long it waits."""

    look_s: float = 0.5
    """From one look at what was started to the next."""
    retry_s: float = 2.0
    """From a start that failed to the next one."""
    notice_s: float = 10.0
    """Time for a command to notice that what it started has died, and to say why."""


_TIMES = WatchTimes()


class RunState(StrEnum):
    """The state of what was started on this machine: a region, or its part of one."""

    UP = "up"
    DIED = "died"
    ENDED = "ended"
    """Because somebody wanted it so."""


def run_state_of(installation: Installation, *, one_of_several: bool) -> RunState:
    """State of the region on this machine, or of the machine's part of it where `one_of_several`
    machines make up its cluster.
    """
    found = find_machine() if one_of_several else find_local_cluster(installation.run_folder)
    if found is None or found.was_stopped:
        return RunState.ENDED
    return RunState.UP if found.is_alive() else RunState.DIED


def keep_up(
    bring_up: Callable[[], int],
    run_state: Callable[[], RunState],
    note: Callable[[], None],
    times: WatchTimes = _TIMES,
) -> int:
    """Calls `bring_up`, which returns a process's status, and again, after `note`, whenever the
    region has died.

    Returns 0 once the region was ended, or the status with which the first start failed; later ones
    are tried until one goes well.
    """
    if status := bring_up():
        return status
    while True:
        match run_state():
            case RunState.UP:
                SYSTEM_CLOCK.sleep(times.look_s)
            case RunState.ENDED:
                return 0
            case RunState.DIED:
                note()
                while bring_up():
                    SYSTEM_CLOCK.sleep(times.retry_s)


def run_while_it_lives(
    command: Sequence[str], run_state: Callable[[], RunState], times: WatchTimes = _TIMES
) -> int:
    """Runs `command`, which brings the region up, in a process of its own: what a process has
    imported of Ray belongs to one cluster. Returns its status.

    A region that dies meanwhile takes the command with it, which would wait for minutes for what
    that region was to answer; but not before the command has had time to notice it by itself.
    """
    # Standard error of this process may have been moved from descriptor 2.
    process = subprocess.Popen(command, stderr=sys.stderr)
    try:
        was_up, dead_s = False, 0.0
        while (status := _status_within(process, times.look_s)) is None:
            found = run_state()
            was_up = was_up or found is RunState.UP
            dead_s = dead_s + times.look_s if was_up and found is RunState.DIED else 0.0
            if dead_s > times.notice_s:
                return _end(process)
        return status
    except BaseException:
        # The watch was told to end; what it started must not go on without it.
        _end(process)
        raise


def _status_within(process: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None


def _end(process: subprocess.Popen[bytes]) -> int:
    process.terminate()
    if (status := _status_within(process, _END_S)) is None:
        process.kill()
        status = process.wait()
    return status
