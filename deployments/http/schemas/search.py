"""The body of `/v1/search`: its schema, and the way to the query path's values.

One pydantic model a body says both what is accepted and what stands in the OpenAPI page. Every
refusal is an InvalidArgument that names the field.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from cluster.arrays import Float32Array
from cluster.errors import InvalidArgument
from cluster.query.request import Embedded
from cluster.query.search import AS_TUNED, TOP_K_DEFAULT, SearchEffort, SearchRequest
from cluster.search.checks import BATCH_MAX, NPROBE_MAX, TEXT_CHARS_MAX, check_hits
from cluster.shards.index_parameters import EF_SEARCH_MAX
from cluster.vectors.checks import are_short
from deployments.http.schemas.json_body import Body, parse_body, validated
from deployments.http.schemas.json_vectors import body_vectors
from deployments.http.schemas.terms import Name, TermsBody, TimeoutMs, TopK, User

_FIELDS_MAX = 256

HitField = Literal["text", "metadata"]
HIT_FIELDS: frozenset[HitField] = frozenset(("text", "metadata"))
"""Fields of a hit besides its id and score."""


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "is empty")
    return text


Text = Annotated[str, Field(min_length=1, max_length=TEXT_CHARS_MAX), AfterValidator(_not_blank)]
# fail_fast: a body may hold a million wrong items, and one error is enough.
Vector = Annotated[list[float], Field(fail_fast=True, min_length=1)]
Batch = Annotated[list[Vector], Field(fail_fast=True, min_length=1, max_length=BATCH_MAX)]
Texts = Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=BATCH_MAX)]
Fields = Annotated[list[Name], Field(fail_fast=True, max_length=_FIELDS_MAX)]
HitFields = Annotated[list[HitField], Field(fail_fast=True, max_length=len(HIT_FIELDS))]
EfSearch = Annotated[int, Field(ge=1, le=EF_SEARCH_MAX)]
Nprobe = Annotated[int, Field(ge=1, le=NPROBE_MAX)]


class SearchOptions(TermsBody):
    """How to search, whatever for: in the JSON body, or in the URL of a binary one."""

    top_k: TopK = Field(TOP_K_DEFAULT, description="Hits for each query.")
    include: HitFields | None = Field(
        None, description="What hits hold besides id and score; null: all of it."
    )
    fields: Fields | None = Field(None, description="Metadata fields to return; null: all.")
    timeout_ms: TimeoutMs = Field(5000, description="Time for the whole request.")
    user: User = ""
    ef_search: EfSearch | None = Field(
        None, description="How far an HNSW graph is searched; null: as far as it was tuned to."
    )
    nprobe: Nprobe | None = Field(
        None, description="Lists of an IVF index that are searched; null: as many as tuned to."
    )
    recall: Literal["exact"] | None = Field(
        None, description="`exact` compares with every passage, whatever the index."
    )

    def included(self) -> frozenset[HitField]:
        return HIT_FIELDS if self.include is None else frozenset(self.include)

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
            **self.terms(self.user),
            queries=queries,
            vectors=vectors,
            fields=None if fields is None else tuple(fields),
            effort=self._effort(),
            passages=passages and bool(included),
            trace_id=trace_id,
        )

    def _effort(self) -> SearchEffort:
        if self.ef_search is None and self.nprobe is None and self.recall is None:
            return AS_TUNED
        return SearchEffort(
            ef_search=self.ef_search, nprobe=self.nprobe, exact=self.recall == "exact"
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
    include: frozenset[HitField]


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
