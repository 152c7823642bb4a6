"""The other regions, as the serving of this one sees them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from cluster.clock import Deadline
from cluster.generation.generator import GenerationChunk, GenerationRequest
from cluster.mutations.requests import DocumentsPosition
from cluster.mutations.watermark import Watermark
from cluster.query.answers import AnswerEvent, AnswerRequest
from cluster.query.request import Request
from cluster.query.search import SearchRequest, SearchResult


class Peers(Protocol):
    """Asks other regions. A request goes there with what is left of its time and is never forwarded
    again. Raises the errors of `cluster.errors`: those of the other region, and Unavailable or
    DeadlineExceeded where none comes from there.
    """

    def preferred(self, request: Request) -> str:
        """The region that should serve the request before all others; often this one."""
        ...

    def candidates(self, request: Request) -> tuple[str, ...]:
        """The other regions that may serve it, best first."""
        ...

    def holders(self, request: SearchRequest) -> tuple[str, ...]:
        """All regions that may hold the corpus; this one, if it may, is the first."""
        ...

    async def search(
        self, region: str, request: SearchRequest, deadline: Deadline
    ) -> SearchResult: ...

    def answer_events(
        self, region: str, request: AnswerRequest, deadline: Deadline
    ) -> AsyncGenerator[AnswerEvent, None]:
        """Retrieved, then tokens, then the AnswerResult, or an error: never cut silently. Closing
        the iterator stops the work over there.
        """
        ...


class GeneratingPeers(Protocol):
    """The regions that write answers for those that do not."""

    def generators(self, corpus: str | None) -> tuple[str, ...]:
        """The other regions with a language model that may have the corpus whose passages stand in
        the prompt (None: no passages do), best first.
        """
        ...

    def generate(
        self, region: str, release: int, request: GenerationRequest, deadline: Deadline
    ) -> AsyncGenerator[GenerationChunk, None]:
        """The generator of `release` over there, as `cluster.generation.generator.Generator`
        promises.
        """
        ...


class DocumentPeers(Protocol):
    """The regions that follow the changes of documents."""

    def homes(self, corpus: str) -> tuple[str, ...]:
        """All regions that may hold the corpus; this one, if it may, is the first."""
        ...

    async def reached(
        self, region: str, corpus: str, watermark: Watermark, deadline: Deadline
    ) -> DocumentsPosition:
        """`PeerServices.reached` of another region."""
        ...


class PeerServices(Protocol):
    """The services of a region for other regions alone."""

    def generate(
        self, release: int, request: GenerationRequest, deadline: Deadline
    ) -> AsyncGenerator[GenerationChunk, None]:
        """The release's generator, as `cluster.generation.generator.Generator` promises."""
        ...

    async def nudge(self) -> None:
        """The release log may have grown: have it read now."""
        ...

    async def reached(
        self, corpus: str, watermark: Watermark, deadline: Deadline
    ) -> DocumentsPosition:
        """The position of the region's documents once all that the logs have up to the watermark is
        applied, for which they are read at once, and shown by all processes that search. Raises
        NotYet or DeadlineExceeded when it is not in time, NotFound for a corpus that the region
        does not serve.
        """
        ...
