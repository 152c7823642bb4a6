"""CPU time and memory of processes, as the operating system counts them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil


def with_descendants(pids: Iterable[int]) -> tuple[int, ...]:
    """These processes and all that they started, as far as they still run."""
    found: dict[int, None] = {}
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            found.update(dict.fromkeys((pid, *(c.pid for c in process.children(recursive=True)))))
    return tuple(found)


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds so far; processes that are gone count as nothing."""
    total = 0.0
    for pid in pids:
        with suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system
    return total


def pss_bytes(pids: Iterable[int]) -> int:
    """Proportional set size: a page that several processes share is divided between them."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024
