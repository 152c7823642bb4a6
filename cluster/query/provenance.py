"""The provenance of a reply: which release made it, where, and from how much of the index."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from cluster.query.session import SessionToken


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Facts that every reply tells of itself."""

    release: int
    """Release that made the whole reply."""
    region: str
    """Region that received the request."""
    coverage: float
    """Shards that answered / shards asked, in [0, 1]."""
    trace_id: str
    served_by: str
    """Region that made the reply."""
    staleness_ms: int
    """Upper bound on how long ago the release was current when it was chosen."""
    session: str
    """Token for "not older than this reply"; empty where the region cannot make one yet."""

    def with_passages(self, found: Provenance) -> Provenance:
        """That of an answer from passages which one of its release's searches has `found`."""
        session = self.session
        if session != found.session and session and found.session:
            documents = SessionToken.decode(found.session).documents
            session = SessionToken.decode(session).joined(documents).encode()
        return replace(
            self,
            coverage=found.coverage,
            staleness_ms=max(self.staleness_ms, found.staleness_ms),
            session=session,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HasProvenance:
    """Base of the replies, whose provenance can be read as attributes of their own."""

    provenance: Provenance

    @property
    def release(self) -> int:
        return self.provenance.release

    @property
    def region(self) -> str:
        return self.provenance.region

    @property
    def coverage(self) -> float:
        return self.provenance.coverage

    @property
    def trace_id(self) -> str:
        return self.provenance.trace_id

    @property
    def served_by(self) -> str:
        return self.provenance.served_by

    @property
    def staleness_ms(self) -> int:
        return self.provenance.staleness_ms

    @property
    def session(self) -> str:
        return self.provenance.session

    def received_by(self, region: str) -> Self:
        """The reply as the region that received the request hands it on."""
        return replace(self, provenance=replace(self.provenance, region=region))
