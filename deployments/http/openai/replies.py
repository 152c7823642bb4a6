"""The replies of OpenAI's chat interface: whole, streamed, and the list of models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import orjson
from pydantic import BaseModel, Field

from cluster.query.answers import AnswerEvent, AnswerResult, Retrieved, Token
from deployments.http.openai.annotations import AnnotationReply, annotations_of
from deployments.http.openai.asking import RETRIEVAL_MODEL, corpus_model
from deployments.http.openai.reply_parts import (
    ChatUsageReply,
    ReplyChunks,
    ReplyHead,
    source_of,
    usage_of,
)
from deployments.http.schemas.replies import ChatSourceReply


def render_chat(result: AnswerResult, head: ReplyHead) -> bytes:
    return orjson.dumps(
        {
            **head.of("chat.completion"),
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

    def __init__(self, head: ReplyHead, *, include_usage: bool) -> None:
        kind = "chat.completion.chunk"
        self._chunks = ReplyChunks(head.of(kind), include_usage=include_usage)
        self._texts: list[str] = []

    def event(self, event: AnswerEvent) -> bytes:
        match event:
            case Retrieved():
                opening: dict[str, object] = {"role": "assistant", "content": ""}
                return self._chunks.chunk(_choice(opening), raygion=source_of(event))
            case Token():
                self._texts.append(event.text)
                return self._chunks.chunk(_choice({"content": event.text}))
            case AnswerResult():
                found = annotations_of("".join(self._texts), event.citations)
                delta: dict[str, object] = {"annotations": found} if found else {}
                last = self._chunks.chunk(_choice(delta, event.finish_reason))
                return last + self._chunks.ending(event.usage)

    def error(self, body: bytes) -> bytes:
        return self._chunks.error(body)


def _choice(delta: dict[str, object], finish_reason: str | None = None) -> dict[str, object]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


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
