"""The values of answering: what a caller asks, the events of a streamed answer, the whole answer.

Both HTTP interfaces (`/v1/answer` and the OpenAI-compatible chat) and the Python client speak in
these values, so there is one way through the code for all of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cluster.errors import Unavailable
from cluster.generation.generator import ChatMessage, Sampling
from cluster.generation.prompt import Truncated, Truncation
from cluster.query.provenance import HasProvenance
from cluster.query.request import Request
from cluster.query.search import EmbeddingResult, SearchRequest, SearchResult

ANSWER_TOP_K_DEFAULT = 3
_PARTIAL_SHARE = 0.25
"""Share of an answer's time in which shards that may be missing are waited for; the language model
needs the rest.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRequest(Request, Sampling):
    question: str
    retrieve: bool = True
    """False asks the plain model, without passages."""
    history: tuple[ChatMessage, ...] = ()
    """Earlier messages of the conversation, oldest first. Those of the role `system` may stand
    anywhere among them.
    """
    top_k: int = ANSWER_TOP_K_DEFAULT
    max_tokens: int = 128
    truncation: Truncation | None = None
    """None cuts with retrieval, and does not for the plain model."""
    timeout_s: float = 60.0

    def prompt_truncation(self) -> Truncation:
        """The treatment of a prompt that does not fit."""
        if self.truncation is not None:
            return self.truncation
        return Truncation.AUTO if self.retrieve else Truncation.DISABLED

    def retrieval(self) -> SearchRequest:
        """The search for the passages to answer from, on the same terms."""
        return SearchRequest(
            **self.terms(),
            queries=(self.question,),
            embedded=self.embedded,
            fields=(),
            partial_share=_PARTIAL_SHARE,
            trace_id=self.trace_id,
            caller=self.caller,
            documents_floor=self.documents_floor,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """A passage that stood in the prompt; the first one is [1] in the answer."""

    id: str
    text: str
    score: float
    title: str | None = None
    """The metadata field `title`, where the passage has one."""


class AnswerOutcome(StrEnum):
    """The way in which an answer came about."""

    ANSWERED = "answered"
    """The language model wrote it."""
    NOTHING_FOUND = "nothing_found"
    """No passage was evidence, and the release's own text is the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved(HasProvenance):
    """First event: what the answer will be made of, and by which release."""

    citations: tuple[Citation, ...]
    model: str
    outcome: AnswerOutcome = AnswerOutcome.ANSWERED
    truncated: Truncated | None = None
    """Parts that the prompt lacks; None if nothing was cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A piece of the answer's text, usually one to a few tokens."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerResult(HasProvenance):
    """The whole answer; also the last event of a streamed one."""

    answer: str
    """The tokens joined, without white space at the ends."""
    citations: tuple[Citation, ...]
    usage: Usage
    finish_reason: str
    """`stop` when the model ended by itself, `length` at `max_tokens`."""
    model: str
    took_ms: float
    outcome: AnswerOutcome = AnswerOutcome.ANSWERED
    truncated: Truncated | None = None


AnswerEvent = Retrieved | Token | AnswerResult


class QueryService(Protocol):
    """A region that answers in time. Raises the errors of `cluster.errors`."""

    async def search(self, request: SearchRequest) -> SearchResult: ...

    def answer_events(self, request: AnswerRequest) -> AsyncGenerator[AnswerEvent, None]:
        """Retrieved, then tokens, then the AnswerResult. Closing the iterator stops the model."""
        ...


class EmbeddingService(QueryService, Protocol):
    """A region that can also embed texts: for callers, or before it, or another one, searches."""

    async def embed(self, request: SearchRequest, dimension: int | None = None) -> EmbeddingResult:
        """The vectors that a search for these texts looks for. Without a corpus, those of the
        release's embedder. Raises InvalidArgument where they have another length than `dimension`.
        """
        ...

    async def embedded(self, request: SearchRequest) -> SearchRequest:
        """The request with the vectors of its texts, by the embedder of the release that would
        serve it here. As it was, where this region cannot make them: then whoever searches does.
        """
        ...


async def last_event(events: AsyncGenerator[AnswerEvent, None]) -> AnswerResult:
    """The whole answer. Raises Unavailable when the events end without it."""
    result: AnswerResult | None = None
    async with aclosing(events):
        async for event in events:
            if isinstance(event, AnswerResult):
                result = event
    if result is None:
        raise broken_off()
    return result


def broken_off() -> Unavailable:
    """The error that ends a stream of events without an answer."""
    return Unavailable("the answer broke off before its end; ask again")
