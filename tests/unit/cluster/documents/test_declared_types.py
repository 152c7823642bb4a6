"""The types that people declare for metadata fields."""

from __future__ import annotations

import datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.documents.declared_types import (
    check_declared_types,
    parse_declared_types,
    with_declared_types,
)
from cluster.documents.documents import DocumentOrigin
from cluster.errors import InvalidArgument
from cluster.metadata import ColumnType

ORIGIN = DocumentOrigin(source="table.csv", row=7)


def cast(value: object, type_: str) -> object:
    return with_declared_types({"x": value, "y": value}, {"x": ColumnType(type_)}, ORIGIN)["x"]


@pytest.mark.parametrize(
    ("value", "type_", "expected"),
    [
        ("01067", "string", "01067"),
        (1067, "string", "1067"),
        (True, "string", "true"),
        (Decimal("1.10"), "string", "1.10"),
        (datetime.date(2024, 5, 1), "string", "2024-05-01"),
        (UUID(int=17), "string", "00000000-0000-0000-0000-000000000011"),
        (datetime.datetime(2024, 5, 1, 12, 30), "string", "2024-05-01T12:30:00"),
        ("007", "int", 7),
        ("-9223372036854775808", "int", -(2**63)),
        (12.0, "int", 12),
        (Decimal("12.00"), "int", 12),
        ("1.10", "float", 1.1),
        ("12E4", "float", 120000.0),
        ("9007199254740992", "float", 2.0**53),
        (3, "float", 3.0),
        (Decimal("0.25"), "float", 0.25),
        ("TRUE", "bool", True),
        ("0", "bool", False),
        (1, "bool", True),
        (None, "int", None),
        (None, "string", None),
    ],
)
def test_a_value_becomes_the_declared_type(value: object, type_: str, expected: object) -> None:
    found = cast(value, type_)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        (12.5, "string"),
        (b"x", "string"),
        ([1], "string"),
        ("12.5", "int"),
        ("", "int"),
        (" 7", "int"),
        ("٧", "int"),
        (12.5, "int"),
        (2.0**60, "int"),
        (True, "int"),
        ("9223372036854775808", "int"),
        ("9" * 5000, "int"),
        (float("nan"), "int"),
        (Decimal("NaN"), "int"),
        ("9007199254740993", "float"),
        ("9" * 5000, "float"),
        ("1e999", "float"),
        ("nan", "float"),
        ("1_000", "float"),
        (float("inf"), "float"),
        (Decimal("Infinity"), "float"),
        (Decimal(2**53 + 1), "float"),
        (True, "float"),
        ("yes", "bool"),
        (2, "bool"),
        (1.0, "bool"),
    ],
)
def test_a_value_that_would_be_changed_is_refused_by_row_and_field(
    value: object, type_: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        cast(value, type_)
    assert caught.value.field == "metadata.x"
    assert caught.value.message.startswith("table.csv, row 7: ")
    assert len(caught.value.message) < 200


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_go_to_text_and_back(value: int) -> None:
    assert cast(cast(value, "string"), "int") == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_come_back_from_their_text(value: float) -> None:
    fraction = repr(value) if "." in repr(value) or "e" in repr(value) else f"{value}.0"
    assert cast(fraction, "float") == value


def test_declarations_are_parsed() -> None:
    assert parse_declared_types(["zip=string", "price=float"]) == {
        "zip": ColumnType.STRING,
        "price": ColumnType.FLOAT,
    }
    for declarations, said in (
        (["zip"], "'zip' must be FIELD=TYPE, where TYPE is one of string, int, float, bool"),
        (["zip=text"], "'zip=text' must be"),
        (["=int"], "'' is no metadata field"),
        (["text=string"], "'text' is no metadata field"),
        (["post code=string"], "'post code' is no metadata field"),
        (["zip=int", "zip=string"], "declares 'zip' twice"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            parse_declared_types(declarations)
        assert said in caught.value.message


def test_a_declared_field_that_no_document_has_is_refused() -> None:
    types = {"zip": ColumnType.STRING}
    check_declared_types(types, {"zip"}, ())
    with pytest.raises(InvalidArgument, match=r"no document has the metadata field 'zip'.*: a, b"):
        check_declared_types(types, {"a"}, {"b", "a"})
