"""Processes found by a mark in their environment, and ended by it.

A child inherits the environment of its parent, whatever group, session or title it takes, and also
when its parent is gone. So a random mark put into the first process finds exactly its descendants:
no pid that was handed out anew, no process of another cluster, none of a like name.

Ray kills the helpers of a worker together with it, so whoever shares memory between processes (vLLM
does) leaves named segments behind that nobody frees. They are noted while their owners still run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

import psutil

from cluster.clock import SYSTEM_CLOCK
from cluster.errors import Unavailable

MARKER_VARIABLE = "RAYGION_CLUSTER_MARKER"
GRACE_S = 5.0
"""Time for processes that are asked to end. A whole cluster needs 3 s of it."""
_SHARED_MEMORY = Path("/dev/shm")
# The names that multiprocessing gives to shared memory and to semaphores.
_SEGMENT_PREFIXES = ("psm_", "sem.mp-")
# The number of the file in a line of /proc/PID/maps. The name is of no use: whoever made a
# semaphore sees the one from before it got its own.
_MAPPED_FILE = re.compile(rf"(\d+) +{_SHARED_MEMORY}/", re.ASCII)


def is_marked(pid: int, marker: str) -> bool:
    """True when process `pid` runs, is no zombie, and carries `marker`."""
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


def title_of(process: psutil.Process) -> str:
    """The title of the process, by default its program; empty when it is gone."""
    try:
        return next(iter(process.cmdline()), "")
    except psutil.Error:
        return ""


def end_marked_processes(marker: str, *, timeout_s: float, grace_s: float = GRACE_S) -> list[int]:
    """Ends every process that carries `marker` and returns their pids.

    They are asked (SIGTERM) first and killed after `grace_s`, at most half of `timeout_s`. Looks
    again until none is left, since a process that is being ended may still start another. Removes
    the shared memory and semaphores of Python's multiprocessing that they held. Raises
    Unavailable when one outlives `timeout_s`.
    """
    started_s = SYSTEM_CLOCK.monotonic_s()
    grace_s = min(grace_s, timeout_s / 2)
    ended: set[int] = set()
    asked: set[psutil.Process] = set()
    files: set[int] = set()
    while running := marked_processes(marker):
        spent_s = SYSTEM_CLOCK.monotonic_s() - started_s
        if spent_s > timeout_s:
            pids = ", ".join(str(process.pid) for process in running)
            raise Unavailable(f"processes {pids} do not end, even when killed")
        files |= _shared_files(running)
        for process in running:
            ended.add(process.pid)
            try:
                if spent_s > grace_s:
                    process.kill()
                elif process not in asked:
                    asked.add(process)
                    process.terminate()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(running, timeout=0.1)
    _remove_segments(files)
    return sorted(ended)


def _shared_files(processes: Iterable[psutil.Process]) -> set[int]:
    files: set[int] = set()
    for process in processes:
        try:
            maps = Path(f"/proc/{process.pid}/maps").read_text()
        except OSError:  # it has just ended
            continue
        files.update(map(int, _MAPPED_FILE.findall(maps)))
    return files


def _remove_segments(files: Collection[int]) -> None:
    if not files:
        return
    with os.scandir(_SHARED_MEMORY) as entries:
        segments = [entry for entry in entries if entry.name.startswith(_SEGMENT_PREFIXES)]
    for segment in segments:
        if segment.inode() in files:
            Path(segment).unlink(missing_ok=True)
