"""OpenAI's embeddings over the embedder that searches use: its request and its reply."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from cluster.errors import InvalidArgument, NotFound
from cluster.query.search import EmbeddingResult, SearchRequest
from cluster.quoting import quoted
from cluster.search.checks import BATCH_MAX, TEXT_CHARS_MAX
from deployments.http.openai.asking import RETRIEVAL_MODEL, OpenAIBody, retrieval_of
from deployments.http.schemas.json_body import parse_body
from deployments.http.schemas.replies import EmbeddingsSourceReply, with_provenance
from deployments.http.schemas.search import Texts
from deployments.http.schemas.terms import Name, ReleaseNumber, TimeoutMs, User


def _texts(value: object) -> object:
    """A lone text as a list of one. Lists of numbers are tokens of a tokenizer that is not ours."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        raise PydanticCustomError(
            "tokens",
            "must be texts, not tokens; LangChain's OpenAIEmbeddings sends texts with "
            "check_embedding_ctx_length=False",
        )
    return value


_TEXT_SCHEMA = {"type": "string", "minLength": 1, "maxLength": TEXT_CHARS_MAX}
_INPUT_SCHEMA = {
    "anyOf": [
        _TEXT_SCHEMA,
        {"type": "array", "items": _TEXT_SCHEMA, "minItems": 1, "maxItems": BATCH_MAX},
    ]
}
Input = Annotated[Texts, BeforeValidator(_texts), WithJsonSchema(_INPUT_SCHEMA)]


class EmbeddingOptions(OpenAIBody):
    """The options of a search for which OpenAI's interface has no words."""

    release: ReleaseNumber | None = Field(
        None, description="A release that the region holds; null: the current one."
    )
    timeout_ms: TimeoutMs = Field(60_000, description="Time for the whole request.")


class EmbeddingsBody(OpenAIBody):
    model: Name = Field(
        description="`raygion`, or `raygion/NAME` for a corpus: the embedder of the release."
    )
    input: Input = Field(description="A text, or several.")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="`base64`: float32 numbers, little-endian, in base64."
    )
    dimensions: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Only the number that the embedder's vectors have."
    )
    user: User = Field("", description="Kept on one release while a canary is tried.")
    raygion: EmbeddingOptions = Field(
        EmbeddingOptions(), description="In OpenAI's Python client: extra_body={'raygion': {...}}."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsRequest:
    model: str
    request: SearchRequest
    in_base64: bool
    dimensions: int | None


def parse_embeddings(body: bytes, trace_id: str = "") -> EmbeddingsRequest:
    """Raises InvalidArgument, and NotFound for a model that embeds nothing."""
    asked = parse_body(EmbeddingsBody, body)
    embeds, corpus = retrieval_of(asked.model)
    if not embeds:
        raise NotFound(
            f"there is no embedding model {quoted(asked.model)!r}; there are: {RETRIEVAL_MODEL}, "
            f"and {RETRIEVAL_MODEL}/NAME for each corpus"
        )
    request = SearchRequest(
        queries=tuple(asked.input),
        corpus=corpus,
        release=asked.raygion.release,
        timeout_s=asked.raygion.timeout_ms / 1000.0,
        user=asked.user,
        trace_id=trace_id,
    )
    return EmbeddingsRequest(
        model=asked.model,
        request=request,
        in_base64=asked.encoding_format == "base64",
        dimensions=asked.dimensions,
    )


def in_words_of_embeddings(error: InvalidArgument) -> InvalidArgument:
    """The error with the path of its field in the body of this request."""
    first = (error.field or "").partition(".")[0]
    if first in EmbeddingOptions.model_fields:
        return type(error)(error.message, f"raygion.{error.field}")
    own = {"query": "input", "queries": "input", "corpus": "model"}.get(first, error.field)
    return type(error)(error.message, own)


def render_embeddings(result: EmbeddingResult, asked: EmbeddingsRequest) -> bytes:
    made = result.embedded
    vectors = np.ascontiguousarray(made.vectors, dtype="<f4")
    rows = [base64.b64encode(v).decode() for v in vectors] if asked.in_base64 else vectors
    return orjson.dumps(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": number, "embedding": row}
                for number, row in enumerate(rows)
            ],
            "model": asked.model,
            "usage": {"prompt_tokens": result.num_tokens, "total_tokens": result.num_tokens},
            "raygion": with_provenance(result, embedder=made.model),
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


class EmbeddingReply(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsageReply(BaseModel):
    prompt_tokens: int = Field(description="Tokens of the texts, without special tokens.")
    total_tokens: int


class EmbeddingsReply(BaseModel):
    object: Literal["list"]
    data: list[EmbeddingReply]
    model: str
    usage: EmbeddingsUsageReply
    raygion: EmbeddingsSourceReply = Field(description="What the vectors were made by.")


EMBEDDINGS_EXAMPLES: dict[str, Any] = {
    "two texts": {
        "value": {"model": RETRIEVAL_MODEL, "input": ["The capital of Iceland?", "Tea exporters"]}
    }
}
