"""Processes found by a mark in their environment, and ended by it.

A child inherits the environment of its parent, whatever group, session or title it takes, and also
when its parent is gone. So a random mark put into the first process finds exactly its descendants:
no pid that was handed out anew, no process of another cluster, none of a like name.
"""

from __future__ import annotations

import os
import time

import psutil

from cluster.errors import Unavailable

MARKER_VARIABLE = "RAYGION_CLUSTER_MARKER"
# A whole cluster ends within 3 s of being asked. Agents that lost their raylet do not end at all.
_GRACE_S_MAX = 5.0


def is_marked(pid: int, marker: str) -> bool:
    """Whether process `pid` runs, and does not just wait to be reaped, and carries `marker`."""
    try:
        return psutil.Process(pid).environ().get(MARKER_VARIABLE) == marker
    except (psutil.Error, OSError):
        # Gone, a zombie, or of another user: in each case none of ours that still runs.
        return False


def marked_processes(marker: str) -> list[psutil.Process]:
    """All running processes that carry `marker`, by pid, without the one that asks."""
    return [
        process
        for process in psutil.process_iter()
        if process.pid != os.getpid() and is_marked(process.pid, marker)
    ]


def end_marked_processes(marker: str, *, timeout_s: float) -> list[int]:
    """Ends every process that carries `marker` and returns their pids.

    They are asked (SIGTERM) first and killed after a grace. Looks again until none is left, since a
    process that is being ended may still start another. Fails with Unavailable when one outlives
    the time.
    """
    started_s = time.monotonic()
    grace_s = min(_GRACE_S_MAX, timeout_s / 2)
    seen: set[int] = set()
    asked: set[psutil.Process] = set()
    while running := marked_processes(marker):
        spent_s = time.monotonic() - started_s
        if spent_s > timeout_s:
            pids = ", ".join(str(process.pid) for process in running)
            raise Unavailable(f"processes {pids} do not end, even when killed")
        for process in running:
            seen.add(process.pid)
            try:
                if spent_s > grace_s:
                    process.kill()
                elif process not in asked:
                    asked.add(process)
                    process.terminate()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(running, timeout=0.1)
    return sorted(seen)
