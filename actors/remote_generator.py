"""The generator of a region that runs none: that of the same release in another region."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from cluster.clock import Deadline
from cluster.errors import InvalidArgument, RaygionError, Unavailable
from cluster.generation import GenerationChunk, GenerationRequest, of_whole
from cluster.region_peers import GeneratingPeers

logger = logging.getLogger(__name__)


class RemoteGenerator:
    """Implements `cluster.generation.Generator` over the regions that generate.

    Those that may have the corpus whose passages stand in the prompt are asked one after the other,
    nearest first, until one answers. When a region breaks off,
    the next one goes on from the last piece that came; where the answer cannot be gone on with, the
    error ends the stream. Closing or cancelling the iterator stops the generation over there.
    """

    def __init__(self, peers: GeneratingPeers, release: int, corpus: str | None) -> None:
        """`corpus`: None where the prompt has no passages. Raises InvalidArgument when the corpus
        may be in no region that generates, Unavailable when no other region generates at all.
        """
        self._peers = peers
        self._release = release
        self._regions = peers.generators(corpus)
        if not self._regions and peers.generators(None):
            raise InvalidArgument(
                f"its passages may not leave its regions, none of which has a language model "
                f"(corpora.{corpus}.regions): only search is served",
                "corpus",
            )
        if not self._regions:
            raise Unavailable("no other region has a language model")

    async def stream(
        self, request: GenerationRequest, deadline: Deadline
    ) -> AsyncGenerator[GenerationChunk, None]:
        text, written = "", 0
        last_error: RaygionError | None = None
        for region in self._regions:
            rest = replace(
                request, begun=request.begun + text, max_tokens=request.max_tokens - written
            )
            before = written
            pieces = self._peers.generate(region, self._release, rest, deadline)
            try:
                async with aclosing(pieces):
                    async for piece in pieces:
                        chunk = of_whole(piece, before)
                        text += chunk.text
                        written = chunk.completion_tokens or written
                        yield chunk
                return
            except RaygionError as error:
                # Without a count of what was written nobody could go on and keep to `max_tokens`.
                lost = text and not 0 < written < request.max_tokens
                if not error.retryable or lost or deadline.expired():
                    raise
                last_error = error
                logger.warning(
                    "generation %s leaves region %s: %s", request.request_id, region, error
                )
        assert last_error is not None, "some region has been asked"
        raise last_error
