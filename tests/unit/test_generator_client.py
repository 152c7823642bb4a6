"""What a second attempt at a generation is asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from actors.generator_client import ServeGenerator
from cluster.clock import Deadline
from cluster.errors import Unavailable
from cluster.generation import ChatMessage, GenerationChunk, GenerationRequest

REQUEST = GenerationRequest(
    messages=(ChatMessage(role="user", content="Count."),),
    max_tokens=5,
    temperature=0.0,
    request_id="r",
    begun="one ",
)


async def test_what_was_begun_elsewhere_stays_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[GenerationRequest] = []

    async def once(
        _: ServeGenerator, request: GenerationRequest, *others: Any
    ) -> AsyncGenerator[GenerationChunk, None]:
        asked.append(request)
        if len(asked) == 1:
            yield GenerationChunk(text="two ", completion_tokens=1)
            raise Unavailable("the replica died")
        yield GenerationChunk(
            text="three", finish_reason="stop", prompt_tokens=3, completion_tokens=1
        )

    monkeypatch.setattr(ServeGenerator, "_stream_once", once)
    chunks = [chunk async for chunk in ServeGenerator("app").stream(REQUEST, Deadline.after(5.0))]
    assert [chunk.text for chunk in chunks] == ["two ", "three"]
    assert [(r.begun, r.max_tokens) for r in asked] == [("one ", 5), ("one two ", 4)]
