"""The generator of a region without a language model: that of the same release elsewhere."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial

from cluster.clock import Deadline
from cluster.errors import InvalidArgument, Unavailable
from cluster.generation.generator import GenerationChunk, GenerationRequest
from cluster.generation.resuming import resumed
from cluster.regions.peers import GeneratingPeers


class RemoteGenerator:
    """Implements `cluster.generation.generator.Generator` over the regions that generate.

    Those that may have the corpus whose passages stand in the prompt are asked one after the other,
    nearest first, until one answers. When a region breaks off, the next one resumes the answer
    (`cluster.generation.resuming`). Closing or cancelling the iterator stops the generation over
    there.
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
                f"the passages of {corpus!r} may not leave its regions (corpora.{corpus}.regions), "
                "and none of these has a language model: only search is served",
                "corpus",
            )
        if not self._regions:
            raise Unavailable("no other region has a language model")

    def stream(
        self, request: GenerationRequest, deadline: Deadline
    ) -> AsyncGenerator[GenerationChunk, None]:
        return resumed(
            (partial(self._peers.generate, region, self._release) for region in self._regions),
            request,
            deadline,
            may_resume=lambda error: error.retryable,
        )
