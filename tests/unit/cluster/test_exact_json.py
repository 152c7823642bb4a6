"""JSON text is read without loss or refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.exact_json import loads

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**52, 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('":\\{}'), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('ab:"\\', max_size=3), inner)
    ),
    max_leaves=12,
)


@given(VALUES, st.booleans())
def test_every_value_comes_back_with_its_type(value: Any, is_ascii: bool) -> None:
    again = loads(json.dumps(value, ensure_ascii=is_ascii, indent=1).encode())
    assert repr(again) == repr(value)


@pytest.mark.parametrize(
    "digits", ["9007199254740993", "18446744073709551616", "-9223372036854775809", "1" + "0" * 300]
)
def test_integers_keep_all_their_digits(digits: str) -> None:
    assert loads(f'{{"n": [{digits}]}}'.encode()) == {"n": [int(digits)]}
    assert math.isclose(loads(f"{digits}.5".encode()), float(digits))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"a": 1, "a": 1}', "a"),
        ('{"b": {"x": [{"y": 1 , "y" : 2}]}}', "y"),
        (r'{"a": 1, "\u0061": 2}', "a"),
        (r'{"\"": 1, "\"": 2}', '"'),
        ('{"a": ": \\": ", "a": 2}', "a"),
    ],
)
def test_a_key_that_stands_twice_is_refused(text: str, key: str) -> None:
    with pytest.raises(ValueError, match="stands twice") as caught:
        loads(text.encode())
    assert repr(key) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"NaN",
        b"-Infinity",
        b"1e400",
        b"9" * 400,
        b'"\xff"',
        rb'"\ud800"',
        b"[" * 100_000,
    ],
)
def test_what_is_not_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"line 1|empty|utf-8|surrogate"):
        loads(text)


@pytest.mark.parametrize("depth", [990, 1010, 1024])
def test_deep_text_is_read_or_refused(depth: int) -> None:
    text = b'{"a":1,"a":' + b"[" * depth + b"]" * depth + b"}"
    with pytest.raises(ValueError, match=r"twice|too deeply|depth"):
        loads(text)
