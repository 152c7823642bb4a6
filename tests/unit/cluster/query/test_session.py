"""Session tokens come back as they were, and nothing else is taken for one."""

from __future__ import annotations

import base64
import contextlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import InvalidArgument
from cluster.query.session import SessionToken


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=").decode()


@given(st.text(max_size=64), st.integers(min_value=0, max_value=2**53))
def test_a_token_survives_its_text(store_id: str, position: int) -> None:
    token = SessionToken(store_id, position)
    assert SessionToken.decode(token.encode()) == token


def test_tokens_that_were_given_out_stay_readable() -> None:
    token = SessionToken("s", 3)
    assert SessionToken.decode(encoded([1, "s", 3])) == token
    assert token.encode() == encoded([1, "s", 3])


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


@pytest.mark.parametrize("noise", ["=", "===", "\n", " ", "*"])
def test_a_token_with_something_added_is_refused(noise: str) -> None:
    with pytest.raises(InvalidArgument):
        SessionToken.decode(SessionToken("store", 12).encode() + noise * 4)


@pytest.mark.parametrize(("chars", "is_one"), [(367, True), (368, False)])
def test_a_long_text_is_no_token(chars: int, is_one: bool) -> None:
    token = SessionToken("s" * chars, 10**9)
    assert (len(token.encode()) <= 512) is is_one
    with contextlib.nullcontext() if is_one else pytest.raises(InvalidArgument):
        assert SessionToken.decode(token.encode()) == token


@given(st.text(max_size=200))
def test_noise_is_refused_as_bad_input(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        assert isinstance(SessionToken.decode(text).position, int)
