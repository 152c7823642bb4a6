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
from deployments.http.openai.asking import RETRIEVAL_MODEL, AnswerForm, AskingBody
from deployments.http.openai.reply_parts import (
    ChatUsageReply,
    ReplyChunks,
    ReplyHead,
    source_of,
    usage_of,
)
from deployments.http.schemas.json_body import parse_body
from deployments.http.schemas.replies import ChatSourceReply

PROMPTS_MAX = 20
"""As many as LangChain puts into one request."""
_KIND = "text_completion"


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
class CompletionsRequest:
    form: AnswerForm
    requests: tuple[AnswerRequest, ...]
    """One for each prompt."""


def parse_completions(body: bytes, trace_id: str = "") -> CompletionsRequest:
    """Raises InvalidArgument. Whether the model exists is for the region to say."""
    asked = parse_body(CompletionsBody, body)
    form = asked.form()
    if asked.stream and len(asked.prompt) > 1:
        raise InvalidArgument("holds several prompts, and a stream has one", "prompt")
    requests = tuple(
        asked.to_request(
            prompt, field=f"prompt[{number}]", max_tokens=asked.max_tokens, trace_id=trace_id
        )
        for number, prompt in enumerate(asked.prompt)
    )
    return CompletionsRequest(form=form, requests=requests)


def render_completions(results: Sequence[AnswerResult], head: ReplyHead) -> bytes:
    usage = Usage(
        prompt_tokens=sum(result.usage.prompt_tokens for result in results),
        completion_tokens=sum(result.usage.completion_tokens for result in results),
    )
    return orjson.dumps(
        {
            **head.of(_KIND),
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

    def __init__(self, head: ReplyHead, *, include_usage: bool) -> None:
        self._chunks = ReplyChunks(head.of(_KIND), include_usage=include_usage)

    def event(self, event: AnswerEvent) -> bytes:
        match event:
            case Retrieved():
                return self._chunks.chunk(_choice("", None, raygion=source_of(event)))
            case Token():
                return self._chunks.chunk(_choice(event.text, None))
            case AnswerResult():
                last = self._chunks.chunk(_choice("", event.finish_reason))
                return last + self._chunks.ending(event.usage)

    def error(self, body: bytes) -> bytes:
        return self._chunks.error(body)


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
