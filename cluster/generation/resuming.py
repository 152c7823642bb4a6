"""An answer that breaks off is resumed elsewhere from the last piece that came."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace

from cluster.clock import Deadline
from cluster.errors import RaygionError
from cluster.generation.generator import GenerationChunk, GenerationRequest
from cluster.logs.events import EventLog

log = EventLog(__name__)

Attempt = Callable[[GenerationRequest, Deadline], AsyncGenerator[GenerationChunk, None]]
"""Generates in one place, as `cluster.generation.generator.Generator` promises of `stream`."""


async def resumed(
    attempts: Iterable[Attempt],
    request: GenerationRequest,
    deadline: Deadline,
    *,
    may_resume: Callable[[RaygionError], bool],
) -> AsyncGenerator[GenerationChunk, None]:
    """The chunks of the first attempt; when it breaks off, the next one goes on from the last chunk
    that came, and so on. The next attempt is taken from `attempts` only then, so there must be one.

    Raises the error of an attempt where `may_resume` is false for it, where no time or no further
    attempt is left, and where nobody can go on: the answer is begun, and how many of its tokens
    were written is not known, or is all that was asked for.
    """
    begun, written = "", 0
    failure: RaygionError | None = None
    for attempt in attempts:
        rest = _rest(request, begun, written)
        before = written
        try:
            async with aclosing(attempt(rest, deadline)) as chunks:
                async for chunk in chunks:
                    whole = _of_whole(chunk, before)
                    begun += whole.text
                    written = whole.completion_tokens or written
                    yield whole
            return
        except RaygionError as error:
            lost = begun and not 0 < written < request.max_tokens
            if lost or deadline.expired() or not may_resume(error):
                raise
            log.warning(
                "generation.broke_off",
                "generation {request_id} broke off: {error}",
                request_id=request.request_id,
                error=error,
            )
            failure = error
    assert failure is not None, "there is a first attempt"
    raise failure


def _rest(request: GenerationRequest, begun: str, written: int) -> GenerationRequest:
    """The request for the rest of an answer, after `begun`, a text of `written` tokens."""
    if not written:
        return request
    return replace(request, begun=request.begun + begun, max_tokens=request.max_tokens - written)


def _of_whole(chunk: GenerationChunk, written: int) -> GenerationChunk:
    """A chunk of an answer that went on elsewhere after so many tokens, with the counts of the
    whole answer: for whoever goes on, what was written before is part of the prompt.
    """
    if not written or chunk.completion_tokens is None:
        return chunk
    prompt_tokens = None if chunk.prompt_tokens is None else chunk.prompt_tokens - written
    return replace(
        chunk, prompt_tokens=prompt_tokens, completion_tokens=chunk.completion_tokens + written
    )
