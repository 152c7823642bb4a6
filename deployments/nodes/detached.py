"""Programs that live on without the one that started them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from cluster.clock import wait_until

_EXEC_TIMEOUT_S = 5.0

# Starts argv[1:] as the leader of a session of its own and leaves it to the init process. A child
# of this process would get the terminal's Ctrl-C, and would stay a zombie until it is waited for.
_DETACH = """
import os, sys
log_for_both = [(os.POSIX_SPAWN_DUP2, 1, 2)]
pid = os.posix_spawn(
    sys.argv[1], sys.argv[1:], os.environ, file_actions=log_for_both, setsid=True
)
print(pid, file=sys.stderr)
"""


def spawn_detached(command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> int:
    """Starts `command` apart from this process and its terminal; returns its pid.

    What it prints goes to `log`, which is written anew.
    """
    with log.open("wb") as output:
        launcher = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _DETACH, *command],
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            check=True,
            text=True,
        )
    pid = int(launcher.stderr)
    _wait_for_environment(pid)
    return pid


def _wait_for_environment(pid: int) -> None:
    """Returns when the process shows its environment, by which it is known, or is gone.

    A program that is just being started shows none: on a busy machine, one of twenty that were
    looked at right away.
    """
    with suppress(psutil.Error, OSError):
        wait_until(lambda: psutil.Process(pid).environ(), _EXEC_TIMEOUT_S, poll_s=0.002)
