"""Vectors taken out of a body are those that a plain reader finds, or they are left to it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.http.schemas.json_vectors import FIELDS, body_vectors

OTHERS = {"corpus": "atlas", "filter": {"and": [{"a": [1, 2]}]}, "include": [], "top_k": 3}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vector", [1, -2.5, 1e-40]),
        ("vector", [0.1] * 384),
        ("vectors", [[0.5, 2]]),
        ("vectors", [[0.1, 1e30], [3, -4.0]]),
    ],
)
def test_vectors_and_the_rest_of_the_body_are_told_apart(field: str, value: Any) -> None:
    found = body_vectors(orjson.dumps({**OTHERS, field: value}))
    assert found is not None
    assert found.field == field
    assert found.others == OTHERS
    wanted = np.atleast_2d(np.array(value, dtype=np.float32))
    assert found.vectors.dtype == np.float32
    assert found.vectors.tolist() == wanted.tolist()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1, 2]",
        b'{"vector": [1, 2',
        b'{"query": "a"}',
        b'{"vector": [1, true]}',
        b'{"vector": [1, "2"]}',
        b'{"vector": [1, null]}',
        b'{"vector": 5}',
        b'{"vector": null}',
        b'{"vector": {"a": 1}}',
        b'{"vector": []}',
        b'{"vector": [[1, 2]]}',
        b'{"vector": [[1], 2]}',
        b'{"vector": [1, 2, 123456789012345678901234567890]}',
        b'{"vector": [1], "vector": [2]}',
        b'{"vector": [[1, 2]], "user": "\\u005b"}',
        b'{"vectors": [[[1, 2], 3], [4, [5, 6]]], "user": "\\u005B\\u005b"}',
        b'{"vector": [1], "vectors": [[2]]}',
        b'{"vector": [1], "filter": {"year": {"gte": 1}, "year": {"lt": 2}}}',
        b'{"vector": [1], "filter": {"and": [{"a": 1, "a": 2}]}}',
        b'{"vectors": [1, 2]}',
        b'{"vectors": []}',
        b'{"vectors": [[]]}',
        b'{"vectors": [[1], []]}',
        b'{"vectors": [[1, 2], [3]]}',
        b'{"vectors": [[[1], 2], [3, 4]]}',
        b'{"vectors": [[[1, 2], [3, 4]]]}',
        orjson.dumps({"vectors": [[1.0]] * 1025}),
    ],
)
def test_what_is_not_plainly_vectors_is_left_to_the_other_reader(body: bytes) -> None:
    assert body_vectors(body) is None


def test_brackets_inside_of_strings_do_no_harm() -> None:
    found = body_vectors(b'{"vector": [1, 2], "user": "[[\\u005b", "corpus": "]"}')
    assert found is None or found.others == {"user": "[[[", "corpus": "]"}


@pytest.mark.parametrize("key", [r"\u0000", r"a\u0000b"])
def test_a_key_with_a_zero_character_is_left_to_the_other_reader(key: str) -> None:
    assert body_vectors(f'{{"a": 1, "{key}": 2, "vector": [1, 2]}}'.encode()) is None


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32) | st.integers(-(2**63), 2**63)
SCALARS = NUMBERS | st.booleans() | st.none() | st.text(max_size=4)
NESTED = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=8)
NEAR_VECTORS = st.lists(NUMBERS, max_size=4) | st.lists(st.lists(NUMBERS, max_size=3), max_size=3)


@given(
    field=st.sampled_from(FIELDS),
    value=NEAR_VECTORS | NESTED,
    others=st.dictionaries(st.text(max_size=4), NESTED, max_size=3),
)
def test_it_never_disagrees_with_a_plain_reader(
    field: str, value: Any, others: dict[str, Any]
) -> None:
    body = json.dumps({**others, field: value}).encode()
    found = body_vectors(body)
    if found is None:
        return
    rows = [value] if field == "vector" else value
    assert found.field == field
    assert all(type(number) in (int, float) for row in rows for number in row)
    assert found.vectors.tolist() == np.array(rows, dtype=np.float32).tolist()
    assert found.others == {key: other for key, other in others.items() if key != field}
