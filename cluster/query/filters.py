"""Filters over metadata: the JSON that callers send, and a frozen tree.

    {"region": "europe"}                          equal; null matches where the field is missing
    {"region": {"eq": "europe"}}                  the same, written out; "ne" is unequal
    {"region": {"in": ["europe", null]}}          any of
    {"year": {"gte": 2000, "lt": 2010}}           range: gt, gte, lt, lte, and several together
    {"and": [f, g]}  {"or": [f, g]}  {"not": f}   several keys in one object mean `and`; {} is all

Logic has two values, without SQL's "unknown": a missing value matches no comparison with a value
(`ne` included), only an `eq` or `in` with null; `not` is the plain complement. So
{"not": {"year": {"lt": 2000}}} matches rows without a year, and {"year": {"gte": 2000}} does not.
Strings are ordered by their UTF-8 bytes. An integer is compared with floats as it is, not rounded.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, assert_never

import orjson

from cluster.errors import InvalidArgument
from cluster.metadata import ColumnType
from cluster.quoting import quoted

Scalar: TypeAlias = str | int | float | bool | None
# A string, so that the alias may name itself.
JsonValue: TypeAlias = "Scalar | list[JsonValue] | dict[str, JsonValue]"

DEPTH_MAX = 16
NODES_MAX = 1024
_QUOTED_NAMES_MAX = 20


class Comparison(StrEnum):
    EQ = "eq"
    NE = "ne"
    GT = "gt"
    GTE = "gte"
    LT = "lt"
    LTE = "lte"


_ORDERINGS = frozenset({Comparison.GT, Comparison.GTE, Comparison.LT, Comparison.LTE})


@dataclass(frozen=True, slots=True)
class Compare:
    field: str
    comparison: Comparison
    value: Scalar


@dataclass(frozen=True, slots=True)
class In:
    field: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class And:
    """Matches what all parts match; without parts, everything."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Matches what any part matches; without parts, nothing."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: Filter


Filter: TypeAlias = Compare | In | And | Or | Not
_ALL, _NOTHING = And(()), Or(())


def parse_filter(obj: object, *, path: str = "filter") -> Filter:
    """Reads the JSON form. Raises InvalidArgument with the path of what is wrong in it, such as
    `filter.and[1].year.gte`.
    """
    parsed = _Parser().condition(obj, path, depth=1)
    if _depth(parsed) > DEPTH_MAX:
        raise InvalidArgument(f"is nested deeper than {DEPTH_MAX} levels", path)
    return parsed


def filter_to_json(filter: Filter) -> JsonValue:
    """The JSON form, for which `parse_filter(filter_to_json(f)) == f`."""
    match filter:
        case Compare(field, comparison, value):
            return {field: {comparison.value: value}}
        case In(field, values):
            return {field: {"in": list(values)}}
        case And(()):
            return {}
        case And(parts):
            return {"and": [filter_to_json(part) for part in parts]}
        case Or(parts):
            return {"or": [filter_to_json(part) for part in parts]}
        case Not(part):
            return {"not": filter_to_json(part)}
        case _:
            assert_never(filter)


def filter_key(filter: Filter | None) -> bytes:
    """Equal for equal filters only; the trees themselves hold 1, 1.0 and True for equal."""
    return b"" if filter is None else orjson.dumps(filter_to_json(filter))


def fields_of(filter: Filter) -> frozenset[str]:
    """The metadata fields that the filter names."""
    match filter:
        case Compare(field) | In(field):
            return frozenset([field])
        case And(parts) | Or(parts):
            return frozenset[str]().union(*map(fields_of, parts))
        case Not(part):
            return fields_of(part)
        case _:
            assert_never(filter)


def over_fields(filter: Filter, fields: Container[str]) -> Filter:
    """What the filter comes to over rows that have these fields alone, and null for all others."""
    match filter:
        case Compare(field, comparison, value) if field not in fields:
            return _ALL if value is None and comparison is Comparison.EQ else _NOTHING
        case In(field, values) if field not in fields:
            return _ALL if None in values else _NOTHING
        case And(parts):
            return And(tuple(over_fields(part, fields) for part in parts))
        case Or(parts):
            return Or(tuple(over_fields(part, fields) for part in parts))
        case Not(part):
            return Not(over_fields(part, fields))
    return filter


def check_filter(filter: Filter, schema: Mapping[str, ColumnType], *, path: str = "filter") -> None:
    """Raises InvalidArgument for an unknown field and for a value of another type than its field.

    An int is fine for a float field; a bool is not an int; null is fine everywhere.
    """
    match filter:
        case Compare(field, comparison, value):
            column_type = _column_type(field, schema, path)
            if comparison in _ORDERINGS and (value is None or column_type is ColumnType.BOOL):
                raise InvalidArgument(
                    f"{comparison.value} needs a number or a string", f"{path}.{quoted(field)}"
                )
            _check_type(value, column_type, f"{path}.{quoted(field)}")
        case In(field, values):
            column_type = _column_type(field, schema, path)
            for value in values:
                _check_type(value, column_type, f"{path}.{quoted(field)}")
        case And(parts) | Or(parts):
            for part in parts:
                check_filter(part, schema, path=path)
        case Not(part):
            check_filter(part, schema, path=path)
        case _:
            assert_never(filter)


class _Parser:
    """Counts nodes over a whole parse, so that the bound holds for the tree, not for each list."""

    def __init__(self) -> None:
        self._num_nodes = 0

    def condition(self, obj: object, path: str, depth: int) -> Filter:
        if depth > DEPTH_MAX:
            raise InvalidArgument(f"is nested deeper than {DEPTH_MAX} levels", path)
        if not isinstance(obj, dict):
            raise InvalidArgument(
                'must be an object such as {"field": "value"} or {"field": {"gte": 1}}', path
            )
        found: list[Filter] = []
        for key, value in obj.items():
            if not isinstance(key, str):
                raise InvalidArgument("has a key that is not a string", path)
            found.extend(self._entry(key, value, f"{path}.{quoted(key)}", depth))
        if len(found) == 1:
            return found[0]
        self._count(1, path)
        return And(tuple(found))

    def _entry(self, key: str, value: object, path: str, depth: int) -> list[Filter]:
        match key:
            case "and":
                return [And(self._parts(value, path, depth))]
            case "or":
                return [Or(self._parts(value, path, depth))]
            case "not":
                self._count(1, path)
                return [Not(self.condition(value, path, depth + 1))]
            case _:
                return self._field(key, value, path)

    def _parts(self, value: object, path: str, depth: int) -> tuple[Filter, ...]:
        if not isinstance(value, list) or not value:
            raise InvalidArgument("must be a list of at least one filter", path)
        self._count(1, path)
        return tuple(
            self.condition(part, f"{path}[{i}]", depth + 1) for i, part in enumerate(value)
        )

    def _field(self, field: str, value: object, path: str) -> list[Filter]:
        if not is_encodable(field):
            raise InvalidArgument("is not valid Unicode", path)
        if not isinstance(value, dict):
            self._count(1, path)
            return [Compare(field, Comparison.EQ, _scalar(value, path))]
        if not value:
            raise InvalidArgument("needs a condition such as eq, in or gte", path)
        return [self._operation(field, key, operand, path) for key, operand in value.items()]

    def _operation(self, field: str, key: object, operand: object, path: str) -> Filter:
        path = f"{path}.{quoted(str(key))}"
        if key == "in":
            if not isinstance(operand, list):
                raise InvalidArgument("must be a list of values", path)
            self._count(1 + len(operand), path)
            return In(field, tuple(_scalar(v, f"{path}[{i}]") for i, v in enumerate(operand)))
        self._count(1, path)
        try:
            comparison = Comparison(str(key))
        except ValueError:
            known = ", ".join([*Comparison, "in"])
            raise InvalidArgument(f"is no condition; there are: {known}", path) from None
        value = _scalar(operand, path)
        if comparison in _ORDERINGS and (value is None or isinstance(value, bool)):
            raise InvalidArgument("needs a number or a string", path)
        return Compare(field, comparison, value)

    def _count(self, num_nodes: int, path: str) -> None:
        self._num_nodes += num_nodes
        if self._num_nodes > NODES_MAX:
            raise InvalidArgument(
                f"makes the filter larger than {NODES_MAX} conditions and values", path
            )


def _scalar(value: object, path: str) -> Scalar:
    if isinstance(value, str):
        if not is_encodable(value):
            raise InvalidArgument("is not valid Unicode", path)
        return value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidArgument("does not fit in 64 bits", path)
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidArgument("must be a finite number", path)
        return value
    if isinstance(value, list):
        raise InvalidArgument('must be a single value; for several, write {"in": [...]}', path)
    raise InvalidArgument("must be a string, a number, a bool or null", path)


def _depth(filter: Filter) -> int:
    match filter:
        case Compare() | In():
            return 1
        case And(parts) | Or(parts):
            return 1 + max((_depth(part) for part in parts), default=0)
        case Not(part):
            return 1 + _depth(part)
        case _:
            assert_never(filter)


def _column_type(field: str, schema: Mapping[str, ColumnType], path: str) -> ColumnType:
    column_type = schema.get(field)
    if column_type is None:
        raise _unknown_field(field, sorted(schema), path)
    return column_type


def _unknown_field(field: str, known: list[str], path: str) -> InvalidArgument:
    names = ", ".join(quoted(name) for name in known[:_QUOTED_NAMES_MAX])
    more = len(known) - _QUOTED_NAMES_MAX
    listed = f"; there are: {names}" if known else "; the corpus has no metadata"
    listed += f" and {more} more" if more > 0 else ""
    return InvalidArgument(f"is no metadata field{listed}", f"{path}.{quoted(field)}")


def _check_type(value: Scalar, column_type: ColumnType, path: str) -> None:
    if value is None:
        return
    match column_type:
        case ColumnType.STRING:
            fits = isinstance(value, str)
        case ColumnType.BOOL:
            fits = isinstance(value, bool)
        case ColumnType.INT:
            fits = isinstance(value, int) and not isinstance(value, bool)
        case ColumnType.FLOAT:
            fits = isinstance(value, int | float) and not isinstance(value, bool)
        case _:
            assert_never(column_type)
    if not fits:
        name = type(value).__name__.replace("str", "string")
        raise InvalidArgument(f"is of type {column_type.value}, the value is a {name}", path)


def is_encodable(text: str) -> bool:
    # A lone surrogate passes through json.loads and would fail later, inside Arrow.
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
