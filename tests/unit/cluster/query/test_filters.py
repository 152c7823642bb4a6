from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import InvalidArgument
from cluster.metadata import ColumnType
from cluster.query.filters import (
    NODES_MAX,
    And,
    Compare,
    Comparison,
    Filter,
    In,
    Not,
    Or,
    check_filter,
    fields_of,
    filter_to_json,
    over_fields,
    parse_filter,
)
from cluster.shards.filter_mask import filter_mask

SCHEMA = {
    "region": ColumnType.STRING,
    "year": ColumnType.INT,
    "area": ColumnType.FLOAT,
    "island": ColumnType.BOOL,
}
ARROW_TYPES = {
    "region": pa.string(),
    "year": pa.int64(),
    "area": pa.float64(),
    "island": pa.bool_(),
}
STRINGS = st.sampled_from(["", "a", "b", "é", "z\U0001f30d", "\uffff"])
INTS = st.integers(-3, 3) | st.sampled_from([2**53 + 1, 2**63 - 1, -(2**63)])
FLOATS = st.sampled_from(
    [0.0, -0.0, 0.5, -1.0, 1.0, 2.0, 2.0**53, 2.0**53 + 2, 2.0**63, -(2.0**63), 1e300]
)
CELLS = {
    "region": st.none() | STRINGS,
    "year": st.none() | INTS,
    "area": st.none() | FLOATS | st.just(math.nan) | st.just(math.inf),
    "island": st.none() | st.booleans(),
}
VALUES = {"region": STRINGS, "year": INTS, "area": FLOATS | INTS, "island": st.booleans()}


@st.composite
def leaves(draw: st.DrawFn) -> Filter:
    field = draw(st.sampled_from(sorted(SCHEMA)))
    value = VALUES[field]
    if draw(st.booleans()):
        return In(field, tuple(draw(st.lists(st.none() | value, max_size=4))))
    comparison = draw(st.sampled_from(Comparison))
    if comparison in (Comparison.EQ, Comparison.NE):
        return Compare(field, comparison, draw(st.none() | value))
    field = draw(st.sampled_from(["region", "year", "area"]))
    return Compare(field, comparison, draw(VALUES[field]))


def combined(parts: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    several = st.lists(parts, min_size=1, max_size=3).map(tuple)
    return several.map(And) | several.map(Or) | parts.map(Not) | st.just(And(()))


FILTERS = st.recursive(leaves(), combined, max_leaves=12)
TABLES = st.lists(st.fixed_dictionaries(CELLS), max_size=12)


def matches(filter: Filter, row: dict[str, Any]) -> bool:
    """The meaning of a filter, one row at a time."""
    match filter:
        case And(parts):
            return all(matches(part, row) for part in parts)
        case Or(parts):
            return any(matches(part, row) for part in parts)
        case Not(part):
            return not matches(part, row)
        case In(field, values):
            return any(matches(Compare(field, Comparison.EQ, value), row) for value in values)
        case Compare(field, comparison, value):
            cell = row[field]
            if value is None:
                return (cell is None) == (comparison is Comparison.EQ)
            if cell is None:
                return False
            return {
                Comparison.EQ: lambda: cell == value,
                Comparison.NE: lambda: cell != value,
                Comparison.GT: lambda: cell > value,
                Comparison.GTE: lambda: cell >= value,
                Comparison.LT: lambda: cell < value,
                Comparison.LTE: lambda: cell <= value,
            }[comparison]()


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table(
        {name: pa.array([r[name] for r in rows], type) for name, type in ARROW_TYPES.items()}
    )


@given(FILTERS, TABLES)
@settings(max_examples=400, deadline=None)
def test_the_mask_is_what_each_row_says_alone(filter: Filter, rows: list[dict[str, Any]]) -> None:
    mask = filter_mask(filter, table_of(rows))
    assert mask.dtype == np.bool_
    assert mask.tolist() == [matches(filter, row) for row in rows]


@given(FILTERS, TABLES)
@settings(max_examples=300, deadline=None)
def test_rows_without_a_field_match_as_if_it_were_null(
    filter: Filter, rows: list[dict[str, Any]]
) -> None:
    known = ["region", "area"]
    table = table_of([{name: row[name] if name in known else None for name in row} for row in rows])
    there = over_fields(filter, known)
    assert filter_mask(there, table.select(known)).tolist() == filter_mask(filter, table).tolist()


@given(FILTERS)
@settings(max_examples=300, deadline=None)
def test_the_fields_of_a_filter_are_those_without_which_it_is_another_one(filter: Filter) -> None:
    named = fields_of(filter)
    assert over_fields(filter, named) == filter
    assert all(over_fields(filter, named - {field}) != filter for field in named)


@given(FILTERS)
@settings(max_examples=300, deadline=None)
def test_json_form_round_trips(filter: Filter) -> None:
    parsed = parse_filter(filter_to_json(filter))
    assert repr(parsed) == repr(filter)
    assert parse_filter(filter_to_json(parsed)) == parsed
    check_filter(parsed, SCHEMA)
    assert pickle.loads(pickle.dumps(parsed)) == parsed
    hash(parsed)


def test_an_integer_that_no_float_is_stands_between_two_of_them() -> None:
    table = pa.table({"area": [2.0**53, 2.0**53 + 2, None]})

    def mask(condition: object) -> list[bool]:
        return filter_mask(parse_filter({"area": condition}), table).tolist()

    between = 2**53 + 1
    assert mask(between) == mask({"in": [between]}) == [False, False, False]
    assert mask({"ne": between}) == [True, True, False]
    assert mask({"lt": between}) == mask({"lte": between}) == [True, False, False]
    assert mask({"gt": between}) == mask({"gte": between}) == [False, True, False]
    assert mask({"in": [between, None, 2**53 + 2]}) == [False, True, True]


def test_several_chunks_make_one_mask() -> None:
    table = pa.concat_tables([pa.table({"year": [1, 2]}), pa.table({"year": [3, 1]})])
    mask = filter_mask(parse_filter({"year": {"in": [1]}}), table)
    assert mask.tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        ({"region": "europe"}, Compare("region", Comparison.EQ, "europe")),
        ({"region": None}, Compare("region", Comparison.EQ, None)),
        ({"region": {"ne": "europe"}}, Compare("region", Comparison.NE, "europe")),
        ({"region": {"in": ["a", None]}}, In("region", ("a", None))),
        ({"region": {"in": []}}, In("region", ())),
        (
            {"year": {"gte": 2000, "lt": 2010}, "region": "x"},
            And(
                (
                    Compare("year", Comparison.GTE, 2000),
                    Compare("year", Comparison.LT, 2010),
                    Compare("region", Comparison.EQ, "x"),
                )
            ),
        ),
        ({"and": [{"a": 1}]}, And((Compare("a", Comparison.EQ, 1),))),
        ({"or": [{"a": 1}, {"not": {"b": 2}}]}, None),
        ({}, And(())),
    ],
)
def test_forms_of_a_filter(obj: object, expected: Filter | None) -> None:
    parsed = parse_filter(obj)
    assert expected is None or parsed == expected
    assert parse_filter(filter_to_json(parsed)) == parsed


def nested(levels: int) -> object:
    return {"a": 1} if levels == 1 else {"not": nested(levels - 1)}


@pytest.mark.parametrize(
    ("obj", "field"),
    [
        ("europe", "filter"),
        (None, "filter"),
        ([{"a": 1}], "filter"),
        ({1: 2}, "filter"),
        ({"year": ["a"]}, "filter.year"),
        ({"year": {}}, "filter.year"),
        ({"year": {"above": 3}}, "filter.year.above"),
        ({"year": {"gte": None}}, "filter.year.gte"),
        ({"year": {"lt": True}}, "filter.year.lt"),
        ({"year": {"eq": {"x": 1}}}, "filter.year.eq"),
        ({"year": {"in": 3}}, "filter.year.in"),
        ({"year": {"in": [1, [2]]}}, "filter.year.in[1]"),
        ({"and": [{"a": 1}, {"year": {"gte": math.nan}}]}, "filter.and[1].year.gte"),
        ({"year": math.inf}, "filter.year"),
        ({"year": 2**63}, "filter.year"),
        ({"and": {}}, "filter.and"),
        ({"or": []}, "filter.or"),
        ({"not": [{"a": 1}]}, "filter.not"),
        ({"region": "\ud800"}, "filter.region"),
        ({"\ud800": 1}, "filter.\\ud800"),
        (nested(17), "filter" + ".not" * 16),
        ({"year": {"in": [1] * NODES_MAX}}, "filter.year.in"),
        ({"or": [{"a": 1}] * NODES_MAX}, f"filter.or[{NODES_MAX - 1}].a"),
        ({"x" * 1000: {"bad": 1}}, f"filter.{'x' * 61}....bad"),
    ],
)
def test_a_wrong_filter_is_refused_by_its_path(obj: object, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_filter(obj)
    assert caught.value.field == field


def test_the_bounds_themselves_raise_nothing() -> None:
    parse_filter(nested(16))
    parse_filter({"year": {"in": [1] * (NODES_MAX - 1)}})


def test_depth_counts_the_implicit_and() -> None:
    # Its written-out form is one level deeper, and must be readable too.
    obj: object = {"a": 1, "b": 2}
    for _ in range(14):
        obj = {"not": obj}
    parsed = parse_filter(obj)
    assert parse_filter(filter_to_json(parsed)) == parsed
    with pytest.raises(InvalidArgument):
        parse_filter({"not": obj})


@pytest.mark.parametrize(
    "obj",
    [
        {"year": 1.5},
        {"year": True},
        {"year": "1999"},
        {"area": "big"},
        {"area": False},
        {"region": 3},
        {"region": {"in": ["a", 1]}},
        {"island": 1},
        {"island": "yes"},
        {"not": {"or": [{"year": 1}, {"island": 0}]}},
    ],
)
def test_a_value_of_another_type_is_refused(obj: object) -> None:
    filter = parse_filter(obj)
    with pytest.raises(InvalidArgument, match="is of type"):
        check_filter(filter, SCHEMA)
    with pytest.raises(InvalidArgument, match="is of type"):
        filter_mask(filter, table_of([]))


def test_fitting_values_raise_nothing() -> None:
    check_filter(
        parse_filter({"year": 1, "area": {"gt": 1}, "island": True, "region": None}), SCHEMA
    )


@pytest.mark.parametrize(
    "filter",
    [Compare("island", Comparison.LT, True), Compare("year", Comparison.GTE, None)],
)
def test_order_needs_an_order(filter: Filter) -> None:
    with pytest.raises(InvalidArgument, match="needs a number or a string"):
        check_filter(filter, SCHEMA)
    with pytest.raises(InvalidArgument, match="needs a number or a string"):
        filter_mask(filter, table_of([]))


def test_an_unknown_field_lists_the_known_ones() -> None:
    filter = parse_filter({"contry": "France"})
    with pytest.raises(InvalidArgument) as caught:
        check_filter(filter, SCHEMA)
    assert str(caught.value) == (
        "filter.contry: is no metadata field; there are: area, island, region, year"
    )
    with pytest.raises(InvalidArgument, match="contry"):
        filter_mask(filter, table_of([]))


def test_the_list_of_known_fields_is_bounded() -> None:
    many = {f"{i:03}" + "f" * 500: ColumnType.INT for i in range(500)}
    with pytest.raises(InvalidArgument, match="and 480 more") as caught:
        check_filter(parse_filter({"x": 1}), many)
    assert len(str(caught.value)) < 2000


def test_missing_values_match_no_comparison_and_not_is_the_complement() -> None:
    table = pa.table({"year": pa.array([1990, None, 2010])})

    def mask(obj: object) -> list[bool]:
        return filter_mask(parse_filter(obj), table).tolist()

    assert mask({"year": {"gte": 2000}}) == [False, False, True]
    assert mask({"not": {"year": {"lt": 2000}}}) == [False, True, True]
    assert mask({"year": {"ne": 1990}}) == [False, False, True]
    assert mask({"year": None}) == [False, True, False]
    assert mask({"year": {"in": [1990, None]}}) == [True, True, False]
    assert mask({}) == [True, True, True]
