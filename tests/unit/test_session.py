"""Session tokens come back as they were, and nothing else is taken for one."""

from __future__ import annotations

import base64
import contextlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import InvalidArgument
from cluster.session import SessionToken


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=").decode()


@given(st.text(max_size=64), st.integers(min_value=0, max_value=2**53))
def test_a_token_survives_its_text(store_id: str, position: int) -> None:
    token = SessionToken(store_id, position)
    assert SessionToken.decode(token.encode()) == token


@pytest.mark.parametrize(
    "text",
    [
        "",
        "!",
        "Zm9v",
        "é",
        "A" * 10_000,
        encoded({}),
        encoded([1, "s"]),
        encoded([1, "s", -1]),
        encoded([1, "s", True]),
        encoded([1, "s", 1.5]),
        encoded([1, 2, 3]),
        encoded([2, "s", 3]),
        encoded([1, "s", 3, 4]),
    ],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        SessionToken.decode(text)
    assert refused.value.field == "session"


@given(st.text(max_size=200))
def test_noise_is_refused_as_bad_input(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        assert isinstance(SessionToken.decode(text).position, int)
