"""The terms of a request: what callers ask for besides the query or the question itself."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

from cluster.errors import InvalidArgument
from cluster.query.filters import Filter, filter_to_json, is_encodable
from cluster.query.read_consistency import EVENTUAL, ReadConsistency

TOP_K_MAX = 1000
TIMEOUT_S_MAX = 600.0
BASE: Final = "base"
"""The documents of a release as they were built, without what was written one by one since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The options that searches and answers share."""

    corpus: str | None = None
    """None means the release's only corpus."""
    top_k: int
    """Hits for each query, or passages to answer from."""
    filter: Filter | None = None
    timeout_s: float
    """Time for the whole request."""
    min_coverage: float = 1.0
    """Least share of shards that must answer, in [0, 1]."""
    release: int | None = None
    """Pins the request to a resident release; None takes the current one."""
    documents: str | None = None
    """BASE answers from the release's own documents alone, as they were built: the same bytes for
    ever. None has the live ones, too.
    """
    user: str = ""
    """User or session that asks: served by the same release while a canary is tried."""
    consistency: ReadConsistency = EVENTUAL

    def terms(self) -> dict[str, Any]:
        """The fields of the terms by name."""
        return {field.name: getattr(self, field.name) for field in fields(Terms)}

    def check_terms(self) -> None:
        """Raises InvalidArgument naming the option that is out of its bounds."""
        if not is_encodable(self.user):
            raise InvalidArgument("is not valid Unicode", "user")
        if not 1 <= self.top_k <= TOP_K_MAX:
            raise InvalidArgument(f"must be in 1 ... {TOP_K_MAX}", "top_k")
        if not 0.0 < self.timeout_s <= TIMEOUT_S_MAX:
            raise InvalidArgument(f"must be over 0 and at most {TIMEOUT_S_MAX:.0f} s", "timeout_ms")
        if not 0.0 <= self.min_coverage <= 1.0:
            raise InvalidArgument("must be in 0 ... 1", "min_coverage")
        if self.documents not in (None, BASE):
            raise InvalidArgument(f"must be {BASE!r}, or be left out", "documents")
        if self.documents is not None and self.release is None:
            raise InvalidArgument(
                f"of {BASE!r} needs a named `release`, whose documents are meant", "documents"
            )

    def to_json(self, timeout_ms: int) -> dict[str, Any]:
        """The terms as the body of a request with that much time left. An option that asks for
        nothing is left out, since a region of an older version refuses keys that it does not know.
        """
        options = {
            "corpus": self.corpus,
            "top_k": self.top_k,
            "filter": None if self.filter is None else filter_to_json(self.filter),
            "timeout_ms": timeout_ms,
            "min_coverage": self.min_coverage,
            "release": self.release,
            "documents": self.documents,
            "user": self.user or None,
            **self.consistency.as_options(),
        }
        return {name: value for name, value in options.items() if value is not None}
