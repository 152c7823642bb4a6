"""Session tokens come back as they were, and nothing else is taken for one."""

from __future__ import annotations

import base64
import contextlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import InvalidArgument
from cluster.mutations.watermark import Watermark
from cluster.query.session import TOKEN_CHARS_MAX, SessionToken, joined


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=").decode()


@given(st.text(max_size=64), st.integers(min_value=0, max_value=2**53))
def test_a_token_survives_its_text(store_id: str, position: int) -> None:
    token = SessionToken(store_id, position)
    assert SessionToken.decode(token.encode()) == token


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
watermarks = st.dictionaries(
    names, st.integers(min_value=1, max_value=2**63 - 1), min_size=1, max_size=4
).map(Watermark.of)
documents = st.dictionaries(names, watermarks, max_size=4)


@given(documents, documents)
def test_a_token_survives_its_text_with_all_documents_that_were_seen(
    mine: dict[str, Watermark], theirs: dict[str, Watermark]
) -> None:
    token = SessionToken("s", 3, mine).joined(theirs)
    assert SessionToken.decode(token.encode()) == token
    for corpus, seen in (*mine.items(), *theirs.items()):
        assert seen <= token.documents[corpus]
    assert joined(mine, theirs) == joined(theirs, mine) == token.documents
    assert hash(token) == hash(SessionToken("s", 3, joined(theirs, mine)))


def test_tokens_that_were_given_out_stay_readable() -> None:
    token = SessionToken("s", 3)
    assert SessionToken.decode(encoded([1, "s", 3])) == token
    assert token.encode() == encoded([1, "s", 3])
    token = SessionToken("s", 3, {"b": Watermark.of({"y": 7}), "a": Watermark.of({"x": 1, "y": 2})})
    assert token.encode() == encoded([2, "s", 3, ["x", "y"], {"a": [1, 2], "b": [0, 7]}])
    assert SessionToken.decode(token.encode()) == token


@pytest.mark.parametrize(("regions", "corpora"), [(3, 100), (32, 15)])
def test_a_token_has_room_for_many_corpora_and_regions(regions: int, corpora: int) -> None:
    seen = Watermark.of({f"region-{n:02}": 10**7 + n for n in range(regions)})
    token = SessionToken("0" * 32, 10**6, {f"a-corpus-{n:06}": seen for n in range(corpora)})
    assert SessionToken.decode(token.encode()) == token


def test_a_token_of_too_many_corpora_says_what_to_do() -> None:
    seen = Watermark.of({"region": 1})
    token = SessionToken("s", 1, {f"corpus {n}": seen for n in range(1000)})
    with pytest.raises(InvalidArgument, match="too many corpora") as refused:
        SessionToken.decode(token.encode())
    assert refused.value.field == "session"


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
        encoded([1, "s", 3, ["x"], {"a": [1]}]),
        encoded([2, "s", 3, {}, {}]),
        encoded([2, "s", -1, ["x"], {"a": [1]}]),
        encoded([2, "s", 2**63, ["x"], {"a": [1]}]),
        encoded([2, "s", 3, ["x"], {"a": [-1]}]),
        encoded([2, "s", 3, ["x"], {"a": [2**63]}]),
        encoded([2, "s", 3, ["x"], {"a": [1.5]}]),
        encoded([2, "s", 3, ["x"], {"a": [True]}]),
        encoded([2, "s", 3, ["x"], {"a": [0]}]),
        encoded([2, "s", 3, ["x"], {"a": [1, 2]}]),
        encoded([2, "s", 3, ["x"], {"a": 1}]),
        encoded([2, "s", 3, ["x"], {"": [1]}]),
        encoded([2, "s", 3, ["x", "x"], {"a": [1, 2]}]),
        encoded([2, "s", 3, [""], {"a": [1]}]),
        encoded([2, "s", 3, [7], {"a": [1]}]),
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


@pytest.mark.parametrize(("chars", "is_one"), [(6127, True), (6128, False)])
def test_a_long_text_is_no_token(chars: int, is_one: bool) -> None:
    token = SessionToken("s" * chars, 10**9)
    assert (len(token.encode()) <= TOKEN_CHARS_MAX) is is_one
    with contextlib.nullcontext() if is_one else pytest.raises(InvalidArgument):
        assert SessionToken.decode(token.encode()) == token


@given(st.text(max_size=200))
def test_noise_is_refused_as_bad_input(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        assert isinstance(SessionToken.decode(text).position, int)
