"""The second half of an answer: passages into a prompt, the prompt into a stream of tokens."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from cluster.answers import (
    AnswerEvent,
    AnswerRequest,
    AnswerResult,
    Citation,
    Retrieved,
    Token,
    Usage,
)
from cluster.clock import Deadline
from cluster.consistency import Pinned
from cluster.errors import DeadlineExceeded, InvalidArgument
from cluster.generation import (
    ChatMessage,
    GenerationChunk,
    GenerationRequest,
    Generator,
    PromptTokenizer,
)
from cluster.prompt import build_prompt, fit_conversation
from cluster.region_view import GeneratorView, RegionView, ReleaseView
from cluster.search import SearchResult


class GeneratorDirectory(Protocol):
    """Finds what a release's generator needs on this side."""

    def generator(self, release: ReleaseView) -> Generator:
        """Of a release that has one, here or in another region."""
        ...

    async def tokenizer(self, view: GeneratorView) -> PromptTokenizer: ...

    def follow(self, view: RegionView) -> None:
        """Forgets what no release of the view uses; call it with each new view."""
        ...


class Answering:
    """Writes answers with the generator of a release."""

    def __init__(self, directory: GeneratorDirectory) -> None:
        self._directory = directory

    def follow(self, view: RegionView) -> None:
        self._directory.follow(view)

    async def events(
        self,
        request: AnswerRequest,
        *,
        pinned: Pinned,
        region: str,
        found: SearchResult | None,
        deadline: Deadline,
        elapsed_ms: Callable[[], float],
    ) -> AsyncGenerator[AnswerEvent, None]:
        """The events of one answer; `found` is None when the plain model is asked.

        Raises InvalidArgument when the release has no generator.
        """
        release = pinned.release
        view = release.generator
        if view is None:
            raise InvalidArgument(
                f"release {release.number} has no generator: only search is served", "release"
            )
        messages, citations, max_tokens = await self._prompt(
            request, release, view, found, deadline
        )
        coverage = 1.0 if found is None else found.coverage
        yield Retrieved(
            citations=citations,
            release=release.number,
            region=region,
            coverage=coverage,
            model=view.model,
            trace_id=request.trace_id,
            served_by=region,
            staleness_ms=pinned.staleness_ms,
            session=pinned.session,
        )
        generation = GenerationRequest(
            messages=messages,
            max_tokens=max_tokens,
            temperature=request.temperature,
            request_id=uuid.uuid4().hex,
            stop=request.stop,
            seed=request.seed,
        )
        parts: list[str] = []
        last: GenerationChunk | None = None
        generator = self._directory.generator(release)
        async with aclosing(generator.stream(generation, deadline)) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    parts.append(chunk.text)
                    yield Token(text=chunk.text)
                last = chunk
        assert last is not None, "a generator's stream ends with a chunk that says why"
        assert last.finish_reason is not None, "a generator's stream is never cut silently"
        yield AnswerResult(
            answer="".join(parts).strip(),
            citations=citations,
            release=release.number,
            region=region,
            coverage=coverage,
            usage=Usage(
                prompt_tokens=last.prompt_tokens or 0, completion_tokens=last.completion_tokens or 0
            ),
            finish_reason=last.finish_reason,
            model=view.model,
            took_ms=elapsed_ms(),
            trace_id=request.trace_id,
            served_by=region,
            staleness_ms=pinned.staleness_ms,
            session=pinned.session,
        )

    async def _prompt(
        self,
        request: AnswerRequest,
        release: ReleaseView,
        view: GeneratorView,
        found: SearchResult | None,
        deadline: Deadline,
    ) -> tuple[tuple[ChatMessage, ...], tuple[Citation, ...], int]:
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                tokenizer = await self._directory.tokenizer(view)
        except TimeoutError:
            raise DeadlineExceeded("time ran out before the tokenizer was here") from None
        # At least half of the context is kept for the prompt, however long an answer is asked for.
        max_tokens = min(request.max_tokens, view.context_tokens_max // 2)
        prompt_tokens_max = view.context_tokens_max - max_tokens
        if found is None:
            asked = ChatMessage(role="user", content=request.question)
            conversation = (*request.history, asked)
            return fit_conversation(conversation, tokenizer, prompt_tokens_max), (), max_tokens
        prompt = build_prompt(
            template=release.prompt,
            question=request.question,
            passages=[hit.text for hit in found.hits],
            tokenizer=tokenizer,
            prompt_tokens_max=prompt_tokens_max,
            history=[m for m in request.history if m.role != "system"],
        )
        cited = found.hits[: prompt.num_passages]
        citations = tuple(Citation(id=h.id, text=h.text, score=h.score) for h in cited)
        return prompt.messages, citations, max_tokens
