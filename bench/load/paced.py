"""An open-loop client: requests leave at their times, whether or not the earlier ones are answered.

A latency counts from the moment at which the request should have left, so that a server that stops
for a second is charged for all that would have come in it ("coordinated omission", Tene). Like
`bench.load.client`, it imports nothing heavy.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import uvloop

from bench.load.client import LoadFailed, quantile_of, response_length

_REPLY_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Requests of one kind, so many a second, taken in turn."""

    requests: Sequence[bytes]
    per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PacedLoad:
    host: str
    port: int
    paces: Mapping[str, Pace]
    """Each kind of request by its name; all of them run beside each other."""
    warm_up_s: float
    window_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PacedReport:
    """Latencies of one kind, ascending."""

    latencies_s: list[float]

    def latency_s(self, quantile: float) -> float:
        return quantile_of(self.latencies_s, quantile)


def run_paced(load: PacedLoad) -> dict[str, PacedReport]:
    """Raises LoadFailed at the first request that is refused or not answered."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(load))


async def _run(load: PacedLoad) -> dict[str, PacedReport]:
    pools = {kind: _Connections(load.host, load.port) for kind in load.paces}
    begin_s = time.perf_counter() + 0.05
    try:
        async with asyncio.TaskGroup() as kinds:
            tasks = {
                kind: kinds.create_task(_one_kind(pace, pools[kind], load, begin_s))
                for kind, pace in load.paces.items()
            }
    except BaseExceptionGroup as failed:
        raise _first(failed) from None
    finally:
        for pool in pools.values():
            pool.close()
    return {kind: PacedReport(latencies_s=sorted(task.result())) for kind, task in tasks.items()}


def _first(failed: BaseException) -> BaseException:
    while isinstance(failed, BaseExceptionGroup):
        failed = failed.exceptions[0]
    return failed


async def _one_kind(
    pace: Pace, connections: _Connections, load: PacedLoad, begin_s: float
) -> list[float]:
    number = int((load.warm_up_s + load.window_s) * pace.per_s)
    counted_from_s = begin_s + load.warm_up_s
    latencies_s: list[float] = []

    async def ask(request: bytes, due_s: float) -> None:
        await connections.answered(request)
        if due_s >= counted_from_s:
            latencies_s.append(time.perf_counter() - due_s)

    async with asyncio.TaskGroup() as asked:
        for n in range(number):
            due_s = begin_s + n / pace.per_s
            await asyncio.sleep(due_s - time.perf_counter())
            asked.create_task(ask(pace.requests[n % len(pace.requests)], due_s))
    return latencies_s


@dataclass(slots=True)
class _Connections:
    """Connections that stay open, as many as requests are under way at once."""

    host: str
    port: int
    _idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=deque)

    async def answered(self, request: bytes) -> None:
        connection = self._idle.pop() if self._idle else await self._opened()
        try:
            async with asyncio.timeout(_REPLY_TIMEOUT_S):
                await _exchange(*connection, request)
        except BaseException as error:
            connection[1].close()
            if isinstance(error, OSError | EOFError | TimeoutError):
                raise LoadFailed(f"no reply: {error!r}") from error
            raise
        self._idle.append(connection)

    async def _opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port, limit=1 << 24)

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> None:
    writer.write(request)
    reply = await reader.readuntil(b"\r\n\r\n")
    length = response_length(reply)
    assert length is not None, "the headers are complete"
    body = await reader.readexactly(length - len(reply))
    if not reply.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201")):
        raise LoadFailed((reply + body)[:400].decode(errors="replace"))
