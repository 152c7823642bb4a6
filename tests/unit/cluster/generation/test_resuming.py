"""What each further attempt at a generation is asked for, and when there is none."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from cluster.clock import Deadline
from cluster.errors import InvalidArgument, RaygionError, Unavailable
from cluster.generation.generator import ChatMessage, GenerationChunk, GenerationRequest
from cluster.generation.resuming import resumed
from tests.support.fakes import SimClock

REQUEST = GenerationRequest(
    messages=(ChatMessage(role="user", content="Count."),),
    max_tokens=5,
    temperature=0.0,
    request_id="r",
    begun="one ",
)
TWO = GenerationChunk(text="two ", completion_tokens=1)
END = GenerationChunk(text="three", finish_reason="stop", prompt_tokens=3, completion_tokens=1)
DIED = Unavailable("the replica died")


class Place:
    """Gives its chunks, then raises its error if it has one."""

    def __init__(self, *chunks: GenerationChunk, error: RaygionError | None = None) -> None:
        self._chunks = chunks
        self._error = error
        self.asked: list[GenerationRequest] = []
        self.closed = False

    async def stream(
        self, request: GenerationRequest, deadline: Deadline
    ) -> AsyncGenerator[GenerationChunk, None]:
        self.asked.append(request)
        try:
            for chunk in self._chunks:
                yield chunk
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True


def answered(
    *places: Place, deadline: Deadline | None = None
) -> AsyncGenerator[GenerationChunk, None]:
    return resumed(
        (place.stream for place in places),
        REQUEST,
        deadline or Deadline.after(5.0),
        may_resume=lambda error: isinstance(error, Unavailable),
    )


async def test_what_was_begun_elsewhere_stays_begun() -> None:
    first, second = Place(TWO, error=DIED), Place(END)
    chunks = [chunk async for chunk in answered(first, second)]
    assert [chunk.text for chunk in chunks] == ["two ", "three"]
    asked = [(r.begun, r.max_tokens) for r in (*first.asked, *second.asked)]
    assert asked == [("one ", 5), ("one two ", 4)]
    # What was written before counts as written, not as part of the prompt.
    assert (chunks[-1].prompt_tokens, chunks[-1].completion_tokens) == (2, 2)


@pytest.mark.parametrize(
    ("chunks", "error"),
    [
        ((TWO,), InvalidArgument("the prompt is too long", "messages")),
        ((GenerationChunk(text="two "),), DIED),  # nobody knows how many tokens these are
        ((GenerationChunk(text="two three", completion_tokens=5),), DIED),
    ],
)
async def test_what_cannot_be_resumed_ends_with_its_error(
    chunks: tuple[GenerationChunk, ...], error: RaygionError
) -> None:
    second = Place(END)
    with pytest.raises(type(error)) as caught:
        _ = [chunk async for chunk in answered(Place(*chunks, error=error), second)]
    assert caught.value is error
    assert not second.asked


async def test_nothing_is_resumed_when_the_time_is_over() -> None:
    clock, second = SimClock(), Place(END)
    deadline = Deadline.after(5.0, clock)
    chunks = answered(Place(TWO, error=DIED), second, deadline=deadline)
    await anext(chunks)
    clock.sleep(6.0)
    with pytest.raises(Unavailable):
        await anext(chunks)
    assert not second.asked


async def test_the_last_attempt_ends_with_its_error() -> None:
    last = Unavailable("the other one died, too")
    with pytest.raises(Unavailable) as caught:
        _ = [c async for c in answered(Place(error=DIED), Place(TWO, error=last))]
    assert caught.value is last


async def test_closing_the_answer_closes_the_attempt() -> None:
    place = Place(TWO, END)
    async with aclosing(answered(place)) as chunks:
        await anext(chunks)
    assert place.closed
