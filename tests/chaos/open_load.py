"""An open-loop client: requests leave when they are due, whether or not earlier ones were answered.

That is how users behave, and it is what overloads a server: a closed loop slows down with the
server that it measures. Each time is counted from the moment at which the request was due.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import uvloop

from bench.load.client import response_length

_TICK_S = 0.002
_OPENED_AT_ONCE = 64
_DRAIN_S = 15.0
"""How long answers are waited for after the last request has left."""
_JUDGED_EVERY = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoad:
    host: str
    port: int
    requests: Sequence[bytes]
    """Whole requests, sent in turn."""
    rate_per_s: float
    duration_s: float
    connections: int = 0
    """Opened before the load begins, more when they are needed; to open one takes longer than to
    ask."""
    connections_max: int = 2048


@dataclass(frozen=True, slots=True)
class Answered:
    due_s: float
    """Since the load began."""
    took_s: float
    status: int
    """0 when the connection broke, or no answer came in time."""
    has_retry_after: bool
    request: int
    body: bytes
    """Kept of one in twenty, to be judged after the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoadReport:
    answered: list[Answered]
    unsent: int
    """Requests for which no connection was left: the client's own bound, not the server's."""
    ended_s: float
    """When the last request had left, on the machine's monotonic clock."""

    def with_status(self, status: int) -> list[Answered]:
        return [one for one in self.answered if one.status == status]


@dataclass(slots=True)
class _Run:
    load: OpenLoad
    started_s: float = 0.0
    free: list[_Connection] = field(default_factory=list)
    all: set[_Connection] = field(default_factory=set)
    opening: int = 0
    in_flight: int = 0
    unsent: int = 0
    idle: asyncio.Future[None] = field(default_factory=asyncio.Future)
    """Done when nothing more is sent or waited for."""
    is_over: bool = False
    answered: list[Answered] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def done(self, due_s: float, status: int, retry: bool, number: int, body: bytes) -> None:
        self.in_flight -= 1
        if self.is_over and not self.in_flight and not self.idle.done():
            self.idle.set_result(None)
        now_s = time.perf_counter()
        request = number % len(self.load.requests)
        self.answered.append(
            Answered(due_s - self.started_s, now_s - due_s, status, retry, request, body)
        )


class _Connection(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._received = bytearray()
        self._due_s: float | None = None
        self._number = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)

    def send(self, due_s: float) -> None:
        assert self._transport is not None
        self._number, self._due_s = next(self._run.numbers), due_s
        requests = self._run.load.requests
        self._run.in_flight += 1
        self._transport.write(requests[self._number % len(requests)])

    def data_received(self, data: bytes) -> None:
        self._received += data
        length = response_length(self._received)
        if length is None or len(self._received) < length or self._due_s is None:
            return
        head, _, body = bytes(self._received).partition(b"\r\n\r\n")
        kept = body if self._number % _JUDGED_EVERY == 0 else b""
        retry = b"\r\nretry-after:" in head.lower()
        due_s, self._due_s = self._due_s, None
        self._received.clear()
        self._run.done(due_s, int(head[9:12]), retry, self._number, kept)
        if b"\r\nconnection: close" not in head.lower():
            self._run.free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.all.discard(self)
        self._run.free = [one for one in self._run.free if one is not self]
        if self._due_s is not None:
            due_s, self._due_s = self._due_s, None
            self._run.done(due_s, 0, False, self._number, b"")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def run_open_load(load: OpenLoad) -> OpenLoadReport:
    # A collection among all that was answered would be a pause of a tenth of a second.
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(load))
    finally:
        gc.enable()


async def _run(load: OpenLoad) -> OpenLoadReport:
    run = _Run(load)
    for top in range(0, load.connections, _OPENED_AT_ONCE):
        number = min(_OPENED_AT_ONCE, load.connections - top)
        run.free += await asyncio.gather(*(_open(run) for _ in range(number)))
    tasks: set[asyncio.Task[None]] = set()
    sent = 0
    run.started_s = time.perf_counter()
    while (now_s := time.perf_counter() - run.started_s) < load.duration_s:
        while sent < now_s * load.rate_per_s:
            due_s = run.started_s + sent / load.rate_per_s
            sent += 1
            if run.free:
                run.free.pop().send(due_s)
            elif len(run.all) + run.opening < load.connections_max:
                run.opening += 1
                tasks.add(task := asyncio.create_task(_open_and_send(run, due_s)))
                task.add_done_callback(tasks.discard)
            else:
                run.unsent += 1
        await asyncio.sleep(_TICK_S)
    ended_s, run.is_over = time.monotonic(), True
    drained_s = time.perf_counter() + _DRAIN_S
    if tasks:
        await asyncio.wait(tasks, timeout=_DRAIN_S)
    if run.in_flight:
        await asyncio.wait([run.idle], timeout=max(0.0, drained_s - time.perf_counter()))
    # From here on broken connections are our own doing.
    answered = list(run.answered)
    for connection in list(run.all):
        connection.close()
    return OpenLoadReport(answered=answered, unsent=run.unsent, ended_s=ended_s)


async def _open(run: _Run) -> _Connection:
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: _Connection(run), run.load.host, run.load.port
    )
    run.all.add(connection)
    return connection


async def _open_and_send(run: _Run, due_s: float) -> None:
    try:
        connection = await _open(run)
    except OSError:
        run.in_flight += 1
        run.done(due_s, 0, False, next(run.numbers), b"")
        return
    finally:
        run.opening -= 1
    connection.send(due_s)
