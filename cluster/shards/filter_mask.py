"""The rows of a table that match a filter."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any, TypeAlias, assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.arrays import Mask
from cluster.errors import InvalidArgument
from cluster.metadata import ColumnType
from cluster.query.filters import (
    And,
    Compare,
    Comparison,
    Filter,
    In,
    Not,
    Or,
    Scalar,
    check_filter,
)

Column: TypeAlias = "pa.ChunkedArray[Any]"


def filter_mask(filter: Filter, table: pa.Table) -> Mask:
    """bool [num_rows]: which rows match. The columns of `table` are named as the filter's fields.

    Raises InvalidArgument for a field that the table does not have, and for a value of another type
    than its column.
    """
    check_filter(filter, {field.name: _column_type(field) for field in table.schema})
    return _mask(filter, table)


def _mask(filter: Filter, table: pa.Table) -> Mask:
    match filter:
        case Compare(field, comparison, value):
            return _compare_mask(table.column(field), comparison, value)
        case In(field, values):
            return _in_mask(table.column(field), values)
        case And(parts):
            masks = (_mask(part, table) for part in parts)
            return reduce(np.logical_and, masks, np.ones(table.num_rows, dtype=np.bool_))
        case Or(parts):
            masks = (_mask(part, table) for part in parts)
            return reduce(np.logical_or, masks, np.zeros(table.num_rows, dtype=np.bool_))
        case Not(part):
            return np.logical_not(_mask(part, table))
        case _:
            assert_never(filter)


def _column_type(field: pa.Field[Any]) -> ColumnType:
    if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
        return ColumnType.STRING
    if pa.types.is_boolean(field.type):
        return ColumnType.BOOL
    if pa.types.is_integer(field.type):
        return ColumnType.INT
    if pa.types.is_floating(field.type):
        return ColumnType.FLOAT
    raise InvalidArgument(
        f"is of type {field.type}, which cannot be filtered", f"filter.{field.name}"
    )


def _compare_mask(column: Column, comparison: Comparison, value: Scalar) -> Mask:
    if value is None:
        null = _to_mask(pc.is_null(column))
        return null if comparison is Comparison.EQ else np.logical_not(null)
    if pa.types.is_floating(column.type):
        assert not isinstance(value, str)
        comparison, value = _among_floats(comparison, value)
    operand = pa.scalar(value, type=column.type)
    match comparison:
        case Comparison.EQ:
            matched = pc.equal(column, operand)
        case Comparison.NE:
            matched = pc.not_equal(column, operand)
        case Comparison.GT:
            matched = pc.greater(column, operand)
        case Comparison.GTE:
            matched = pc.greater_equal(column, operand)
        case Comparison.LT:
            matched = pc.less(column, operand)
        case Comparison.LTE:
            matched = pc.less_equal(column, operand)
        case _:
            assert_never(comparison)
    return _to_mask(matched.fill_null(False))


def _among_floats(comparison: Comparison, value: int | float) -> tuple[Comparison, float]:
    """The comparison with a float that holds for the same floats as that with `value`, which may be
    an integer that no float is, and then lies between two of them.
    """
    nearest = float(value)
    if nearest == value:
        return comparison, nearest
    below = nearest if nearest < value else math.nextafter(nearest, -math.inf)
    match comparison:
        case Comparison.EQ | Comparison.NE:
            return comparison, math.nan
        case Comparison.GT | Comparison.GTE:
            return Comparison.GT, below
        case Comparison.LT | Comparison.LTE:
            return Comparison.LTE, below
        case _:
            assert_never(comparison)


def _in_mask(column: Column, values: tuple[Scalar, ...]) -> Mask:
    wanted: list[Scalar] = list(values)
    if pa.types.is_floating(column.type):
        # An integer that no float is equals none.
        wanted = [
            None if value is None else float(value)
            for value in values
            if value is None or float(value) == value
        ]
        if 0.0 in wanted:
            # is_in compares hashes of bits, to which the two zeros differ.
            wanted += [0.0, -0.0]
    return _to_mask(pc.is_in(column, value_set=pa.array(wanted, type=column.type)))


def _to_mask(matched: Column | pa.Array[Any]) -> Mask:
    return np.asarray(matched.to_numpy(), dtype=np.bool_)
