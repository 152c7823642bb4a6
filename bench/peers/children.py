"""Processes that a system consists of, ended with all that they started."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from bench.data import ROOT
from bench.peers.contract import NotMeasured

PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
_END_TIMEOUT_S = 10.0
_LOG_BYTES_MAX = 2000


@contextmanager
def child(
    command: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    piped: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, so that Ctrl-C reaches it only through this block's end.

    What it prints goes to `log`; `piped` opens its standard input and output instead.
    `user` is another one to run as, which only root may ask for.
    """
    pipe = subprocess.PIPE if piped else None
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=pipe or subprocess.DEVNULL,
            stdout=pipe or output,
            stderr=output,
            start_new_session=True,
            user=user,
        )
        try:
            yield process
        finally:
            end(process)
            for piped_file in (process.stdin, process.stdout):
                if piped_file is not None:
                    # What was not sent yet has nobody to read it.
                    with suppress(BrokenPipeError):
                        piped_file.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """The process first, then whatever it started and left behind."""
    started: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for signal in (psutil.Process.terminate, psutil.Process.kill):
        # psutil knows a process by its start time as well, so no other one of that pid is hit.
        for left in started:
            with suppress(psutil.NoSuchProcess):
                signal(left)
        _, started = psutil.wait_procs(started, timeout=_END_TIMEOUT_S / 2)


def check_alive(process: subprocess.Popen[bytes], log: Path) -> None:
    """Raises NotMeasured with the end of its log when a process has ended."""
    if process.poll() is not None:
        tail = log.read_bytes()[-_LOG_BYTES_MAX:].decode(errors="replace").strip()
        raise NotMeasured(f"it ended with {process.returncode}: {tail}")
