"""What chats and completions have in common, whole and streamed: the head of each reply, what its
answer was made of, the usage, and the chunks of a stream.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson
from pydantic import BaseModel

from cluster.query.answers import AnswerResult, Retrieved, Usage
from deployments.http.schemas.replies import citations_of, with_provenance
from deployments.http.streams.sse import data_event


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyHead:
    """What a whole reply and each chunk of a stream begin with."""

    id: str
    created_s: int
    model: str

    def of(self, kind: str) -> dict[str, object]:
        """`kind`: OpenAI's name for the object."""
        return {"id": self.id, "object": kind, "created": self.created_s, "model": self.model}


class ReplyChunks:
    """The chunks of one stream."""

    def __init__(self, head: dict[str, object], *, include_usage: bool) -> None:
        # In the chunks before the last one OpenAI's usage is null.
        self._head = {**head, "usage": None} if include_usage else head
        self._include_usage = include_usage

    def chunk(self, choice: dict[str, object], **more: object) -> bytes:
        return self._chunk(choices=[choice], **more)

    def ending(self, usage: Usage) -> bytes:
        """Follows the last chunk with a choice: the usage if it was asked for, then `[DONE]`."""
        done = data_event(b"[DONE]")
        return (
            self._chunk(choices=[], usage=usage_of(usage)) + done if self._include_usage else done
        )

    def error(self, body: bytes) -> bytes:
        """No `[DONE]` follows: the answer is not complete."""
        return data_event(body)

    def _chunk(self, **more: object) -> bytes:
        return data_event(orjson.dumps({**self._head, **more}))


def usage_of(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def source_of(made: Retrieved | AnswerResult) -> dict[str, object]:
    return {
        **with_provenance(made, citations=citations_of(made)),
        "outcome": made.outcome,
        "truncated": made.truncated,
    }


class ChatUsageReply(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
