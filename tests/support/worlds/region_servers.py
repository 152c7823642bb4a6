"""Regions on loopback for tests of how regions speak to each other: real servers, no cluster."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

from actors.regions.http_peers import RegionPeers
from actors.regions.peer_connection import PeerTimeouts
from cluster.clock import Deadline
from cluster.config import Settings
from cluster.errors import RaygionError
from cluster.generation.generator import GenerationChunk, GenerationRequest
from cluster.mutations.requests import DocumentsPosition
from cluster.mutations.watermark import Watermark
from cluster.regions.peers import PeerServices
from deployments.http.settings import HttpSettings
from deployments.http.streams.alive_stream import SILENCE_LIMITS, SilenceLimits
from tests.support.worlds.fake_service import FakeService, app_of, on_loopback

PATIENT = PeerTimeouts(connect_s=30.0)
"""Regions that share one event loop, on a busy machine, are slow to connect."""
WORDS = ("The ", "capital ", "is ", "Reykjavik.")


class FakePeerServices:
    """Writes WORDS, one token each, from where the answer was begun; `breaks_after` so many pieces
    it raises `error`.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[int, GenerationRequest, float]] = []
        self.error: RaygionError | None = None
        self.breaks_after = 0
        self.gate = asyncio.Event()
        """Closed, the second piece waits for it."""
        self.gate.set()
        self.writing = asyncio.Event()
        self.stopped = asyncio.Event()
        self.nudges = 0
        self.reached_asked: list[tuple[str, Watermark, float]] = []
        self.watermark = Watermark()

    async def generate(
        self, release: int, request: GenerationRequest, deadline: Deadline
    ) -> AsyncGenerator[GenerationChunk, None]:
        self.asked.append((release, request, deadline.remaining_s()))
        done = request.begun.count(" ")
        prompt_tokens = 10 + done
        try:
            for number, word in enumerate(WORDS[done:], 1):
                if self.error is not None and number > self.breaks_after:
                    raise self.error
                yield GenerationChunk(text=word, completion_tokens=number)
                self.writing.set()
                await self.gate.wait()
            yield GenerationChunk(
                text="",
                finish_reason="stop",
                prompt_tokens=prompt_tokens,
                completion_tokens=len(WORDS) - done,
            )
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped.set()
            raise

    async def nudge(self) -> None:
        self.nudges += 1

    async def reached(
        self, corpus: str, watermark: Watermark, deadline: Deadline
    ) -> DocumentsPosition:
        """The region reads what it is asked for at once, or (with an `error`) not in time."""
        self.reached_asked.append((corpus, watermark, deadline.remaining_s()))
        if self.error is not None:
            raise self.error
        self.watermark = self.watermark.joined(watermark)
        return DocumentsPosition(epoch="e", version=7, watermark=self.watermark, read_ms=900)


@contextlib.asynccontextmanager
async def serving(
    service: FakeService,
    peer_services: PeerServices | None = None,
    silence: SilenceLimits = SILENCE_LIMITS,
    **settings: Any,
) -> AsyncIterator[str]:
    """The region behind a real server, as a base URL."""
    http = HttpSettings(**settings)
    app = app_of(service, http, peer_services=peer_services or FakePeerServices(), silence=silence)
    async with on_loopback(app) as url:
        yield url


def settings_of(urls: dict[str, str], **others: Any) -> Settings:
    """Regions at those URLs, and `here`, which is asked."""
    regions: dict[str, Any] = {"here": {}} | {name: {"url": url} for name, url in urls.items()}
    return Settings.model_validate({"regions": regions} | others)


@contextlib.asynccontextmanager
async def peers_of(
    settings: Settings, region: str = "here", timeouts: PeerTimeouts = PATIENT
) -> AsyncIterator[RegionPeers]:
    peers = RegionPeers(settings, region, rng=random.Random(3), timeouts=timeouts)
    try:
        yield peers
    finally:
        await peers.aclose()


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """The URL of a port at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
