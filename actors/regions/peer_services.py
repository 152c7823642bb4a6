"""The services of a region for the other regions, over its internal routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import cast

from actors.query.release_uses import ReleaseUses
from actors.runtime.calls import Actor
from cluster.clock import Deadline
from cluster.errors import DeadlineExceeded, NotYet, Unavailable
from cluster.generation.generator import GenerationChunk, GenerationRequest
from cluster.mutations.requests import DocumentsPosition
from cluster.mutations.watermark import Watermark
from cluster.search.checks import check_generation
from cluster.serving.generators import GeneratorDirectory
from cluster.serving.view import RegionView

_NUDGE_TIMEOUT_S = 2.0


class RegionPeerServices:
    """`cluster.regions.peers.PeerServices` over the generators of the resident releases, and the
    actors of the region.
    """

    def __init__(
        self,
        view: Callable[[], RegionView],
        uses: ReleaseUses,
        directory: GeneratorDirectory,
        coordinator: Actor,
        documents: Actor,
    ) -> None:
        self._view = view
        self._uses = uses
        self._directory = directory
        self._coordinator = coordinator
        self._documents = documents

    async def generate(
        self, release: int, request: GenerationRequest, deadline: Deadline
    ) -> AsyncGenerator[GenerationChunk, None]:
        """Raises InvalidArgument for a request out of bounds, NotYet when the release is not
        resident here, Unavailable when its model does not run here: what came from another region
        is not sent on to a third one.
        """
        check_generation(request)
        view = self._view()
        resident = view.releases.get(release)
        if resident is None:
            raise NotYet(f"release {release} is not resident in region {view.region!r}")
        if resident.generator is None or resident.generator.application is None:
            raise Unavailable(f"region {view.region!r} runs no language model")
        chunks = self._directory.generator(resident, None).stream(request, deadline)
        with self._uses.during(release):
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk

    async def nudge(self) -> None:
        try:
            async with asyncio.timeout(_NUDGE_TIMEOUT_S):
                await self._coordinator.call("nudge")
        except TimeoutError:
            raise DeadlineExceeded("the coordinator did not answer in time") from None

    async def reached(
        self, corpus: str, watermark: Watermark, deadline: Deadline
    ) -> DocumentsPosition:
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                found = await self._documents.call(
                    "await_visible", corpus, watermark, deadline.remaining_s()
                )
        except TimeoutError:
            raise DeadlineExceeded("the logs were not read so far in time") from None
        return cast(DocumentsPosition, found)
