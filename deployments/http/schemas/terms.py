"""The terms of a request in JSON, which the bodies of searches, answers and chats share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from cluster.query.filters import Filter, parse_filter
from cluster.query.read_consistency import ConsistencyLevel, read_consistency_of
from cluster.query.session import TOKEN_CHARS_MAX
from cluster.query.terms import TIMEOUT_S_MAX, TOP_K_MAX
from deployments.http.schemas.json_body import Body

_NAME_LENGTH_MAX = 256
_USER_LENGTH_MAX = 1024
_STALENESS_MS_MAX = 2**53
_TIMEOUT_MS_MAX = int(TIMEOUT_S_MAX * 1000)
_RELEASE_MAX = 2**63 - 1


def _filter(value: object) -> Filter:
    return parse_filter(value)


FILTER_SCHEMA = {
    "type": "object",
    "description": 'A condition over metadata: {"region": "europe"}, {"year": {"gte": 2000}}, '
    '{"region": {"in": [...]}}, {"and": [...]}, {"or": [...]}, {"not": {...}}.',
}
Name = Annotated[str, Field(min_length=1, max_length=_NAME_LENGTH_MAX)]
FilterJson = Annotated[Filter, PlainValidator(_filter), WithJsonSchema(FILTER_SCHEMA)]
TimeoutMs = Annotated[int, Field(ge=1, le=_TIMEOUT_MS_MAX)]
TopK = Annotated[int, Field(ge=1, le=TOP_K_MAX)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
ReleaseNumber = Annotated[int, Field(ge=0, le=_RELEASE_MAX)]
Level = Annotated[
    str,
    Field(max_length=_NAME_LENGTH_MAX),
    WithJsonSchema({"type": "string", "enum": [level.value for level in ConsistencyLevel]}),
]
SessionText = Annotated[str, Field(max_length=TOKEN_CHARS_MAX)]
StalenessMs = Annotated[int, Field(ge=0, le=_STALENESS_MS_MAX)]
User = Annotated[
    str,
    Field(
        max_length=_USER_LENGTH_MAX,
        description="A user or session, kept on one release while a canary is tried.",
    ),
]


class TermsBody(Body):
    """The options of `cluster.query.terms.Terms`, but for the user, whom a chat names elsewhere.
    Bodies that do not redefine an option take it as it stands here.
    """

    release: ReleaseNumber | None = Field(
        None, description="A release that the region holds; null: the current one."
    )
    documents: Literal["base"] | None = Field(
        None,
        description="`base`, with a `release` alone: without documents that were written one by "
        "one since it was built.",
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
    corpus: Name | None = Field(None, description="May be left out where there is one corpus.")
    top_k: TopK
    filter: FilterJson | None = None
    timeout_ms: TimeoutMs
    min_coverage: Share = Field(
        1.0, description="Least share of the shards that must have answered."
    )

    def terms(self, user: str) -> dict[str, Any]:
        """The fields of the request's terms by name. Raises InvalidArgument for what does not go
        together.
        """
        return {
            "corpus": self.corpus,
            "top_k": self.top_k,
            "filter": self.filter,
            "timeout_s": self.timeout_ms / 1000.0,
            "min_coverage": self.min_coverage,
            "release": self.release,
            "documents": self.documents,
            "user": user,
            "consistency": read_consistency_of(
                self.consistency, self.session, self.max_staleness_ms, release=self.release
            ),
        }
