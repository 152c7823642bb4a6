"""A Redis of a test's own."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.support.waiting import wait_until

REDIS = shutil.which("redis-server")
"""Debian's package `redis-server`, where it is installed."""


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[str]:
    """Its host and port; it keeps everything in memory."""
    assert REDIS is not None
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    command = [REDIS, "--bind", "127.0.0.1", "--port", str(port), "--save", "", *options]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        address = f"127.0.0.1:{port}"
        wait_until(lambda: _answers(port), "Redis", 10)
        yield address
    finally:
        process.terminate()
        process.wait()


def redis_says(address: str, command: str) -> str:
    """The reply to a command that a person would type."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"{command}\r\n".encode())
        return connection.recv(65_536).decode()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
