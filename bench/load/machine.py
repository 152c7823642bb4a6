"""The work of the whole machine. Standard library only: peers' environments import it, too."""

from __future__ import annotations

import os
from pathlib import Path

_WORKING = (0, 1, 2, 5, 6)
"""Columns of /proc/stat that count work: user, nice, system, irq, softirq."""


def machine_cpu_s() -> float:
    """CPU seconds that all processes have used since the machine started."""
    ticks = Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    return sum(int(ticks[column]) for column in _WORKING) / os.sysconf("SC_CLK_TCK")
