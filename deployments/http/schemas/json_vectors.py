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


_BRACKET = ord("[")
_KEPT_BYTES_MAX = 1 << 20
"""Longest body whose parser is kept for the next one, with memory of some times the body. A new
parser takes as long again to get that memory from the system: for a batch of 64 x 384 numbers, 1.7
ms became 0.8."""
_idle: list[Any] = []
"""Parsers that nobody uses. A parser refuses another body while anything of the last one is there,
and is not for two threads at once."""


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
    if b'"vector' not in body or b"\\" in body:
        # With a backslash a bracket may be escaped, and would be missing where they are counted.
        return None
    parser = _idle_parser()
    try:
        return _taken_apart(parser.parse(body), body)
    except _UNCLEAR:
        return None
    finally:
        if len(body) <= _KEPT_BYTES_MAX:
            _idle.append(parser)


def _idle_parser() -> Any:
    try:
        return _idle.pop()
    except IndexError:
        return simdjson.Parser()


def _taken_apart(parsed: Any, body: bytes) -> BodyVectors | None:
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
    if not all(map(_is_plain, others.values())) and exact_json.may_have_lost(
        {field: None, **others}, body
    ):
        return None
    # The buffer says nothing of how numbers were nested, so lists are counted: each begins with a
    # bracket, and one inside of a string only makes the count too high.
    num_lists = _num_brackets(body) - orjson.dumps(others).count(b"[")
    if num_lists != (1 if field == "vector" else 1 + num_rows):
        return None
    numbers = np.frombuffer(given.as_buffer(of_type="d"))
    if field == "vectors" and len({len(row) for row in given}) != 1:
        return None
    if not numbers.size or num_rows > BATCH_MAX:
        return None
    with np.errstate(over="ignore"):
        return BodyVectors(field, numbers.astype(np.float32).reshape(num_rows, -1), others)


def _is_plain(value: Any) -> bool:
    """True for what can have lost nothing: no object, no number in a list."""
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    return not isinstance(value, dict)


def _num_brackets(text: bytes) -> int:
    # In half a megabyte NumPy counts them in a fifth of the time of `bytes.count`.
    return int(np.count_nonzero(np.frombuffer(text, dtype=np.uint8) == _BRACKET))


def _as_python(value: Any) -> Any:
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value.as_list() if isinstance(value, simdjson.Array) else value
