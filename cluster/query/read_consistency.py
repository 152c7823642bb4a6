"""The read consistency that a request asks for: a level, a session token, a bound.

level     release that answers, with the documents
eventual  that are current as far as the region knows
session   that, and nothing older than what the token's bearer has seen
bounded   that were current at most `max_staleness_ms` ago
quorum    what a majority of the regions answers, release and hits alike
strong    that were current at some moment after the request was made
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from cluster.errors import InvalidArgument
from cluster.mutations.watermark import Watermark
from cluster.query.session import SessionToken


class ConsistencyLevel(StrEnum):
    EVENTUAL = "eventual"
    SESSION = "session"
    BOUNDED = "bounded"
    QUORUM = "quorum"
    STRONG = "strong"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadConsistency:
    """The consistency of one request; `read_consistency_of` makes it and checks what goes
    together.
    """

    level: ConsistencyLevel = ConsistencyLevel.EVENTUAL
    session: SessionToken | None = None
    """Honoured at every level but `eventual`, which has one only with a named release."""
    max_staleness_ms: int | None = None
    """Bound of the level `bounded`; None at all other levels."""

    @property
    def floor(self) -> int:
        """The position in the release log of the oldest switch that will do."""
        return 0 if self.session is None else self.session.position

    @property
    def documents(self) -> Mapping[str, Watermark]:
        """How far live documents must have come at least, by corpus."""
        return {} if self.session is None else self.session.documents

    def having_seen(self, seen: SessionToken | None) -> ReadConsistency:
        """The same for somebody who has seen these documents, too."""
        if seen is None:
            return self
        token = self.session or SessionToken(seen.store_id, 0)
        return replace(self, session=token.joined(seen.documents))

    def as_options(self) -> dict[str, str | int]:
        """The options in the words of `read_consistency_of`, as far as they are needed."""
        words: dict[str, str | int] = {}
        if self.level is not ConsistencyLevel.EVENTUAL:
            words["consistency"] = self.level.value
        if self.session is not None:
            words["session"] = self.session.encode()
        if self.max_staleness_ms is not None:
            words["max_staleness_ms"] = self.max_staleness_ms
        return words


EVENTUAL = ReadConsistency()


def read_consistency_of(
    level: str | None,
    session: str | None,
    max_staleness_ms: int | None,
    *,
    release: int | None = None,
) -> ReadConsistency:
    """The consistency in the words of the interfaces. Without a level, a bound means `bounded`, a
    token `session`, and nothing `eventual`.

    With a named `release` goes a token alone, so that the reply's token is not older.

    Raises InvalidArgument for an unknown level, a text that is no token, and options that do not
    go together.
    """
    if level is None and session is None and max_staleness_ms is None:
        return EVENTUAL
    if release is not None:
        return _beside_a_release(level, session, max_staleness_ms)
    asked = _level(level, session, max_staleness_ms)
    if asked is ConsistencyLevel.BOUNDED and max_staleness_ms is None:
        raise InvalidArgument("is needed for `bounded`", "max_staleness_ms")
    if asked is not ConsistencyLevel.BOUNDED and max_staleness_ms is not None:
        raise InvalidArgument(f"goes with `bounded`, not with `{asked}`", "max_staleness_ms")
    if max_staleness_ms is not None and max_staleness_ms < 0:
        raise InvalidArgument("must be at least 0", "max_staleness_ms")
    if asked is ConsistencyLevel.SESSION and session is None:
        raise InvalidArgument("is needed for `session`: the token of an earlier answer", "session")
    if asked is ConsistencyLevel.EVENTUAL and session is not None:
        raise InvalidArgument(
            "does not go with `eventual`: leave it out, or choose another level", "session"
        )
    if asked is ConsistencyLevel.EVENTUAL:
        return EVENTUAL
    token = None if session is None else SessionToken.decode(session)
    return ReadConsistency(level=asked, session=token, max_staleness_ms=max_staleness_ms)


def _beside_a_release(
    level: str | None, session: str | None, max_staleness_ms: int | None
) -> ReadConsistency:
    if level is not None or session is None or max_staleness_ms is not None:
        given = "consistency" if level is not None else "max_staleness_ms"
        raise InvalidArgument("does not go with `release`: give only one of the two", given)
    return ReadConsistency(session=SessionToken.decode(session))


def _level(
    level: str | None, session: str | None, max_staleness_ms: int | None
) -> ConsistencyLevel:
    if level is None:
        return (
            ConsistencyLevel.BOUNDED
            if max_staleness_ms is not None
            else ConsistencyLevel.SESSION
            if session is not None
            else ConsistencyLevel.EVENTUAL
        )
    try:
        return ConsistencyLevel(level)
    except ValueError:
        known = ", ".join(ConsistencyLevel)
        raise InvalidArgument(f"must be one of: {known}", "consistency") from None
