"""The body of `/v1/answer`, and what is asked in the same words for every other answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from cluster.generation.prompt import Truncation
from cluster.query.answers import ANSWER_TOP_K_DEFAULT, AnswerRequest
from cluster.search.checks import (
    MAX_TOKENS_MAX,
    PENALTY_MAX,
    SEED_MAX,
    SEED_MIN,
    STOP_CHARS_MAX,
    STOPS_MAX,
    TEMPERATURE_MAX,
)
from deployments.http.schemas.json_body import Body, parse_body
from deployments.http.schemas.search import Text
from deployments.http.schemas.terms import TermsBody, TimeoutMs, TopK, User

MaxTokens = Annotated[int, Field(ge=1, le=MAX_TOKENS_MAX)]
Temperature = Annotated[float, Field(ge=0.0, le=TEMPERATURE_MAX)]
Penalty = Annotated[float, Field(ge=-PENALTY_MAX, le=PENALTY_MAX)]
Seed = Annotated[int, Field(ge=SEED_MIN, le=SEED_MAX)]
StopText = Annotated[str, Field(min_length=1, max_length=STOP_CHARS_MAX)]
StopTexts = Annotated[list[StopText], Field(fail_fast=True, max_length=STOPS_MAX)]


class SamplingOptions(Body):
    """How the model draws its tokens, beside the temperature."""

    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    seed: Seed | None = None

    def sampling(self) -> dict[str, Any]:
        """The fields of the sampling by name."""
        return {key: getattr(self, key) for key in SamplingOptions.model_fields}


class PromptOptions(Body):
    """The treatment of a prompt that does not fit into the model's context."""

    truncation: Literal["auto", "disabled"] | None = Field(
        None,
        description="`auto` leaves out the oldest messages and the weakest passages, and the reply "
        "tells what; `disabled` refuses the request. Null: `auto` with retrieval, `disabled` for "
        "the plain model.",
    )

    def prompt_truncation(self) -> Truncation | None:
        return None if self.truncation is None else Truncation(self.truncation)


class AnswerBody(TermsBody, PromptOptions):
    question: Text
    top_k: TopK = Field(ANSWER_TOP_K_DEFAULT, description="Passages to answer from.")
    max_tokens: MaxTokens = Field(128, description="Longest answer, in tokens.")
    temperature: Temperature = Field(0.0, description="0 takes the likeliest token every time.")
    stream: bool = Field(False, description="True: server-sent events, token by token.")
    timeout_ms: TimeoutMs = Field(60_000, description="Time for the whole request.")
    user: User = ""

    def to_request(self, trace_id: str) -> AnswerRequest:
        return AnswerRequest(
            **self.terms(self.user),
            question=self.question,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            truncation=self.prompt_truncation(),
            trace_id=trace_id,
        )


def parse_answer(body: bytes, trace_id: str = "") -> tuple[AnswerRequest, bool]:
    """The request, and whether the answer is to be streamed. Raises InvalidArgument."""
    asked = parse_body(AnswerBody, body)
    return asked.to_request(trace_id), asked.stream
