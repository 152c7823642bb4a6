"""The way of an answer: passages into a prompt, the prompt into a stream of tokens."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from cluster.clock import Deadline
from cluster.errors import DeadlineExceeded, InvalidArgument
from cluster.generation.generator import (
    ChatMessage,
    GenerationChunk,
    GenerationRequest,
    PromptTokenizer,
)
from cluster.generation.prompt import BuiltPrompt, TokenBudget, build_prompt, fit_conversation
from cluster.query.answers import (
    AnswerEvent,
    AnswerOutcome,
    AnswerRequest,
    AnswerResult,
    Citation,
    Retrieved,
    Token,
    Usage,
)
from cluster.query.provenance import Provenance
from cluster.query.search import Hit, SearchRequest, SearchResult
from cluster.serving.generators import GeneratorDirectory
from cluster.serving.view import RegionView, ReleaseView

T = TypeVar("T")
Search = Callable[[SearchRequest], Awaitable[SearchResult]]
_TITLE = "title"


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
        release: ReleaseView,
        provenance: Provenance,
        search: Search,
        deadline: Deadline,
        elapsed_ms: Callable[[], float],
    ) -> AsyncGenerator[AnswerEvent, None]:
        """The events of one answer by the release. `search` finds the passages, unless the plain
        model is asked.

        Where the release finds no evidence in them, its own text is the answer, and no model
        writes. Raises what `search` raises; InvalidArgument when the release has no generator, or
        none in a region that may have the passages; ContextLengthExceeded when the prompt does not
        fit.
        """
        found = await search(_retrieval(request, release)) if request.retrieve else None
        view = release.generator
        if view is None:
            raise InvalidArgument(
                f"release {release.number} has no generator: only search is served", "release"
            )
        if found is not None:
            provenance = provenance.with_passages(found.provenance)
        retrieved = Retrieved(citations=(), provenance=provenance, model=view.model)
        hits = () if found is None else _evidence(found, release, request.corpus)
        if found is not None and not hits and release.evidence is not None:
            retrieved = replace(retrieved, outcome=AnswerOutcome.NOTHING_FOUND)
            text = release.evidence.nothing_found
            nothing = Usage(prompt_tokens=0, completion_tokens=0)
            yield retrieved
            yield Token(text=text)
            yield _result(retrieved, text, nothing, "stop", elapsed_ms())
            return
        budget = TokenBudget.for_answer(view.context_tokens_max, request.max_tokens)
        tokenizer = await _in_time(
            self._directory.tokenizer(view), deadline, "the tokenizer was here"
        )
        # Large prompts take a while to count, and others are served meanwhile.
        prompt, max_tokens = await _in_time(
            asyncio.to_thread(_build, request, release, hits, tokenizer, budget),
            deadline,
            "the prompt was made",
        )
        corpus = release.corpus(request.corpus).corpus if request.retrieve else None
        # Refuses before anything is told of the answer.
        generator = self._directory.generator(release, corpus)
        cited = hits[: prompt.num_passages]
        retrieved = replace(
            retrieved,
            citations=tuple(map(_citation, cited)),
            truncated=prompt.truncated,
        )
        yield retrieved
        generation = GenerationRequest(
            messages=prompt.messages,
            max_tokens=max_tokens,
            request_id=uuid.uuid4().hex,
            **request.sampling(),
        )
        stream = generator.stream(generation, deadline)
        async with aclosing(_written(stream, retrieved, elapsed_ms)) as events:
            async for event in events:
                yield event


def _retrieval(request: AnswerRequest, release: ReleaseView) -> SearchRequest:
    """The search for the passages, with their titles where the corpus knows such."""
    has_titles = _TITLE in release.corpus(request.corpus).metadata_schema
    return replace(request.retrieval(), fields=(_TITLE,) if has_titles else ())


def _citation(hit: Hit) -> Citation:
    title = hit.metadata.get(_TITLE)
    known = title if isinstance(title, str) and title else None
    return Citation(id=hit.id, text=hit.text, score=hit.score, title=known)


async def _written(
    stream: AsyncGenerator[GenerationChunk, None],
    retrieved: Retrieved,
    elapsed_ms: Callable[[], float],
) -> AsyncGenerator[AnswerEvent, None]:
    """The tokens that the model writes, then the result."""
    pieces: list[str] = []
    last: GenerationChunk | None = None
    async with aclosing(stream) as chunks:
        async for chunk in chunks:
            if chunk.text:
                pieces.append(chunk.text)
                yield Token(text=chunk.text)
            last = chunk
    assert last is not None, "a generator's stream ends with a chunk that says why"
    assert last.finish_reason is not None, "a generator's stream is never cut silently"
    usage = Usage(
        prompt_tokens=last.prompt_tokens or 0, completion_tokens=last.completion_tokens or 0
    )
    yield _result(retrieved, "".join(pieces).strip(), usage, last.finish_reason, elapsed_ms())


async def _in_time(work: Awaitable[T], deadline: Deadline, end: str) -> T:
    try:
        async with asyncio.timeout(deadline.remaining_s()):
            return await work
    except TimeoutError:
        raise DeadlineExceeded(f"time ran out before {end}") from None


def _evidence(found: SearchResult, release: ReleaseView, corpus: str | None) -> tuple[Hit, ...]:
    """The hits that the release's answers may rest on."""
    if release.evidence is None:
        return found.hits
    least = release.evidence.score_min.get(release.corpus(corpus).corpus, -math.inf)
    return tuple(hit for hit in found.hits if hit.score >= least)


def _build(
    request: AnswerRequest,
    release: ReleaseView,
    hits: Sequence[Hit],
    tokenizer: PromptTokenizer,
    budget: TokenBudget,
) -> tuple[BuiltPrompt, int]:
    """The prompt, and the longest answer beside it, in tokens."""
    prompt = _prompt(request, release, hits, tokenizer, budget)
    if request.max_tokens <= budget.answer:
        return prompt, request.max_tokens
    return prompt, budget.beside(tokenizer.count(prompt.messages), request.max_tokens)


def _prompt(
    request: AnswerRequest,
    release: ReleaseView,
    hits: Sequence[Hit],
    tokenizer: PromptTokenizer,
    budget: TokenBudget,
) -> BuiltPrompt:
    if not request.retrieve:
        asked = ChatMessage(role="user", content=request.question)
        return fit_conversation(
            (*request.history, asked), tokenizer, budget, request.prompt_truncation()
        )
    return build_prompt(
        template=release.prompt,
        question=request.question,
        passages=[hit.text for hit in hits],
        tokenizer=tokenizer,
        budget=budget,
        history=request.history,
        truncation=request.prompt_truncation(),
    )


def _result(
    retrieved: Retrieved, answer: str, usage: Usage, finish_reason: str, took_ms: float
) -> AnswerResult:
    return AnswerResult(
        answer=answer,
        citations=retrieved.citations,
        provenance=retrieved.provenance,
        usage=usage,
        finish_reason=finish_reason,
        model=retrieved.model,
        took_ms=took_ms,
        outcome=retrieved.outcome,
        truncated=retrieved.truncated,
    )
