"""OpenAI's completions, which its older clients ask for: each prompt is a question of its own, and
is answered as the last message of a chat is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from cluster.errors import InvalidArgument
from cluster.query.answers import AnswerEvent, AnswerRequest, AnswerResult, Retrieved, Token, Usage
from deployments.http.openai.asking import RETRIEVAL_MODEL, Asked, AskingBody
from deployments.http.openai.replies import ChatUsageReply, source_of, usage_of
from deployments.http.schemas.json_body import parse_body
from deployments.http.schemas.replies import ChatSourceReply
from deployments.http.streams.sse import data_event

PROMPTS_MAX = 20
"""As many as LangChain puts into one request."""


def _prompts(value: object) -> object:
    """A lone text as a list of one. Lists of numbers are tokens of a tokenizer that is not ours."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        raise PydanticCustomError("tokens", "must be texts, not tokens")
    return value


_PROMPT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "maxItems": PROMPTS_MAX,
        },
    ]
}
Prompts = Annotated[
    list[str],
    Field(fail_fast=True, min_length=1, max_length=PROMPTS_MAX),
    BeforeValidator(_prompts),
    WithJsonSchema(_PROMPT_SCHEMA),
]


NEUTRAL_VALUES: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "logit_bias": ({},),
    "n": (1,),
    "stop_token_ids": ([],),
    "suffix": ("",),
}
"""Keys that may only ask for what happens anyway."""


class CompletionsBody(AskingBody):
    neutral_values = NEUTRAL_VALUES

    prompt: Prompts = Field(description="A question, or several; a stream has one.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionsRequest(Asked):
    requests: tuple[AnswerRequest, ...]
    """One for each prompt."""


def parse_completions(body: bytes, trace_id: str = "") -> CompletionsRequest:
    """Raises InvalidArgument. Whether the model exists is for the region to say."""
    asked = parse_body(CompletionsBody, body)
    include_usage = asked.include_usage()
    if asked.stream and len(asked.prompt) > 1:
        raise InvalidArgument("holds several prompts, and a stream has one", "prompt")
    requests = tuple(
        asked.to_request(
            prompt, field=f"prompt[{number}]", max_tokens=asked.max_tokens, trace_id=trace_id
        )
        for number, prompt in enumerate(asked.prompt)
    )
    return CompletionsRequest(
        model=asked.model,
        requests=requests,
        stream=asked.stream,
        include_usage=include_usage,
        list_sources=asked.raygion.list_sources,
    )


def render_completions(
    results: Sequence[AnswerResult], *, model: str, completion_id: str, created_s: int
) -> bytes:
    usage = Usage(
        prompt_tokens=sum(result.usage.prompt_tokens for result in results),
        completion_tokens=sum(result.usage.completion_tokens for result in results),
    )
    return orjson.dumps(
        {
            **_head(completion_id, created_s, model),
            "choices": [
                _choice(
                    result.answer,
                    result.finish_reason,
                    index=number,
                    raygion=source_of(result),
                )
                for number, result in enumerate(results)
            ],
            "usage": usage_of(usage),
        }
    )


class CompletionChunks:
    """The stream of one completion. Its first chunk says what the answer is made of."""

    def __init__(
        self, *, model: str, completion_id: str, created_s: int, include_usage: bool
    ) -> None:
        self._head = _head(completion_id, created_s, model)
        self._include_usage = include_usage
        if include_usage:
            self._head["usage"] = None

    def event(self, event: AnswerEvent) -> bytes:
        match event:
            case Retrieved():
                return self._chunk([_choice("", None, raygion=source_of(event))])
            case Token():
                return self._chunk([_choice(event.text, None)])
            case AnswerResult():
                last = self._chunk([_choice("", event.finish_reason)])
                if self._include_usage:
                    last += self._chunk([], usage=usage_of(event.usage))
                return last + data_event(b"[DONE]")

    def error(self, body: bytes) -> bytes:
        """No `[DONE]` follows: the answer is not complete."""
        return data_event(body)

    def _chunk(self, choices: list[dict[str, object]], **more: object) -> bytes:
        return data_event(orjson.dumps({**self._head, "choices": choices, **more}))


def _head(completion_id: str, created_s: int, model: str) -> dict[str, object]:
    return {"id": completion_id, "object": "text_completion", "created": created_s, "model": model}


def _choice(
    text: str, finish_reason: str | None, *, index: int = 0, **more: object
) -> dict[str, object]:
    choice = {"text": text, "index": index, "logprobs": None, "finish_reason": finish_reason}
    return {**choice, **more}


class CompletionChoiceReply(BaseModel):
    text: str
    index: int = Field(description="The number of the prompt.")
    logprobs: None
    finish_reason: str
    raygion: ChatSourceReply = Field(description="What the answer was made of.")


class CompletionsReply(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoiceReply]
    usage: ChatUsageReply = Field(description="Of all answers together.")


COMPLETIONS_EXAMPLES: dict[str, Any] = {
    "a question": {"value": {"model": RETRIEVAL_MODEL, "prompt": "What is the capital of Iceland?"}}
}
