"""A language model as the query path knows it: a stream of text chunks for a list of messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, get_args

from cluster.clock import Deadline

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    role: Role
    content: str


# Without slots: a class can have only one base with slots, and a question has two bases.
@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The options by which the model draws tokens and ends, as OpenAI defines them."""

    temperature: float = 0.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def sampling(self) -> dict[str, Any]:
        """The fields of the sampling by name."""
        return {field.name: getattr(self, field.name) for field in fields(Sampling)}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest(Sampling):
    messages: tuple[ChatMessage, ...]
    max_tokens: int
    request_id: str
    begun: str = ""
    """The beginning of the answer, when it was written before; the model goes on from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationChunk:
    """A piece of the answer. The last one carries `finish_reason` and the token counts."""

    text: str
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    """Tokens of the answer so far, this piece included."""


class Generator(Protocol):
    """A language model that answers.

    Guarantees: the stream ends with a chunk that has a `finish_reason`, or raises a typed error; it
    is never cut silently. Closing the iterator stops the generation. Failures: Overloaded,
    Unavailable, DeadlineExceeded, InvalidArgument (prompt too long). The caller brings the
    deadline.
    """

    def stream(
        self, request: GenerationRequest, deadline: Deadline
    ) -> AsyncGenerator[GenerationChunk, None]: ...


class PromptTokenizer(Protocol):
    """Counts and cuts by the tokens of the generator. For several threads at once."""

    @property
    def token_chars_max(self) -> int:
        """No token stands for more characters."""
        ...

    def count(self, messages: tuple[ChatMessage, ...]) -> int:
        """Tokens of the prompt that the chat template makes of the messages, opening of the answer
        included.
        """
        ...

    def truncate(self, text: str, tokens_max: int) -> str:
        """The longest beginning of `text` that has at most `tokens_max` tokens."""
        ...
