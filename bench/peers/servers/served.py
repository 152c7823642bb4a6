"""Systems behind a socket: one load generator asks them all with requests made beforehand."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bench.load.client import HttpWire, Load, LoadFailed, LoadGenerator, LoadReport, Wire, run_load
from bench.peers.contract import SERVER_CASES, Case
from bench.peers.vector_sets import TOP_K
from bench.search.in_process import in_batches
from cluster.arrays import Float32Array, Int64Array

_GOOD_ANSWERS = 40
_SETTLE_TIMEOUT_S = 60.0
LOOPBACK = "127.0.0.1"
_BATCH = 64
_REPLY_TIMEOUT_S = 900.0
"""Long enough to build an index."""


class Dialect(Protocol):
    """How one way to ask a server looks on the connection."""

    def wire(self, ef_search: int) -> Wire: ...

    def request(self, vectors: Float32Array, ef_search: int) -> bytes: ...

    def rows(self, reply: bytes, num_queries: int) -> list[list[int]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that runs."""

    title: str
    index: str
    host: str
    port: int
    build_s: float
    is_tuned: bool
    dialects: dict[str, Dialect]
    pids: Callable[[], Sequence[int]]
    """Its processes; their descendants need not be named."""
    on_effort: Callable[[int], None] = lambda _: None


class ServedSystem:
    """A server as a System. Needs a LoadGenerator that outlives it."""

    def __init__(self, server: Server, load: LoadGenerator) -> None:
        self._server = server
        self._load = load
        self._effort = 0
        self.title = server.title
        self.index = server.index
        self.build_s = server.build_s
        self.is_tuned = server.is_tuned
        self.forms = tuple(server.dialects)
        self.cases = SERVER_CASES

    def set_effort(self, ef_search: int) -> None:
        self._effort = ef_search
        self._server.on_effort(ef_search)

    def rows(self, form: str, queries: Float32Array) -> Int64Array:
        dialect = self._server.dialects[form]
        found: list[list[int]] = []
        server = self._server
        with connected(server.host, server.port, dialect.wire(self._effort)) as ask:
            for start in range(0, len(queries), _BATCH):
                batch = queries[start : start + _BATCH]
                reply = ask(dialect.request(batch, self._effort))
                found += dialect.rows(reply, len(batch))
        return np.array([(row + [-1] * TOP_K)[:TOP_K] for row in found], dtype=np.int64)

    def run(
        self, form: str, case: Case, queries: Float32Array, warm_up_s: float, window_s: float
    ) -> LoadReport:
        dialect = self._server.dialects[form]
        load = Load(
            host=self._server.host,
            port=self._server.port,
            requests=[dialect.request(b, self._effort) for b in in_batches(queries, case.batch)],
            clients=case.clients,
            warm_up_s=warm_up_s,
            window_s=window_s,
            wire=dialect.wire(self._effort),
            server_pids=tuple(self._server.pids()),
        )
        return self._load.run(run_load, load)


@contextmanager
def connected(host: str, port: int, wire: Wire) -> Iterator[Callable[[bytes], bytes]]:
    """A connection that is past its greetings: gives the reply to each request."""
    with closing(socket.create_connection((host, port), timeout=_REPLY_TIMEOUT_S)) as connection:

        def ask(request: bytes) -> bytes:
            return exchange(connection, wire, request)

        for greeting in wire.hello:
            ask(greeting)
        yield ask


def exchange(connection: socket.socket, wire: Wire, request: bytes) -> bytes:
    """The whole reply to one request. Raises LoadFailed when it is refused."""
    connection.sendall(request)
    received = bytearray()
    length = None
    while length is None or len(received) < length:
        data = connection.recv(1 << 20)
        if not data:
            raise LoadFailed(f"the connection was closed after {bytes(received[:400])!r}")
        received += data
        length = length or wire.reply_length(received)
    if wire.refuses(received):
        raise LoadFailed(bytes(received[:1000]).decode(errors="replace"))
    return bytes(received)


def http_call(port: int, request: bytes) -> bytes:
    """The body of the reply to one request on a connection of its own."""
    with connected(LOOPBACK, port, HttpWire()) as ask:
        return body_of(ask(request))


def wait_until_settled(port: int, request: bytes) -> None:
    """HAProxy is started anew while replicas come up, and cuts connections: one good answer means
    little, many in a row do."""
    good = 0

    def is_settled() -> bool:
        nonlocal good
        try:
            http_call(port, request)
            good += 1
        except (OSError, LoadFailed):
            good = 0
        return good >= _GOOD_ANSWERS

    wait_for(is_settled, "Ray Serve", _SETTLE_TIMEOUT_S)


def body_of(reply: bytes) -> bytes:
    return reply.partition(b"\r\n\r\n")[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(is_ready: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Returns when `is_ready` is true; raises TimeoutError after the time."""
    deadline_s = time.monotonic() + timeout_s
    while not is_ready():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{what} is not ready after {timeout_s:g} s")
        time.sleep(0.05)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0
