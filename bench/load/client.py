"""A lean closed-loop client: each client sends its next request when it has its answer.

It knows just enough HTTP for the servers measured here (keep-alive, bodies with a Content-Length),
and takes other protocols as a `Wire`. It imports nothing heavy, so that it starts fast in a process
of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, ParamSpec, Protocol, Self, TypeVar, cast

import uvloop

from bench.load.machine import machine_cpu_s
from bench.load.processes import cpu_s, pss_bytes, with_descendants

P = ParamSpec("P")
T = TypeVar("T")
_HEADERS_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"


class LoadFailed(Exception):
    """A request was refused or a connection broke, so that the numbers would mean nothing."""


class Wire(Protocol):
    """How requests and replies follow each other on a connection."""

    @property
    def hello(self) -> tuple[bytes, ...]:
        """The messages of a client before its first request, each sent after the reply to the
        last.
        """

    def reply_length(self, received: bytearray) -> int | None:
        """Bytes of the reply at the beginning of `received`; None while that is not known."""

    def refuses(self, reply: bytearray) -> bool:
        """True when a whole reply is anything but the answer."""

    def is_last(self, reply: bytearray) -> bool:
        """True when the reply says that the server closes the connection after it, as HAProxy does
        when it starts anew for another gateway.
        """


@dataclass(frozen=True, slots=True)
class HttpWire:
    @property
    def hello(self) -> tuple[bytes, ...]:
        return ()

    def reply_length(self, received: bytearray) -> int | None:
        return response_length(received)

    def refuses(self, reply: bytearray) -> bool:
        return not reply.startswith(b"HTTP/1.1 20")

    def is_last(self, reply: bytearray) -> bool:
        head = reply[: reply.find(_HEADERS_END) + 2]
        return b"\r\nconnection: close\r\n" in head.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests that clients send in turn, for as long as the window is open."""

    host: str
    port: int
    requests: Sequence[bytes]
    """Whole requests, as `http_request` makes them; the clients take them in turn, again and
    again."""
    clients: int
    warm_up_s: float
    window_s: float
    wire: Wire = HttpWire()
    server_pids: tuple[int, ...] = ()
    """Processes whose CPU time and memory are counted, with their descendants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    latencies_s: list[float]
    """Latencies of the requests that were answered in the window, ascending."""
    window_s: float
    client_cpu_s: float
    """CPU time of the load generator in the window."""
    server_cpu_s: float = 0.0
    """CPU time of the server's processes in the window."""
    machine_cpu_s: float = 0.0
    """CPU time of everybody on this machine in the window."""
    server_pss_bytes: int = 0
    """Their memory at its end, with all clients connected."""

    @property
    def requests_per_s(self) -> float:
        return len(self.latencies_s) / self.window_s

    def latency_s(self, quantile: float) -> float:
        return quantile_of(self.latencies_s, quantile)

    @property
    def mean_s(self) -> float:
        return sum(self.latencies_s) / len(self.latencies_s)

    @property
    def others_cores(self) -> float:
        """Cores that neither server nor load generator had: above 0.1 or so, others worked, too."""
        return (self.machine_cpu_s - self.server_cpu_s - self.client_cpu_s) / self.window_s


def quantile_of(ascending: Sequence[float], quantile: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    index = min(len(ascending) - 1, max(0, -(-len(ascending) * quantile // 1) - 1))
    return ascending[int(index)]


def http_request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = (f"{method} {path} HTTP/1.1", "Host: bench", f"Content-Length: {len(body)}", *headers)
    return "\r\n".join((*lines, "", "")).encode() + body


def json_request(method: str, path: str, content: object) -> bytes:
    """A request as most clients write it: a float32 of an array becomes a Python float, which
    `json.dumps` writes with all of its some 20 digits.
    """
    body = json.dumps(content, default=_as_lists).encode()
    return http_request(method, path, body, "Content-Type: application/json")


def _as_lists(array: Any) -> Any:
    return array.tolist()


def response_length(received: bytes | bytearray) -> int | None:
    """Bytes of the whole response at the beginning of `received`, None while its headers are not
    complete. Raises LoadFailed for a response without Content-Length.
    """
    end = received.find(_HEADERS_END)
    if end < 0:
        return None
    head = bytes(received[:end]).lower()
    at = head.find(_LENGTH)
    if at < 0:
        raise LoadFailed("a response came without a Content-Length")
    value = head[at + len(_LENGTH) :].partition(b"\r\n")[0]
    return end + len(_HEADERS_END) + int(value)


@dataclass(slots=True)
class _Run:
    """The state that the clients of one run share."""

    host: str
    port: int
    wire: Wire
    requests: Iterator[bytes]
    failed: asyncio.Future[None]
    is_open: bool = False
    latencies_s: list[float] = field(default_factory=list)
    clients: list[_Client] = field(default_factory=list)
    returning: set[asyncio.Task[None]] = field(default_factory=set)
    """Tasks of clients that return on another connection, since theirs is closed."""

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _Client(self), self.host, self.port)
        except OSError as error:
            self.fail(f"cannot connect: {error}")

    def fail(self, reason: str) -> None:
        if not self.failed.done():
            self.failed.set_exception(LoadFailed(reason))


class _Client(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._wire = run.wire
        self._hello = list(run.wire.hello)
        self._received = bytearray()
        self._length: int | None = None
        self._sent_s = 0.0
        self._transport: asyncio.Transport | None = None
        self._is_over = False
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)
        if self._run.failed.done():
            # The run is over.
            self.close()
            return
        self._run.clients.append(self)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            if self._length is None:
                self._length = self._wire.reply_length(self._received)
        except LoadFailed as error:
            self._run.fail(str(error))
            return
        if self._length is None or len(self._received) < self._length:
            return
        took_s = time.perf_counter() - self._sent_s
        if self._wire.refuses(self._received):
            self._run.fail(self._received[:400].decode(errors="replace"))
            return
        if self._run.is_open:
            self._run.latencies_s.append(took_s)
        is_last = self._wire.is_last(self._received)
        self._received.clear()
        self._length = None
        if is_last:
            self._is_over = True
            self.close()
            returning = asyncio.create_task(self._run.connect())
            self._run.returning.add(returning)
            returning.add_done_callback(self._run.returning.discard)
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        if not self._is_over:
            self._run.fail(f"the connection broke: {exc}")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _send(self) -> None:
        assert self._transport is not None
        request = self._hello.pop(0) if self._hello else next(self._run.requests)
        self._sent_s = time.perf_counter()
        self._transport.write(request)


def run_load(load: Load) -> LoadReport:
    """Raises LoadFailed at the first request that is refused."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(load))


async def _run(load: Load) -> LoadReport:
    loop = asyncio.get_running_loop()
    run = _Run(
        host=load.host,
        port=load.port,
        wire=load.wire,
        requests=itertools.cycle(load.requests),
        failed=loop.create_future(),
    )
    try:
        for _ in range(load.clients):
            await run.connect()
        await _unless_failed(run, load.warm_up_s)
        # Found before the window: a look at all processes takes milliseconds.
        pids = with_descendants(load.server_pids)
        all_s, server_s, own_s = machine_cpu_s(), cpu_s(pids), time.process_time()
        started_s = time.perf_counter()
        run.is_open = True
        await _unless_failed(run, load.window_s)
        run.is_open = False
        window_s = time.perf_counter() - started_s
        client_cpu_s, server_cpu_s = time.process_time() - own_s, cpu_s(pids) - server_s
        all_s = machine_cpu_s() - all_s
        server_pss_bytes = pss_bytes(pids)
    finally:
        # From here on broken connections are our own doing.
        run.failed.cancel()
        while run.returning:
            await asyncio.gather(*run.returning)
        for client in run.clients:
            client.close()
        for client in run.clients:
            await client.closed.wait()
    if not run.latencies_s:
        raise LoadFailed(f"no request was answered within {load.window_s:g} s")
    return LoadReport(
        latencies_s=sorted(run.latencies_s),
        window_s=window_s,
        client_cpu_s=client_cpu_s,
        server_cpu_s=server_cpu_s,
        machine_cpu_s=all_s,
        server_pss_bytes=server_pss_bytes,
    )


async def _unless_failed(run: _Run, for_s: float) -> None:
    await asyncio.wait([run.failed], timeout=for_s)
    if run.failed.done():
        run.failed.result()


class LoadGenerator:
    """A process of its own for the clients, so that they take no time from what measures."""

    def __enter__(self) -> Self:
        self._pool = ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function of a lean module there, and waits for what it returns."""
        return self._pool.submit(function, *args, **kwargs).result()
