"""CPU time of a region's processes, by their roles."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import psutil

_ROLES = (
    ("haproxy", "HAProxy"),
    ("gateway", "gateway"),
    ("ShardReplica", "shard replicas"),
    ("EmbeddingWorker", "embedder"),
    ("generator", "generator"),
    ("EngineCore", "vLLM's engine"),
)
OTHERS = "Ray and the rest"


def cpu_by_process(pids: Iterable[int]) -> dict[int, tuple[str, float]]:
    """The role and the CPU seconds so far of each process that still runs, by pid."""
    found = {}
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            # Ray writes the class of an actor into the title of its process.
            title = " ".join(process.cmdline()[:1])
            role = next((role for part, role in _ROLES if part in title), OTHERS)
            times = process.cpu_times()
            found[pid] = (role, times.user + times.system)
    return found


def cpu_between(
    before: dict[int, tuple[str, float]], after: dict[int, tuple[str, float]]
) -> dict[str, float]:
    """CPU seconds of each role; processes that came or went in between are left out."""
    used: dict[str, float] = {}
    for pid, (role, cpu_s) in after.items():
        if pid in before:
            used[role] = used.get(role, 0.0) + cpu_s - before[pid][1]
    return used
