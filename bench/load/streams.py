"""A lean client for streamed answers: when the first token came, and how many came in all."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.load.client import LoadFailed

_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How one answer came."""

    first_token_s: float
    took_s: float
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersReport:
    answers: tuple[Answer, ...]
    took_s: float
    """Time from the first request to the last token of all clients."""

    @property
    def tokens_per_s(self) -> float:
        return sum(answer.answer_tokens for answer in self.answers) / self.took_s

    @property
    def first_token_s(self) -> float:
        """The median time to the first token."""
        waits = sorted(answer.first_token_s for answer in self.answers)
        return waits[len(waits) // 2]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLoad:
    """Clients that ask their own questions, one after another."""

    host: str
    port: int
    path: str
    bodies: Sequence[Sequence[bytes]]
    """Bodies that each client posts."""


def run_streams(load: StreamLoad) -> AnswersReport:
    """Raises LoadFailed when an answer is refused or breaks off."""
    return asyncio.run(_run(load))


async def _run(load: StreamLoad) -> AnswersReport:
    started_s = time.perf_counter()

    async def client(bodies: Sequence[bytes]) -> list[Answer]:
        return [await _ask(load, body) for body in bodies]

    async with asyncio.timeout(_TIMEOUT_S), asyncio.TaskGroup() as group:
        clients = [group.create_task(client(bodies)) for bodies in load.bodies]
    took_s = time.perf_counter() - started_s
    return AnswersReport(answers=tuple(a for c in clients for a in c.result()), took_s=took_s)


async def _ask(load: StreamLoad, body: bytes) -> Answer:
    reader, writer = await asyncio.open_connection(load.host, load.port, limit=2**22)
    started_s = time.perf_counter()
    head = f"POST {load.path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    first_s: float | None = None
    usage: dict[str, int] | None = None
    try:
        status = await reader.readuntil(b"\r\n\r\n")
        if not status.startswith(b"HTTP/1.1 200"):
            raise LoadFailed((status + await reader.read(400)).decode(errors="replace"))
        async for event in _events(reader):
            if "error" in event:
                raise LoadFailed(f"an answer broke off: {event['error']}")
            if first_s is None and has_text(event):
                first_s = time.perf_counter() - started_s
            usage = event.get("usage") or usage
    finally:
        writer.close()
    took_s = time.perf_counter() - started_s
    if first_s is None or usage is None:
        raise LoadFailed("an answer came without a token or without its usage")
    return Answer(
        first_token_s=first_s,
        took_s=took_s,
        prompt_tokens=usage["prompt_tokens"],
        answer_tokens=usage["completion_tokens"],
    )


def has_text(event: dict[str, Any]) -> bool:
    """True when an event of either interface brings a token: `token` of /v1/answer, or a chunk."""
    if event.get("text"):
        return True
    return any(choice["delta"].get("content") for choice in event.get("choices", ()))


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each server-sent event, as soon as it is there."""
    buffer = b""
    async for piece in _chunks(reader):
        buffer += piece
        *complete, buffer = buffer.split(b"\n\n")
        for event in complete:
            data = next((x[5:] for x in event.splitlines() if x.startswith(b"data:")), b"").strip()
            if data and data != b"[DONE]":
                yield json.loads(data)


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The body of a response with chunked transfer coding."""
    while (size := int(await reader.readuntil(b"\r\n"), 16)) > 0:
        yield await reader.readexactly(size)
        await reader.readexactly(2)
