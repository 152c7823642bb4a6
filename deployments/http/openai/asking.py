"""What the routes of OpenAI's interface that answer have in common: how an answer is asked for.

A key that is null counts as absent. What changes nothing here is ignored; what would change the
answer and is not supported is refused by name, unless it asks for what happens anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema, model_validator

from cluster.errors import InvalidArgument
from cluster.generation.generator import ChatMessage
from cluster.query.answers import ANSWER_TOP_K_DEFAULT, AnswerRequest
from cluster.query.filters import Filter, parse_filter
from cluster.search.checks import MAX_TOKENS_MAX, STOPS_MAX, TEXT_CHARS_MAX
from deployments.http.schemas.answer import PromptOptions, SamplingOptions, StopTexts, Temperature
from deployments.http.schemas.json_body import Body
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


def _filter(value: object) -> Filter:
    return parse_filter(value, path="raygion.filter")


def _stops(value: object) -> object:
    return [value] if isinstance(value, str) else value


_STOP_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "maxItems": STOPS_MAX},
    ]
}
RetrievalFilter = Annotated[Filter, PlainValidator(_filter), WithJsonSchema(FILTER_SCHEMA)]
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


class StreamOptionsBody(OpenAIBody):
    include_usage: bool = False
    include_obfuscation: bool = Field(False, description="Ignored.")
    continuous_usage_stats: Literal[False] = False


class RetrievalBody(OpenAIBody, TermsBody, PromptOptions):
    """The options of `/v1/answer` for which OpenAI's interface has no words, and one for clients
    that keep nothing but the text.
    """

    corpus: Name | None = None
    top_k: TopK = ANSWER_TOP_K_DEFAULT
    filter: RetrievalFilter | None = None
    timeout_ms: TimeoutMs = 60_000
    min_coverage: Share = 1.0
    list_sources: bool = Field(
        False, description="Lists the ids of the citations under the answer."
    )


class AskingBody(OpenAIBody, SamplingOptions):
    """Whatever asks for answers in OpenAI's words."""

    neutral_values: ClassVar[Mapping[str, tuple[object, ...]]]

    model: Name = Field(
        description="`raygion` answers with retrieval, `raygion/NAME` from the corpus of that "
        "name, the language model's own name without."
    )
    max_tokens: MaxTokens | None = Field(None, description=f"Default {MAX_TOKENS_DEFAULT}.")
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
        for key, allowed in cls.neutral_values.items():
            if data.get(key) is not None and data[key] not in allowed:
                shown = " or ".join(orjson.dumps(value).decode() for value in allowed)
                raise InvalidArgument(f"is not supported, other than as {shown}", key)
        return {
            key: value
            for key, value in data.items()
            if key not in cls.neutral_values and key not in IGNORED_KEYS
        }

    def form(self) -> AnswerForm:
        """Raises InvalidArgument for options of a stream where there is none."""
        options = self.stream_options
        if options is not None and not self.stream:
            raise InvalidArgument("is only for streams; set stream to true", "stream_options")
        return AnswerForm(
            model=self.model,
            stream=self.stream,
            include_usage=options is not None and options.include_usage,
            list_sources=self.raygion.list_sources,
        )

    def to_request(
        self,
        question: str,
        *,
        field: str,
        max_tokens: int | None,
        trace_id: str,
        history: tuple[ChatMessage, ...] = (),
    ) -> AnswerRequest:
        """`field`: where the question stands in the body. Raises InvalidArgument."""
        retrieve, corpus = retrieval_of(self.model, self.raygion.corpus)
        if not question.strip():
            raise InvalidArgument("is empty", field)
        if retrieve and len(question) > TEXT_CHARS_MAX:
            raise InvalidArgument(
                f"has more than {TEXT_CHARS_MAX} characters, too many to search for; the language "
                "model's own name (see /v1/models) answers without retrieval",
                field,
            )
        return AnswerRequest(
            **_terms(self.raygion, self.user) | {"corpus": corpus},
            question=question,
            retrieve=retrieve,
            history=history,
            max_tokens=min(max_tokens or MAX_TOKENS_DEFAULT, MAX_TOKENS_MAX),
            temperature=self.temperature,
            stop=tuple(self.stop or ()),
            **self.sampling(),
            truncation=self.raygion.prompt_truncation(),
            trace_id=trace_id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerForm:
    """The form in which a client wants its answers."""

    model: str
    """The name that it asked for, which its reply repeats."""
    stream: bool
    include_usage: bool
    """Whether a stream ends with its usage."""
    list_sources: bool


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


def in_openai_words(error: InvalidArgument, question_field: str) -> InvalidArgument:
    """The error with the path of its field in the body, where `question_field` holds what is asked,
    and all that was said before.
    """
    first = (error.field or "").partition(".")[0]
    if first in RetrievalBody.model_fields:
        return type(error)(error.message, f"raygion.{error.field}")
    if first in ("question", "messages"):
        return type(error)(error.message, question_field)
    return error


def _terms(extra: RetrievalBody, user: str) -> dict[str, Any]:
    try:
        return extra.terms(user)
    except InvalidArgument as error:
        raise in_openai_words(error, "") from None
