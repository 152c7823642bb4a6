"""A control store (Ray's GCS) that may die, since its state is in Redis.

By default Ray keeps the state in memory, and the whole cluster ends with the control store. With
Redis, one that is started again reads it there; the processes of the cluster wait a minute for it,
and go on serving meanwhile. Each start of a cluster has a namespace of its own: the region's truth
is in its own store, so a new cluster takes up nothing from an old one.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import suppress

import psutil

from cluster.errors import InvalidArgument, Unavailable

REDIS_VARIABLE = "RAY_REDIS_ADDRESS"
_NAMESPACE_VARIABLE = "RAY_external_storage_namespace"
_FORGET_TIMEOUT_S = 20.0
_PING_TIMEOUT_S = 5.0
# In a process of its own: Ray ends the one that calls it when Redis does not answer.
_FORGET = """
import sys
from actors.runtime.ray_private import cleanup_redis_storage
host, _, port = sys.argv[1].rpartition(":")
cleanup_redis_storage(host, int(port), "", False, sys.argv[2])
"""


def storage_env(redis: str | None, marker: str) -> dict[str, str]:
    """The variables for the environment of `ray start` on the head; `redis`: host and port."""
    if redis is None:
        return {}
    return {REDIS_VARIABLE: redis, _NAMESPACE_VARIABLE: _namespace(marker)}


def check_redis(redis: str) -> None:
    """`redis`: host and port. Raises Unavailable when nothing answers there, and InvalidArgument
    when it is no Redis, or one that asks for a password.
    """
    host, _, port = redis.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=_PING_TIMEOUT_S) as connection:
            connection.sendall(b"PING\r\n")
            reply = connection.recv(256)
    except OSError as error:
        raise Unavailable(f"gcs_redis: {redis} does not answer: {error}") from error
    if not reply.startswith(b"+PONG"):
        text = reply.decode(errors="replace").strip()
        raise InvalidArgument(f"{redis} is no Redis that takes commands: {text!r}", "gcs_redis")


def remove_cluster_state(redis: str, marker: str) -> None:
    """Removes what the cluster that carried `marker` left in Redis, if that answers."""
    command = [sys.executable, "-c", _FORGET, redis, _namespace(marker)]
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(command, capture_output=True, timeout=_FORGET_TIMEOUT_S, check=False)


def _namespace(marker: str) -> str:
    return f"raygion-{marker}"


class ControlStore:
    """The process of a control store whose state outlives it."""

    def __init__(self, process: psutil.Process) -> None:
        self._command = process.cmdline()
        self._environment = process.environ()
        self._folder = process.cwd()
        self._process: psutil.Process | psutil.Popen = process

    def keep_running(self) -> None:
        """Starts the process again, in the same way, when it has died. Call this from time to
        time.
        """
        with suppress(psutil.NoSuchProcess):
            if self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE:
                return
        self._process = psutil.Popen(
            self._command,
            env=self._environment,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
