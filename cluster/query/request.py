"""A request on its way: its terms, and what the interfaces and the regions know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.arrays import Float32Array
from cluster.mutations.watermark import Watermark
from cluster.query.caller import ANYONE, Caller
from cluster.query.terms import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """The vectors of a request's texts, made before it is sent to several regions: the last bits of
    a vector may depend on the kind of processor, and all of them are to search for the same.
    """

    model: str
    """The version of the embedder that made them."""
    vectors: Float32Array
    """float32 [n, d], one row a text"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Terms):
    """Base of searches and questions. Callers fill in none of these fields."""

    embedded: Embedded | None = None
    """Vectors of the request's texts. A release with another embedder embeds the texts itself."""
    trace_id: str = ""
    caller: Caller = ANYONE
    """Caller of the request, for the choice of the region."""
    forwarded_by: str = ""
    """Region that sent the request here; the request is not sent on."""
    not_before: int = 0
    """Position in the release log of the oldest switch that may serve."""
    documents_floor: Mapping[str, Watermark] = field(default_factory=dict)
    """How far live documents must have come to serve, by corpus. The reply's token is not behind
    it.
    """
