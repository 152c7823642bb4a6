"""Numbers and booleans that come as text: in cells of CSV files, in folders called `year=2024`."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from cluster.documents.documents import INT64

_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
# A code such as 007 or 12E4 is no number.
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(?:\.([0-9]+))?([eE][+-][0-9]{1,3})?")
_DIGITS_KEPT = 15
"""Decimal digits that come back unchanged from any float of 64 bits."""

_BOOLEAN, _INTEGER = "boolean", "integer"
_PLAIN, _SHORTER, _PYTHONS = "without zeros at the end", "as R writes it", "as Python writes it"


def cell_value(cell: str, ways: frozenset[str]) -> str | int | float | bool | None:
    """The cell as what its column holds; an empty one is no value."""
    if not cell:
        return None
    if _BOOLEAN in ways:
        return cell in _TRUE
    if _INTEGER in ways:
        return int(cell)
    return float(cell) if ways else cell


def cell_ways(cell: str) -> frozenset[str]:
    """The ways of writing that the cell follows. Within each, two cells are the same text just when
    they are the same value, so that a column that keeps to one can be read as values without loss.
    Version 1.10 beside 1.9 keeps to none: it is not the number 1.1.
    """
    if cell in _TRUE or cell in _FALSE:
        return frozenset({_BOOLEAN})
    match = _NUMBER.fullmatch(cell)
    if match is None or not math.isfinite(float(cell)):
        return frozenset()
    whole, fraction, exponent = match.group(1), match.group(2) or "", match.group(3)
    ways = set()
    if not fraction and not exponent and int(cell) in INT64 and cell != "-0":
        ways.add(_INTEGER)
    if repr(float(cell)) == cell:
        ways.add(_PYTHONS)
    if len((whole + fraction).lstrip("0")) <= _DIGITS_KEPT:
        is_shorter = cell.replace("E", "e") == _shorter(cell)
        if exponent:
            ways |= {f"{_SHORTER} with {exponent[0]}"} if is_shorter else set()
        else:
            ways.add(f"{len(fraction)} decimals")
            ways |= set() if fraction.endswith("0") else {_PLAIN}
            ways |= {f"{_SHORTER} with e", f"{_SHORTER} with E"} if is_shorter else set()
    return frozenset(ways)


def _shorter(cell: str) -> str:
    """The number as R writes it: without an exponent, unless it is shorter with one."""
    number = Decimal(cell).normalize()
    sign, digits, shift = number.as_tuple()
    assert isinstance(shift, int)
    fraction = "".join(map(str, digits[1:]))
    mantissa = f"{digits[0]}.{fraction}" if fraction else str(digits[0])
    scientific = f"{'-' * sign}{mantissa}e{len(fraction) + shift:+03d}"
    return min(f"{number:f}", scientific, key=len)
