"""The checks of a process before `ray.init` lets it into a cluster that asks for a secret.

Ray itself waits for long when something is wrong, and then says only that it cannot connect. So
this module finds out beforehand what is wrong, as far as that is possible.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from actors.runtime.ray_environment import LOOPBACK_ENV, reread_environment
from cluster.errors import InvalidArgument, Unavailable

_LOOPBACK_HOSTS = ("127.0.0.1", "localhost")
_CONNECT_TIMEOUT_S = 5.0
_TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"


def prepare_to_join(address: str, token_file: str | Path | None) -> None:
    """Sets this process's environment for the cluster at `address` (`host:port`, `auto`).

    `token_file` holds the cluster's secret; None takes the one that Ray's own environment names.
    Raises Unavailable when nobody listens at the address, InvalidArgument when there is no secret.
    """
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        _check_answers(host, int(port))
    os.environ["RAY_AUTH_MODE"] = "token"
    if token_file is not None:
        # An inherited secret would win over the file; the empty one counts as unset.
        os.environ["RAY_AUTH_TOKEN"] = ""
        os.environ[_TOKEN_PATH] = os.fspath(Path(token_file).expanduser().resolve())
    _check_secret(address)
    if host in _LOOPBACK_HOSTS:
        os.environ.update(LOOPBACK_ENV)
    reread_environment()


def not_joined(address: str, error: Exception) -> Unavailable:
    """The error when `ray.init` fails although somebody listens and there is a secret."""
    secret = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else _secret_file()
    return Unavailable(
        f"cannot join the Ray cluster at {address}: {error}\n"
        f"Does it run, and is the secret in {secret} the cluster's?"
    )


def _check_secret(address: str) -> None:
    if not os.environ.get("RAY_AUTH_TOKEN") and not (file := _secret_file()).is_file():
        raise InvalidArgument(
            f"joining the Ray cluster at {address} takes its secret, and there is no file {file}; "
            "set it to the file with the secret",
            _TOKEN_PATH,
        )


def _secret_file() -> Path:
    named = os.environ.get(_TOKEN_PATH)
    return Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"


def _check_answers(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise Unavailable(f"no Ray cluster answers at {host}:{port}: {error}") from error
