"""What a request may ask for, in the words of the interfaces."""

from __future__ import annotations

import pytest

from cluster.errors import InvalidArgument
from cluster.query.read_consistency import (
    EVENTUAL,
    ConsistencyLevel,
    ReadConsistency,
    read_consistency_of,
)
from cluster.query.session import SessionToken

STORE = "store"


@pytest.mark.parametrize(
    ("level", "session", "within_ms", "then"),
    [
        (None, None, None, ConsistencyLevel.EVENTUAL),
        ("eventual", None, None, ConsistencyLevel.EVENTUAL),
        (None, "token", None, ConsistencyLevel.SESSION),
        (None, None, 500, ConsistencyLevel.BOUNDED),
        (None, "token", 500, ConsistencyLevel.BOUNDED),
        ("strong", "token", None, ConsistencyLevel.STRONG),
        ("quorum", None, None, ConsistencyLevel.QUORUM),
    ],
)
def test_demands(
    level: str | None, session: str | None, within_ms: int | None, then: ConsistencyLevel
) -> None:
    token = SessionToken(STORE, 3)
    made = read_consistency_of(level, session and token.encode(), within_ms)
    assert made == ReadConsistency(
        level=then, session=session and token, max_staleness_ms=within_ms
    )


@pytest.mark.parametrize(
    ("level", "session", "within_ms", "number", "field"),
    [
        ("exact", None, None, None, "consistency"),
        ("", None, None, None, "consistency"),
        ("session", None, None, None, "session"),
        ("eventual", "token", None, None, "session"),
        (None, "no token", None, None, "session"),
        ("bounded", None, None, None, "max_staleness_ms"),
        ("strong", None, 5, None, "max_staleness_ms"),
        (None, None, -1, None, "max_staleness_ms"),
        ("strong", None, None, 1, "consistency"),
        ("session", "token", None, 1, "consistency"),
        (None, "token", 500, 1, "max_staleness_ms"),
        (None, "no token", None, 1, "session"),
        (None, None, 500, 1, "max_staleness_ms"),
    ],
)
def test_demands_that_make_no_sense(
    level: str | None,
    session: str | None,
    within_ms: int | None,
    number: int | None,
    field: str,
) -> None:
    token = SessionToken(STORE, 3).encode() if session == "token" else session
    with pytest.raises(InvalidArgument) as raised:
        read_consistency_of(level, token, within_ms, release=number)
    assert raised.value.field == field


def test_a_token_goes_with_a_named_release() -> None:
    token = SessionToken(STORE, 3)
    made = read_consistency_of(None, token.encode(), None, release=1)
    assert made == ReadConsistency(level=ConsistencyLevel.EVENTUAL, session=token)
    assert made.as_options() == {"session": token.encode()}


def test_nothing_asked_is_one_and_the_same() -> None:
    assert read_consistency_of(None, None, None) is EVENTUAL
    assert read_consistency_of("eventual", None, None) is EVENTUAL


@pytest.mark.parametrize(
    "demand",
    [
        EVENTUAL,
        ReadConsistency(level=ConsistencyLevel.STRONG),
        ReadConsistency(level=ConsistencyLevel.SESSION, session=SessionToken(STORE, 3)),
        ReadConsistency(
            level=ConsistencyLevel.BOUNDED, session=SessionToken(STORE, 3), max_staleness_ms=0
        ),
    ],
)
def test_the_words_for_it_say_it_all(demand: ReadConsistency) -> None:
    told = demand.as_options()
    again = read_consistency_of(
        told.get("consistency"),  # type: ignore[arg-type]
        told.get("session"),  # type: ignore[arg-type]
        told.get("max_staleness_ms"),  # type: ignore[arg-type]
    )
    assert again == demand
