"""OpenAI's chat: its request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from cluster.errors import InvalidArgument
from cluster.generation.generator import ChatMessage, Role
from cluster.query.answers import AnswerRequest
from cluster.search.checks import CONVERSATION_CHARS_MAX, MESSAGES_MAX
from deployments.http.openai.asking import AnswerForm, AskingBody, MaxTokens, OpenAIBody
from deployments.http.schemas.json_body import parse_body

IGNORED_MESSAGE_KEYS = frozenset(
    {
        "annotations",
        "audio",
        "function_call",
        "id",
        "name",
        "reasoning",
        "reasoning_content",
        "refusal",
        "tool_call_id",
        "tool_calls",
    }
)
"""Keys of messages that other models have written, or that an earlier reply had."""
NEUTRAL_VALUES: dict[str, tuple[object, ...]] = {
    "chat_template_kwargs": ({},),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "response_format": ({"type": "text"},),
    "stop_token_ids": ([],),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}
"""Keys that may only ask for what happens anyway."""


_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


_MADE_ELSEWHERE = frozenset({"assistant", "tool", "function"})
"""Roles of messages that other programs have written, and that may be null, or hold more than text:
what a model thought or refused, what a tool has drawn. It is left out.
"""


def _content(value: object, info: ValidationInfo) -> object:
    """A string, or a list of parts, whose texts are joined by line breaks."""
    if not isinstance(value, list):
        return value
    texts: list[str] = []
    for i, part in enumerate(value):
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if isinstance(text, str):
            texts.append(text)
        elif info.data.get("role") not in _MADE_ELSEWHERE or not isinstance(part, dict):
            raise PydanticCustomError(
                "content_part",
                "part {number} is not supported; only parts of type text are",
                {"number": i},
            )
    return "\n".join(texts)


_CONTENT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                "required": ["type", "text"],
            },
        },
    ]
}
Content = Annotated[str, BeforeValidator(_content), WithJsonSchema(_CONTENT_SCHEMA)]


class MessageBody(OpenAIBody):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = Field(
        None,
        description="Of an assistant and of tools it may be null, and parts that are no text are "
        "left out.",
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_ignored_keys(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if key not in IGNORED_MESSAGE_KEYS}

    @property
    def as_chat_message(self) -> ChatMessage | None:
        """None for what tools have answered, and for an assistant that only called some."""
        role = _ROLES.get(self.role)
        return (
            None
            if role is None or not self.content
            else ChatMessage(role=role, content=self.content)
        )


class ChatBody(AskingBody):
    neutral_values = NEUTRAL_VALUES

    messages: Annotated[
        list[MessageBody], Field(fail_fast=True, min_length=1, max_length=MESSAGES_MAX)
    ] = Field(description="The last one of the user is the question.")
    max_completion_tokens: MaxTokens | None = Field(None, description="Newer name of max_tokens.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    form: AnswerForm
    request: AnswerRequest


def parse_chat(body: bytes, trace_id: str = "") -> ChatRequest:
    """Raises InvalidArgument. Whether the model exists is for the region to say."""
    asked = parse_body(ChatBody, body)
    if (
        asked.max_tokens is not None
        and asked.max_completion_tokens is not None
        and asked.max_tokens != asked.max_completion_tokens
    ):
        raise InvalidArgument("differs from max_completion_tokens; give one of them", "max_tokens")
    form = asked.form()
    history, last = _conversation(asked.messages)
    request = asked.to_request(
        asked.messages[last].content or "",
        field=f"messages[{last}].content",
        history=history,
        max_tokens=asked.max_completion_tokens or asked.max_tokens,
        trace_id=trace_id,
    )
    return ChatRequest(form=form, request=request)


def _conversation(messages: list[MessageBody]) -> tuple[tuple[ChatMessage, ...], int]:
    """The earlier messages, and the number of the question: the last message of the user, or the
    last one of all where the user has said nothing. What stands behind it, such as an answer that
    was begun, is left out, but for system messages.
    """
    for number, message in enumerate(messages):
        if message.content is None and message.role not in _MADE_ELSEWHERE:
            raise InvalidArgument("is required", f"messages[{number}].content")
    asked = [number for number, message in enumerate(messages) if message.role == "user"]
    last = asked[-1] if asked else len(messages) - 1
    if sum(len(message.content or "") for message in messages) > CONVERSATION_CHARS_MAX:
        raise InvalidArgument(
            f"have more than {CONVERSATION_CHARS_MAX} characters together", "messages"
        )
    earlier = [message.as_chat_message for message in messages[:last]]
    later = [message.as_chat_message for message in messages[last + 1 :]]
    history = [message for message in earlier if message is not None]
    history += [message for message in later if message is not None and message.role == "system"]
    return tuple(history), last
