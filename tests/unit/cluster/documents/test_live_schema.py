from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.documents.documents import FIELDS_MAX
from cluster.documents.live_schema import LiveSchema
from cluster.errors import InvalidArgument
from cluster.metadata import ColumnType, MetadataValue

BASE = {
    "state": ColumnType.STRING,
    "year": ColumnType.INT,
    "price": ColumnType.FLOAT,
    "open": ColumnType.BOOL,
}


def schema(*learned: Mapping[str, MetadataValue]) -> LiveSchema:
    made = LiveSchema(BASE)
    for metadata in learned:
        made.learn(metadata)
    return made


@pytest.mark.parametrize(
    ("field", "value", "fitted"),
    [
        ("state", "open", "open"),
        ("year", 2024, 2024),
        ("year", 2024.0, 2024),
        ("price", 1.5, 1.5),
        ("price", 3, 3.0),
        ("open", False, False),
        ("open", None, None),
        ("new", 7, 7),
    ],
)
def test_a_value_becomes_the_type_of_its_field_without_loss(
    field: str, value: MetadataValue, fitted: MetadataValue
) -> None:
    found = schema().fitted({field: value})[field]

    assert found == fitted
    assert type(found) is type(fitted)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("state", 7, "is an integer, but the field has a string"),
        ("year", "2024", "is a string, but the field has an integer"),
        ("year", 2024.5, "is a float, but the field has an integer"),
        ("year", 1e300, "is a float, but the field has an integer"),
        ("year", True, "is a boolean, but the field has an integer"),
        ("price", 2**53 + 1, "is an integer, but the field has a float"),
        ("open", 1, "is an integer, but the field has a boolean"),
    ],
)
def test_another_type_is_refused_by_the_name_of_its_field(
    field: str, value: MetadataValue, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message) as error:
        schema().fitted({field: value})

    assert error.value.field == f"metadata.{field}"


def test_a_new_field_keeps_the_type_that_it_came_with() -> None:
    learned = schema({"team": "red"})

    assert learned.fitted({"team": "blue"}) == {"team": "blue"}
    assert learned.types == {**BASE, "team": ColumnType.STRING}
    with pytest.raises(InvalidArgument, match="is an integer, but the field has a string"):
        learned.fitted({"team": 7})


def test_a_new_field_of_integers_takes_floats_as_an_ingest_does() -> None:
    learned = schema({"weight": 5})

    assert learned.fitted({"weight": 5.5}) == {"weight": 5.5}
    learned.learn({"weight": 5.5})
    assert learned.types["weight"] is ColumnType.FLOAT
    assert learned.fitted({"weight": 6}) == {"weight": 6.0}


def test_a_field_whose_integers_a_float_would_round_stays_one_of_integers() -> None:
    learned = schema({"serial": 2**60})

    with pytest.raises(InvalidArgument, match="is a float, but the field has an integer"):
        learned.fitted({"serial": 1.5})


def test_what_the_log_has_of_another_type_changes_no_type() -> None:
    learned = schema({"team": "red"}, {"team": 7, "year": "old"})

    assert learned.types == {**BASE, "team": ColumnType.STRING}


def test_a_new_base_says_what_its_fields_are() -> None:
    learned = schema({"weight": 5}).rebased({"weight": ColumnType.STRING})

    assert learned.types == {"weight": ColumnType.STRING}


def test_a_corpus_does_not_get_more_fields_than_it_may_have() -> None:
    full = LiveSchema({f"f{n}": ColumnType.INT for n in range(FIELDS_MAX)})

    assert full.fitted({"f0": 1}) == {"f0": 1}
    with pytest.raises(InvalidArgument, match=f"more than {FIELDS_MAX} metadata fields"):
        full.fitted({"one_more": 1})


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=3),
)


@given(st.lists(VALUES, max_size=8))
def test_documents_that_fit_one_after_the_other_have_values_of_one_type(
    values: list[MetadataValue],
) -> None:
    learned = schema()
    kept: list[MetadataValue] = []
    for value in values:
        try:
            fitted = learned.fitted({"new": value})
        except InvalidArgument:
            continue
        learned.learn(fitted)
        kept.append(fitted["new"])

    types = {type(value) for value in kept if value is not None}
    assert len(types) <= 1 or types == {int, float}
    if types == {int, float}:
        assert all(float(value) == value for value in kept if isinstance(value, int))
