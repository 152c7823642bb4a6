"""The demand of a request on its answer: a level of consistency, a session token, a bound.

level     what the answer is made by
eventual  the release that is current as far as the region knows
session   that, and nothing older than what the token's bearer has seen
bounded   a release that was current at most `max_staleness_ms` ago
quorum    what a majority of the regions answers, release and hits alike
strong    the release that was current at some moment after the request was made
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cluster.errors import InvalidArgument
from cluster.query.session import SessionToken


class Consistency(StrEnum):
    EVENTUAL = "eventual"
    SESSION = "session"
    BOUNDED = "bounded"
    QUORUM = "quorum"
    STRONG = "strong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Made by `demand_of`, which knows what goes together."""

    level: Consistency = Consistency.EVENTUAL
    session: SessionToken | None = None
    """Honoured at every level but `eventual`, which has one only with a named release."""
    max_staleness_ms: int | None = None
    """Only of `bounded`, and always there."""

    @property
    def floor(self) -> int:
        """The position in the release log of the oldest switch that will do."""
        return 0 if self.session is None else self.session.position

    def told(self) -> dict[str, str | int]:
        """The options in the words of `demand_of`, as far as they are needed."""
        words: dict[str, str | int] = {}
        if self.level is not Consistency.EVENTUAL:
            words["consistency"] = self.level.value
        if self.session is not None:
            words["session"] = self.session.encode()
        if self.max_staleness_ms is not None:
            words["max_staleness_ms"] = self.max_staleness_ms
        return words


EVENTUAL = Demand()


def demand_of(
    level: str | None,
    session: str | None,
    max_staleness_ms: int | None,
    *,
    release: int | None = None,
) -> Demand:
    """The demand in the words of the interfaces. Without a level, a bound means `bounded`, a token
    `session`, and nothing `eventual`.

    With a named `release` goes a token alone, so that the reply's token is not older.

    Raises InvalidArgument for an unknown level, what is no token, and what does not go together.
    """
    if level is None and session is None and max_staleness_ms is None:
        return EVENTUAL
    if release is not None:
        return _demand_beside_a_release(level, session, max_staleness_ms)
    asked = _level(level, session, max_staleness_ms)
    if asked is Consistency.BOUNDED and max_staleness_ms is None:
        raise InvalidArgument("is needed for `bounded`", "max_staleness_ms")
    if asked is not Consistency.BOUNDED and max_staleness_ms is not None:
        raise InvalidArgument(f"goes with `bounded`, not with `{asked}`", "max_staleness_ms")
    if max_staleness_ms is not None and max_staleness_ms < 0:
        raise InvalidArgument("must be at least 0", "max_staleness_ms")
    if asked is Consistency.SESSION and session is None:
        raise InvalidArgument("is needed for `session`: the token of an earlier answer", "session")
    if asked is Consistency.EVENTUAL and session is not None:
        raise InvalidArgument(
            "does not go with `eventual`: leave it out, or choose another level", "session"
        )
    if asked is Consistency.EVENTUAL:
        return EVENTUAL
    token = None if session is None else SessionToken.decode(session)
    return Demand(level=asked, session=token, max_staleness_ms=max_staleness_ms)


def _demand_beside_a_release(
    level: str | None, session: str | None, max_staleness_ms: int | None
) -> Demand:
    if level is not None or session is None or max_staleness_ms is not None:
        given = "consistency" if level is not None else "max_staleness_ms"
        raise InvalidArgument("does not go with `release`: give only one of the two", given)
    return Demand(session=SessionToken.decode(session))


def _level(level: str | None, session: str | None, max_staleness_ms: int | None) -> Consistency:
    if level is None:
        return (
            Consistency.BOUNDED
            if max_staleness_ms is not None
            else Consistency.SESSION
            if session is not None
            else Consistency.EVENTUAL
        )
    try:
        return Consistency(level)
    except ValueError:
        known = ", ".join(Consistency)
        raise InvalidArgument(f"must be one of: {known}", "consistency") from None
