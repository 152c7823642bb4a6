"""The replies of OpenAI's chat interface: whole, streamed, and the list of models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import orjson
from pydantic import BaseModel, Field

from cluster.query.answers import AnswerEvent, AnswerResult, Retrieved, Token, Usage
from deployments.http.openai.annotations import AnnotationReply, annotations_of
from deployments.http.openai.asking import RETRIEVAL_MODEL, corpus_model
from deployments.http.schemas.replies import ChatSourceReply, with_provenance
from deployments.http.streams.sse import data_event


def render_chat(result: AnswerResult, *, model: str, completion_id: str, created_s: int) -> bytes:
    return orjson.dumps(
        {
            "id": completion_id,
            "object": "chat.completion",
            "created": created_s,
            "model": model,
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": result.answer,
                        "annotations": annotations_of(result.answer, result.citations),
                    },
                    "logprobs": None,
                    "finish_reason": result.finish_reason,
                }
            ],
            "usage": usage_of(result.usage),
            "raygion": source_of(result),
        }
    )


def model_names(plain_model: str | None, corpora: Sequence[str] = ()) -> list[str]:
    """The models of a release: one for each corpus, too, where there are several. None at all where
    the release only searches.
    """
    if plain_model is None:
        return []
    by_corpus = map(corpus_model, corpora) if len(corpora) > 1 else ()
    return [RETRIEVAL_MODEL, *by_corpus, plain_model]


def render_models(names: Sequence[str]) -> bytes:
    return orjson.dumps({"object": "list", "data": [_model(name) for name in names]})


def render_model(name: str) -> bytes:
    return orjson.dumps(_model(name))


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "raygion"}


class ChatChunks:
    """The stream of one chat: the role first, pieces of text, the reason of the end, then the usage
    if it was asked for, then `[DONE]`. The first chunk carries `raygion`: what the answer is made
    of is known before its text. The last delta carries the annotations, whose positions in the text
    are known then; all in one chunk, since OpenAI's client raises for lists in several chunks whose
    entries have no `index`.
    """

    def __init__(
        self, *, model: str, completion_id: str, created_s: int, include_usage: bool
    ) -> None:
        self._head: dict[str, object] = {
            "id": completion_id,
            "object": "chat.completion.chunk",
            "created": created_s,
            "model": model,
        }
        self._include_usage = include_usage
        self._texts: list[str] = []
        if include_usage:
            self._head["usage"] = None

    def event(self, event: AnswerEvent) -> bytes:
        match event:
            case Retrieved():
                opening: dict[str, object] = {"role": "assistant", "content": ""}
                return self._chunk(opening, None, {"raygion": source_of(event)})
            case Token():
                self._texts.append(event.text)
                return self._chunk({"content": event.text}, None, {})
            case AnswerResult():
                found = annotations_of("".join(self._texts), event.citations)
                delta: dict[str, object] = {"annotations": found} if found else {}
                last = self._chunk(delta, event.finish_reason, {})
                if self._include_usage:
                    usage = {**self._head, "choices": [], "usage": usage_of(event.usage)}
                    last += data_event(orjson.dumps(usage))
                return last + data_event(b"[DONE]")

    def error(self, body: bytes) -> bytes:
        """No `[DONE]` follows: the answer is not complete."""
        return data_event(body)

    def _chunk(
        self, delta: dict[str, object], finish_reason: str | None, extra: dict[str, object]
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return data_event(orjson.dumps({**self._head, "choices": [choice], **extra}))


def usage_of(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def source_of(made: Retrieved | AnswerResult) -> dict[str, object]:
    return {
        **with_provenance(made, citations=made.citations),
        "outcome": made.outcome,
        "truncated": made.truncated,
    }


class ChatMessageReply(BaseModel):
    role: Literal["assistant"]
    content: str
    annotations: list[AnnotationReply] = Field(
        description="The citations again, where they stand in `content`."
    )


class ChatChoiceReply(BaseModel):
    index: Literal[0]
    message: ChatMessageReply
    logprobs: None
    finish_reason: str


class ChatUsageReply(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatReply(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoiceReply]
    usage: ChatUsageReply
    raygion: ChatSourceReply = Field(description="What the answer was made of.")


class ModelReply(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelsReply(BaseModel):
    object: Literal["list"]
    data: list[ModelReply]


CHAT_EXAMPLES: dict[str, Any] = {
    "with retrieval": {
        "value": {
            "model": RETRIEVAL_MODEL,
            "messages": [{"role": "user", "content": "What is the capital of Iceland?"}],
        }
    },
    "streamed, one world region": {
        "value": {
            "model": RETRIEVAL_MODEL,
            "messages": [{"role": "user", "content": "Which countries mine copper?"}],
            "stream": True,
            "raygion": {"filter": {"region": "africa"}, "top_k": 6},
        }
    },
}
