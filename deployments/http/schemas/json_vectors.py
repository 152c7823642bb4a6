"""Vectors out of a JSON body without a Python object for each number.

A batch of 64 vectors holds 25,000 numbers: as objects they take three times as long as with
simdjson, which lays them into one buffer. Whatever is not plainly a vector, or a list of such, is
left to the reader that finds out what is wrong with it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import orjson
import simdjson

from cluster import exact_json
from cluster.arrays import Float32Array
from cluster.search.checks import BATCH_MAX

FIELDS = ("vector", "vectors")
_UNCLEAR = (ValueError, TypeError, RuntimeError, AttributeError)
"""Errors that simdjson raises for invalid JSON, another type, a number out of bounds, a key too
many.
"""


class BodyVectors(NamedTuple):
    field: str
    """`vector` or `vectors`"""
    vectors: Float32Array
    """float32 [n, d]; what does not fit into 32 bits is infinite"""
    others: dict[str, Any]
    """The other keys of the body, as Python objects."""


def body_vectors(body: bytes) -> BodyVectors | None:
    """None where the body is no object with either a `vector` of numbers or `vectors` of one
    length, and wherever that is not certain.
    """
    try:
        return _taken_apart(body)
    except _UNCLEAR:
        return None


def _taken_apart(body: bytes) -> BodyVectors | None:
    if b"\\" in body:  # an escaped bracket would be missing where brackets are counted
        return None
    parsed: Any = simdjson.Parser().parse(body)
    keys = list(parsed.keys())
    present = [field for field in FIELDS if field in keys]
    if len(present) != 1 or len(set(keys)) != len(keys):
        return None
    if "\0" in "".join(keys):  # `parsed[key]` ends a key at its first zero character
        return None
    field = present[0]
    given = parsed[field]
    num_rows = 1 if field == "vector" else len(given)
    others = {key: _as_python(parsed[key]) for key in keys if key != field}
    is_nested = any(isinstance(other, dict | list) for other in others.values())
    if is_nested and exact_json.may_have_lost({field: None, **others}, body):
        return None
    # The buffer says nothing of how numbers were nested, so lists are counted: each begins with a
    # bracket, and one inside of a string only makes the count too high.
    num_lists = body.count(b"[") - orjson.dumps(others).count(b"[")
    if num_lists != (1 if field == "vector" else 1 + num_rows):
        return None
    numbers = np.frombuffer(given.as_buffer(of_type="d"))
    if field == "vectors" and len({len(row) for row in given}) != 1:
        return None
    if not numbers.size or num_rows > BATCH_MAX:
        return None
    with np.errstate(over="ignore"):
        return BodyVectors(field, numbers.astype(np.float32).reshape(num_rows, -1), others)


def _as_python(value: Any) -> Any:
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value.as_list() if isinstance(value, simdjson.Array) else value
