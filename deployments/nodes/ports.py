"""The TCP ports of one local cluster, so that several live side by side on one machine.

A cluster takes one aligned block of ports below the range from which the kernel hands out ports for
outgoing connections. Ray's GCS listens on the first port of the block for as long as the cluster
lives, so that listening socket is the claim on the whole block: no lock file can outlive its owner.
Ports that Ray can choose by itself (raylet, agents, workers) are left to the kernel.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection
from dataclasses import dataclass

from cluster.clock import system_rng
from cluster.errors import InvalidArgument, Unavailable

LOOPBACK = "127.0.0.1"
BLOCK_SIZE = 256
_BLOCK_BASES = range(20_224, 32_000, BLOCK_SIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortBlock:
    """The ports of one cluster, all derived from the first one."""

    base: int

    @property
    def gcs(self) -> int:
        return self.base

    @property
    def dashboard(self) -> int:
        return self.base + 1

    @property
    def dashboard_metrics(self) -> int:
        return self.base + 2

    @property
    def haproxy_stats(self) -> int:
        return self.base + 3

    @property
    def haproxy_metrics(self) -> int:
        return self.base + 4

    @property
    def fallback_proxy_http(self) -> int:
        return self.base + 5

    @property
    def fallback_proxy_grpc(self) -> int:
        return self.base + 6

    @property
    def http(self) -> int:
        """Port at which Serve answers when the caller asked for no other."""
        return self.base + 7

    @property
    def replicas_http(self) -> range:
        """One port for each ingress replica. Serve keeps the port of a replica that ended out of
        use for minutes, so there are many more than replicas."""
        return range(self.base + 8, self.base + 168)

    @property
    def replicas_grpc(self) -> range:
        return range(self.base + 168, self.base + BLOCK_SIZE)


def is_port_free(port: int) -> bool:
    """True when this user could listen on `port` of the loopback interface now.

    Raises InvalidArgument when the port is out of range or reserved for the administrator.
    """
    if not 0 < port < 65_536:
        raise InvalidArgument(f"{port} is not a TCP port (1 to 65535)")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Connections that linger from an earlier listener do not count as use of the port, if that
        # listener allowed it: HAProxy does, Ray's GCS does not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except PermissionError as error:
            raise InvalidArgument(f"port {port} needs the rights of an administrator") from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def check_http_port(port: int) -> None:
    """Raises InvalidArgument when this user cannot listen on `port` of the loopback interface."""
    try:
        free = is_port_free(port)
    except InvalidArgument as error:
        raise InvalidArgument(error.message, field="http_port") from error
    if not free:
        raise InvalidArgument(
            f"another program listens on port {port}; choose a free one", field="http_port"
        )


def is_answered(port: int) -> bool:
    """True when somebody listens on `port` of the loopback interface now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def find_port_block(*, avoid: Collection[int] = ()) -> PortBlock:
    """A block whose ports are all free now and hold none of `avoid`.

    Raises Unavailable when every block is taken. The search starts at a random block, so that
    clusters started at one moment rarely meet; the loser's GCS fails to listen and must try again.
    """
    bases = list(_BLOCK_BASES)
    system_rng().shuffle(bases)
    for base in bases:
        ports = range(base, base + BLOCK_SIZE)
        if not any(port in ports for port in avoid) and all(map(is_port_free, ports)):
            return PortBlock(base=base)
    raise Unavailable(
        f"no {BLOCK_SIZE} free ports in a row between {_BLOCK_BASES.start} and {_BLOCK_BASES.stop}"
    )
