"""Types that people declare for metadata fields: `zip=string`, whatever the files say.

A declared type never changes what a value means. `7` and `"7"` may become each other, but `12.5` is
no integer, and a float is no string: nobody knows how it was written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import date, time
from decimal import Decimal
from typing import TypeGuard
from uuid import UUID

from cluster.documents.documents import (
    EXACT_IN_FLOAT,
    FIELD_NAME,
    INT64,
    RESERVED_FIELDS,
    DocumentOrigin,
)
from cluster.errors import InvalidArgument
from cluster.metadata import ColumnType
from cluster.quoting import quoted

DeclaredTypes = Mapping[str, ColumnType]
"""By metadata field."""

_NO_METADATA = frozenset({"id", "text", "vector", "metadata"})
_INTEGER = re.compile(r"[+-]?[0-9]+")
_INTEGER_CHARS_MAX = 30
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


def parse_declared_types(declarations: Iterable[str]) -> dict[str, ColumnType]:
    """The types of declarations such as `zip=string`. Raises InvalidArgument."""
    types: dict[str, ColumnType] = {}
    for declaration in declarations:
        field, _, type_ = declaration.partition("=")
        if type_ not in list(ColumnType):
            raise InvalidArgument(
                f"{quoted(declaration)!r} must be FIELD=TYPE, where TYPE is one of "
                f"{', '.join(ColumnType)}",
                "types",
            )
        if field in _NO_METADATA or field in RESERVED_FIELDS or not FIELD_NAME.fullmatch(field):
            raise InvalidArgument(f"{quoted(field)!r} is no metadata field", "types")
        if field in types:
            raise InvalidArgument(f"declares {field!r} twice", "types")
        types[field] = ColumnType(type_)
    return types


def with_declared_types(
    metadata: Mapping[str, object], types: DeclaredTypes, origin: DocumentOrigin
) -> dict[str, object]:
    """The metadata with every declared field as its type. Raises InvalidArgument, naming the origin
    and the field, for a value that would not stay what it is.
    """
    return {
        field: _cast(value, types[field], field, origin) if field in types else value
        for field, value in metadata.items()
    }


def check_declared_types(
    types: DeclaredTypes, present: Iterable[str], known: Iterable[str]
) -> None:
    """Raises InvalidArgument for a declared field that is not among those that were seen."""
    if missing := sorted(set(types) - set(present)):
        raise InvalidArgument(
            f"no document has the metadata field {missing[0]!r}; the fields with values are: "
            f"{', '.join(sorted(known)) or 'none'}",
            "types",
        )


def _cast(value: object, type_: ColumnType, field: str, origin: DocumentOrigin) -> object:
    if value is None:
        return None
    found = _CASTS[type_](value)
    if found is None:
        raise InvalidArgument(
            f"{origin}: {quoted(str(value))!r} cannot be read as the declared type {type_} "
            "without loss",
            f"metadata.{field}",
        )
    return found


def _as_string(value: object) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | Decimal | UUID):
        return str(value)
    if isinstance(value, date | time):
        return value.isoformat()
    return None


def _as_int(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        is_short = len(value) <= _INTEGER_CHARS_MAX
        found = int(value) if is_short and _INTEGER.fullmatch(value) else None
    elif isinstance(value, int):
        found = value
    elif isinstance(value, float):
        found = int(value) if value.is_integer() and int(value) in EXACT_IN_FLOAT else None
    elif isinstance(value, Decimal):
        found = int(value) if value.is_finite() and value == value.to_integral_value() else None
    else:
        return None
    return found if found is not None and found in INT64 else None


def _as_float(value: object) -> float | None:
    if isinstance(value, float) or _is_fraction(value):
        found = float(value)
        return found if math.isfinite(found) else None
    whole = _as_int(value)
    return float(whole) if whole is not None and whole in EXACT_IN_FLOAT else None


def _is_fraction(value: object) -> TypeGuard[str | Decimal]:
    """True for a decimal fraction, which is meant to become the nearest float."""
    if isinstance(value, str):
        return bool(_NUMBER.fullmatch(value)) and not _INTEGER.fullmatch(value)
    return isinstance(value, Decimal) and not (
        value.is_finite() and value == value.to_integral_value()
    )


def _as_bool(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    return _BOOLEANS.get(str(value).lower()) if isinstance(value, str | int) else None


_CASTS = {
    ColumnType.STRING: _as_string,
    ColumnType.INT: _as_int,
    ColumnType.FLOAT: _as_float,
    ColumnType.BOOL: _as_bool,
}
