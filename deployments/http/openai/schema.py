"""OpenAI's chat interface over the same answers: its request, its replies, its stream.

A key that is null counts as absent. What changes nothing here is ignored; what would change the
answer and is not supported is refused by name, unless it asks for what happens anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from cluster.errors import InvalidArgument
from cluster.generation.generator import ChatMessage, Role
from cluster.query.answers import ANSWER_TOP_K_DEFAULT, AnswerRequest
from cluster.query.filters import Filter, parse_filter
from cluster.search.checks import (
    CONVERSATION_CHARS_MAX,
    MAX_TOKENS_MAX,
    MESSAGES_MAX,
    STOPS_MAX,
    TEXT_CHARS_MAX,
)
from deployments.http.schemas.answer import PromptOptions, SamplingOptions, StopTexts, Temperature
from deployments.http.schemas.json_body import Body, parse_body
from deployments.http.schemas.terms import (
    FILTER_SCHEMA,
    Name,
    Share,
    TermsBody,
    TimeoutMs,
    TopK,
    User,
)

RETRIEVAL_MODEL = "raygion"
"""The model that answers from passages, of a corpus by name as `raygion/NAME`; any other name is a
model asked directly.
"""
MAX_TOKENS_DEFAULT = 256

IGNORED_KEYS = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "store",
        "verbosity",
    }
)
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


def _filter(value: object) -> Filter:
    return parse_filter(value, path="raygion.filter")


def _stops(value: object) -> object:
    return [value] if isinstance(value, str) else value


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
_STOP_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "maxItems": STOPS_MAX},
    ]
}
RetrievalFilter = Annotated[Filter, PlainValidator(_filter), WithJsonSchema(FILTER_SCHEMA)]
Content = Annotated[str, BeforeValidator(_content), WithJsonSchema(_CONTENT_SCHEMA)]
MaxTokens = Annotated[
    int, Field(ge=1, description=f"More than {MAX_TOKENS_MAX} counts as that many.")
]
Stop = Annotated[StopTexts, BeforeValidator(_stops), WithJsonSchema(_STOP_SCHEMA)]


class OpenAIBody(Body):
    """Takes null for absent, as OpenAI's clients mean it."""

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: object) -> object:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data


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


class StreamOptionsBody(OpenAIBody):
    include_usage: bool = False
    include_obfuscation: bool = Field(False, description="Ignored.")
    continuous_usage_stats: Literal[False] = False


class RetrievalBody(OpenAIBody, TermsBody, PromptOptions):
    """The options of `/v1/answer` for which OpenAI's interface has no words, and one of the chat's
    own.
    """

    corpus: Name | None = None
    top_k: TopK = ANSWER_TOP_K_DEFAULT
    filter: RetrievalFilter | None = None
    timeout_ms: TimeoutMs = 60_000
    min_coverage: Share = 1.0
    list_sources: bool = Field(
        False, description="Lists the ids of the citations under the answer."
    )


class ChatBody(OpenAIBody, SamplingOptions):
    model: Name = Field(
        description="`raygion` answers with retrieval, `raygion/NAME` from the corpus of that "
        "name, the language model's own name without."
    )
    messages: Annotated[
        list[MessageBody], Field(fail_fast=True, min_length=1, max_length=MESSAGES_MAX)
    ] = Field(description="The last one of the user is the question.")
    max_tokens: MaxTokens | None = Field(None, description=f"Default {MAX_TOKENS_DEFAULT}.")
    max_completion_tokens: MaxTokens | None = Field(None, description="Newer name of max_tokens.")
    temperature: Temperature = 0.0
    stop: Stop | None = None
    user: User = Field("", description="Kept on one release while a canary is tried.")
    stream: bool = False
    stream_options: StreamOptionsBody | None = None
    raygion: RetrievalBody = Field(
        RetrievalBody(), description="In OpenAI's Python client: extra_body={'raygion': {...}}."
    )

    @model_validator(mode="before")
    @classmethod
    def _take_neutral_keys(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        for key, allowed in NEUTRAL_VALUES.items():
            if data.get(key) is not None and data[key] not in allowed:
                shown = " or ".join(orjson.dumps(value).decode() for value in allowed)
                raise InvalidArgument(f"is not supported, other than as {shown}", key)
        return {
            key: value
            for key, value in data.items()
            if key not in NEUTRAL_VALUES and key not in IGNORED_KEYS
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    model: str
    request: AnswerRequest
    stream: bool
    include_usage: bool
    list_sources: bool


def parse_chat(body: bytes, trace_id: str = "") -> ChatRequest:
    """Raises InvalidArgument. Whether the model exists is for the region to say."""
    asked = parse_body(ChatBody, body)
    extra = asked.raygion
    retrieve, corpus = retrieval_of(asked.model, extra.corpus)
    history, question = _conversation(asked.messages, retrieve)
    if (
        asked.max_tokens is not None
        and asked.max_completion_tokens is not None
        and asked.max_tokens != asked.max_completion_tokens
    ):
        raise InvalidArgument("differs from max_completion_tokens; give one of them", "max_tokens")
    if asked.stream_options is not None and not asked.stream:
        raise InvalidArgument("is only for streams; set stream to true", "stream_options")
    request = AnswerRequest(
        **_terms(extra, asked.user) | {"corpus": corpus},
        question=question,
        retrieve=retrieve,
        history=history,
        max_tokens=min(
            asked.max_completion_tokens or asked.max_tokens or MAX_TOKENS_DEFAULT, MAX_TOKENS_MAX
        ),
        temperature=asked.temperature,
        stop=tuple(asked.stop or ()),
        **asked.sampling(),
        truncation=extra.prompt_truncation(),
        trace_id=trace_id,
    )
    return ChatRequest(
        model=asked.model,
        request=request,
        stream=asked.stream,
        include_usage=asked.stream_options is not None and asked.stream_options.include_usage,
        list_sources=extra.list_sources,
    )


def corpus_model(corpus: str) -> str:
    """The model that answers from the corpus of that name, for clients that name nothing else."""
    return f"{RETRIEVAL_MODEL}/{corpus}"


def retrieval_of(model: str, corpus: str | None = None) -> tuple[bool, str | None]:
    """Whether the model answers from passages, and of which corpus, if one is named."""
    kind, _, named = model.partition("/")
    if model == RETRIEVAL_MODEL or kind != RETRIEVAL_MODEL or not named:
        return model == RETRIEVAL_MODEL, corpus
    if corpus not in (None, named):
        raise InvalidArgument(f"differs from the corpus of the model, {named!r}", "raygion.corpus")
    return True, named


def in_words_of_chat(error: InvalidArgument) -> InvalidArgument:
    """The error with the path of its field in the body of a chat."""
    first = (error.field or "").partition(".")[0]
    if first in RetrievalBody.model_fields:
        return type(error)(error.message, f"raygion.{error.field}")
    return type(error)(error.message, "messages") if first == "question" else error


def _terms(extra: RetrievalBody, user: str) -> dict[str, Any]:
    try:
        return extra.terms(user)
    except InvalidArgument as error:
        raise in_words_of_chat(error) from None


def _conversation(
    messages: list[MessageBody], retrieve: bool
) -> tuple[tuple[ChatMessage, ...], str]:
    """The earlier messages, and the question: the last message of the user, or the last one of all
    where the user has said nothing. What stands behind it, such as an answer that was begun, is
    left out, but for system messages.
    """
    for number, message in enumerate(messages):
        if message.content is None and message.role not in _MADE_ELSEWHERE:
            raise InvalidArgument("is required", f"messages[{number}].content")
    asked = [number for number, message in enumerate(messages) if message.role == "user"]
    last = asked[-1] if asked else len(messages) - 1
    question = messages[last].content or ""
    if not question.strip():
        raise InvalidArgument("is empty", f"messages[{last}].content")
    if retrieve and len(question) > TEXT_CHARS_MAX:
        raise InvalidArgument(
            f"has more than {TEXT_CHARS_MAX} characters, too many to search for; the language "
            "model's own name (see /v1/models) answers without retrieval",
            f"messages[{last}].content",
        )
    if sum(len(message.content or "") for message in messages) > CONVERSATION_CHARS_MAX:
        raise InvalidArgument(
            f"have more than {CONVERSATION_CHARS_MAX} characters together", "messages"
        )
    earlier = [message.as_chat_message for message in messages[:last]]
    later = [message.as_chat_message for message in messages[last + 1 :]]
    history = [message for message in earlier if message is not None]
    history += [message for message in later if message is not None and message.role == "system"]
    return tuple(history), question
