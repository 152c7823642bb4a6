"""The body of `/v1/search`: its schema, the way to the query path's values, and what other bodies
share with it.

One pydantic model a body says both what is accepted and what stands in the OpenAPI page. Every
refusal is an InvalidArgument that names the field.
"""

from __future__ import annotations

import base64
import codecs
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from cluster import exact_json
from cluster.arrays import Float32Array
from cluster.errors import InvalidArgument
from cluster.query.demand import Consistency, Demand, demand_of
from cluster.query.filters import Filter, parse_filter
from cluster.query.request import Embedded
from cluster.query.search import TOP_K_DEFAULT, SearchEffort, SearchRequest
from cluster.query.terms import TIMEOUT_S_MAX, TOP_K_MAX
from cluster.search.checks import (
    BATCH_MAX,
    NPROBE_MAX,
    TEXT_CHARS_MAX,
    check_hits,
)
from cluster.shards.index_parameters import EF_SEARCH_MAX
from cluster.vectors.checks import are_short
from deployments.http.schemas.json_vectors import body_vectors

TIMEOUT_MS_MAX = int(TIMEOUT_S_MAX * 1000)
_NAME_LENGTH_MAX = 256
_USER_LENGTH_MAX = 1024
_TOKEN_LENGTH_MAX = 512
_STALENESS_MS_MAX = 2**53
_FIELDS_MAX = 256
_RELEASE_MAX = 2**63 - 1
_QUOTED_LENGTH_MAX = 64


Part = Literal["text", "metadata"]
PARTS: frozenset[Part] = frozenset(("text", "metadata"))
"""Parts of a hit besides its id and score."""


def quoted(text: str) -> str:
    """`text` as it goes into a message: printable and bounded."""
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return shown if len(shown) <= _QUOTED_LENGTH_MAX else shown[: _QUOTED_LENGTH_MAX - 3] + "..."


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "is empty")
    return text


def _filter(value: object) -> Filter:
    return parse_filter(value)


FILTER_SCHEMA = {
    "type": "object",
    "description": 'A condition over metadata: {"region": "europe"}, {"year": {"gte": 2000}}, '
    '{"region": {"in": [...]}}, {"and": [...]}, {"or": [...]}, {"not": {...}}.',
}
Text = Annotated[str, Field(min_length=1, max_length=TEXT_CHARS_MAX), AfterValidator(_not_blank)]
Name = Annotated[str, Field(min_length=1, max_length=_NAME_LENGTH_MAX)]
FilterJson = Annotated[Filter, PlainValidator(_filter), WithJsonSchema(FILTER_SCHEMA)]
# fail_fast: a body may hold a million wrong items, and one error is enough.
Vector = Annotated[list[float], Field(fail_fast=True, min_length=1)]
Batch = Annotated[list[Vector], Field(fail_fast=True, min_length=1, max_length=BATCH_MAX)]
Texts = Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=BATCH_MAX)]
Fields = Annotated[list[Name], Field(fail_fast=True, max_length=_FIELDS_MAX)]
Parts = Annotated[list[Part], Field(fail_fast=True, max_length=len(PARTS))]
TimeoutMs = Annotated[int, Field(ge=1, le=TIMEOUT_MS_MAX)]
TopK = Annotated[int, Field(ge=1, le=TOP_K_MAX)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
ReleaseNumber = Annotated[int, Field(ge=0, le=_RELEASE_MAX)]
Level = Annotated[
    str,
    Field(max_length=_NAME_LENGTH_MAX),
    WithJsonSchema({"type": "string", "enum": [level.value for level in Consistency]}),
]
SessionText = Annotated[str, Field(max_length=_TOKEN_LENGTH_MAX)]
StalenessMs = Annotated[int, Field(ge=0, le=_STALENESS_MS_MAX)]
UserKey = Annotated[str, Field(max_length=_USER_LENGTH_MAX)]
EfSearch = Annotated[int, Field(ge=1, le=EF_SEARCH_MAX)]
Nprobe = Annotated[int, Field(ge=1, le=NPROBE_MAX)]


class Body(BaseModel):
    """A JSON object from outside: strict about types, closed to unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
    known_keys: ClassVar[frozenset[str]]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.known_keys = frozenset(cls.model_fields)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: object) -> object:
        # Before pydantic's own check, which would make one error for each of a million keys.
        if isinstance(data, dict) and not data.keys() <= cls.known_keys:
            unknown = next(key for key in data if key not in cls.known_keys)
            known = ", ".join(sorted(cls.known_keys))
            raise PydanticCustomError(
                "unknown_key", "is not known; known: {known}", {"key": unknown, "known": known}
            )
        return data


class ReleaseOptions(Body):
    """The options on the release that is to answer: a named one, or one that meets a demand."""

    release: ReleaseNumber | None = Field(
        None, description="A release that the region holds; null: the current one."
    )
    consistency: Level | None = Field(
        None,
        description="Null: `bounded` with `max_staleness_ms`, `session` with a token, else "
        "`eventual`.",
    )
    session: SessionText | None = Field(
        None, description="The token of an earlier reply: nothing older than that one."
    )
    max_staleness_ms: StalenessMs | None = Field(
        None, description="How long ago at most the release must have been current."
    )

    def demand(self) -> Demand:
        """Raises InvalidArgument for what does not go together."""
        return demand_of(
            self.consistency, self.session, self.max_staleness_ms, release=self.release
        )


class SearchOptions(ReleaseOptions):
    """How to search, whatever for: in the JSON body, or in the URL of a binary one."""

    corpus: Name | None = Field(None, description="May be left out where there is one corpus.")
    top_k: TopK = Field(TOP_K_DEFAULT, description="Hits for each query.")
    filter: FilterJson | None = None
    include: Parts | None = Field(
        None, description="What hits hold besides id and score; null: all of it."
    )
    fields: Fields | None = Field(None, description="Metadata fields to return; null: all.")
    timeout_ms: TimeoutMs = Field(5000, description="Time for the whole request.")
    min_coverage: Share = Field(
        1.0, description="Least share of the shards that must have answered."
    )
    user: UserKey = Field(
        "", description="A user or session, kept on one release while a canary is tried."
    )
    ef_search: EfSearch | None = Field(
        None, description="How far an HNSW graph is searched; null: as far as it was tuned to."
    )
    nprobe: Nprobe | None = Field(
        None, description="Lists of an IVF index that are searched; null: as many as tuned to."
    )
    recall: Literal["exact"] | None = Field(
        None, description="`exact` compares with every passage, whatever the index."
    )

    def included(self) -> frozenset[Part]:
        return PARTS if self.include is None else frozenset(self.include)

    def to_request(
        self,
        queries: tuple[str, ...] | None,
        vectors: Float32Array | None,
        trace_id: str,
        *,
        passages: bool,
    ) -> SearchRequest:
        included = self.included()
        fields = self.fields if "metadata" in included else ()
        return SearchRequest(
            corpus=self.corpus,
            queries=queries,
            vectors=vectors,
            top_k=self.top_k,
            filter=self.filter,
            fields=None if fields is None else tuple(fields),
            timeout_s=self.timeout_ms / 1000.0,
            min_coverage=self.min_coverage,
            effort=SearchEffort(
                ef_search=self.ef_search, nprobe=self.nprobe, exact=self.recall == "exact"
            ),
            passages=passages and bool(included),
            release=self.release,
            user=self.user,
            trace_id=trace_id,
            demand=self.demand(),
        )


class EmbeddedBody(Body):
    """The vectors of texts, as the region made them that asks several for the same."""

    model: Name = Field(description="The version of the embedder that made them.")
    vectors: str = Field(description="float32, little-endian, a row for each text; in base64.")

    def to_embedded(self, num_texts: int) -> Embedded:
        try:
            numbers = np.frombuffer(base64.b64decode(self.vectors, validate=True), dtype="<f4")
            vectors = numbers.reshape(num_texts, -1)
        except ValueError:
            raise InvalidArgument(
                "must be float32 in base64, of one length for each text", "embedded.vectors"
            ) from None
        return Embedded(model=self.model, vectors=_finite(vectors, "embedded.vectors"))


class SearchBody(SearchOptions):
    """Give exactly one of `query`, `vector`, `queries` and `vectors`."""

    query: Text | None = Field(None, description="A text to search for.")
    vector: Vector | None = Field(None, description="A ready-made vector of the index's dimension.")
    queries: Texts | None = Field(None, description="Texts, answered together in this order.")
    vectors: Batch | None = Field(None, description="Vectors of one length, answered together.")
    embedded: EmbeddedBody | None = Field(
        None, description="Between regions: the vectors of `queries`."
    )


_ASKED = ("query", "vector", "queries", "vectors")


@dataclass(frozen=True, slots=True)
class ReplyForm:
    """The form of the reply to a search."""

    is_batch: bool
    """True for `queries` and `vectors`, and for every binary request."""
    include: frozenset[Part]


def parse_search(
    body: bytes, trace_id: str = "", *, passages: bool = True
) -> tuple[SearchRequest, ReplyForm]:
    """Without `passages` the reply has no use for texts and metadata. Raises InvalidArgument."""
    found = body_vectors(body)
    if found is None:
        asked, given, queries, vectors = _parsed_search(body)
    else:
        asked, given, queries = validated(SearchBody, found.others), found.field, None
        others = [name for name in _ASKED if getattr(asked, name) is not None]
        if others:
            raise _only_one_of(others[0], given)
        vectors = _finite(found.vectors, given)
    num_queries = (
        len(queries) if queries is not None else len(vectors if vectors is not None else ())
    )
    check_hits(num_queries, asked.top_k)
    request = asked.to_request(queries, vectors, trace_id, passages=passages)
    if asked.embedded is not None:
        request = replace(request, embedded=asked.embedded.to_embedded(len(queries or ())))
    return request, ReplyForm(given in ("queries", "vectors"), asked.included())


def _parsed_search(
    body: bytes,
) -> tuple[SearchBody, str, tuple[str, ...] | None, Float32Array | None]:
    """The body, the field that says what is searched for, and that as texts or as vectors."""
    asked = parse_body(SearchBody, body)
    given = [name for name in _ASKED if getattr(asked, name) is not None]
    if not given:
        raise InvalidArgument("give one of query, vector, queries and vectors", "query")
    if len(given) > 1:
        raise _only_one_of(*given)
    queries: tuple[str, ...] | None = None
    vectors: Float32Array | None = None
    if asked.query is not None:
        queries = (asked.query,)
    elif asked.queries is not None:
        queries = tuple(asked.queries)
    elif asked.vector is not None:
        vectors = _to_array([asked.vector], "vector")
    elif asked.vectors is not None:
        vectors = _to_array(asked.vectors, "vectors")
    return asked, given[0], queries, vectors


def _only_one_of(*given: str) -> InvalidArgument:
    return InvalidArgument(f"give only one of {' and '.join(given)}", given[1])


BodyT = TypeVar("BodyT", bound=Body)


def parse_body(model: type[BodyT], body: bytes) -> BodyT:
    """Raises InvalidArgument for what is no JSON object or does not fit the model."""
    # Some programs begin a text with a byte order mark, which RFC 8259 lets a reader skip.
    body = body.removeprefix(codecs.BOM_UTF8)
    if not body:
        raise InvalidArgument("is empty; send a JSON object", "body")
    try:
        parsed = exact_json.loads(body)
    except ValueError as error:
        if not _is_utf8(body):
            raise InvalidArgument(
                "is not text in UTF-8; send JSON in UTF-8, and not compressed", "body"
            ) from None
        raise InvalidArgument(f"is not valid JSON: {error}", "body") from None
    if not isinstance(parsed, dict):
        raise InvalidArgument("must be a JSON object", "body")
    return validated(model, parsed)


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def validated(model: type[BodyT], parsed: dict[str, Any]) -> BodyT:
    """Raises InvalidArgument for what does not fit the model."""
    try:
        return model.model_validate(parsed)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)[0]
        raise invalid_argument(details) from None


def _to_array(rows: list[list[float]], field: str) -> Float32Array:
    if len(set(map(len, rows))) > 1:
        raise InvalidArgument("must all have the same length", field)
    with np.errstate(over="ignore"):
        return _finite(np.array(rows, dtype=np.float32), field)


def _finite(vectors: Float32Array, field: str) -> Float32Array:
    # JSON has no NaN or infinity, but 1e39 becomes one as float32.
    if not are_short(vectors) and not np.isfinite(vectors).all():
        raise InvalidArgument("has a number that does not fit in 32 bits", field)
    return vectors


_MESSAGES = {
    "missing": "is required",
    "string_too_short": "is empty",
    "string_too_long": "has more than {max_length} characters",
    "too_short": "is empty",
    "too_long": "has more than {max_length} items",
}


def invalid_argument(details: ErrorDetails) -> InvalidArgument:
    context: dict[str, Any] = details.get("ctx") or {}
    location = details["loc"]
    if details["type"] == "unknown_key":
        location = (*location, quoted(context["key"]))
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    template = _MESSAGES.get(details["type"])
    message = template.format(**context) if template else details["msg"]
    return InvalidArgument(
        message.replace("Input should be", "must be"), path.lstrip(".") or "body"
    )
