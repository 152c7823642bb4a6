"""Which partitions a filter names, and that no other shard can have a match."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.query.filters import Filter, parse_filter
from cluster.shards.filter_mask import filter_mask
from cluster.shards.partitions import named_partitions, shard_of_partition, shards_to_ask
from cluster.shards.placement import shard_of

COUNTRIES = ["Chad", "Mali", "Niger", "Åland", ""]


@pytest.mark.parametrize(
    ("filter", "keys", "rest"),
    [
        ({"country": "Chad"}, ("Chad",), None),
        ({"country": 7}, (7,), None),
        ({"country": {"in": ["Chad", "Mali", "Chad"]}}, ("Chad", "Mali"), None),
        ({"country": {"in": []}}, (), None),
        ({"country": "Chad", "year": 2000}, ("Chad",), {"year": 2000}),
        (
            {"and": [{"year": 1}, {"and": [{"country": "Chad"}, {"year": 2}]}, {"year": 3}]},
            ("Chad",),
            {"and": [{"year": 1}, {"year": 2}, {"year": 3}]},
        ),
        ({"and": [{"country": "Chad"}, {"country": "Mali"}]}, ("Chad",), {"country": "Mali"}),
        ({"country": None}, None, None),
        ({"country": True}, None, None),
        ({"country": 1.0}, None, None),
        ({"country": {"in": ["Chad", None]}}, None, None),
        ({"country": {"in": [1, True]}}, None, None),
        ({"country": {"gte": "Chad"}}, None, None),
        ({"not": {"country": "Chad"}}, None, None),
        ({"or": [{"country": "Chad"}, {"year": 1}]}, None, None),
        ({"year": 2000}, None, None),
        ({}, None, None),
    ],
)
def test_what_a_filter_names(filter: Any, keys: tuple[Any, ...] | None, rest: Any) -> None:
    named = named_partitions(parse_filter(filter), "country")
    if keys is None:
        assert named is None
        assert shards_to_ask(parse_filter(filter), "country", 5) == (0, 1, 2, 3, 4)
    else:
        assert named is not None
        assert named.keys == keys
        wanted = None if rest is None else parse_filter(rest)
        # An `and` inside of an `and` means the same, however it is nested.
        assert _flat(named.rest) == _flat(wanted)


def _flat(filter: Filter | None) -> list[Filter]:
    parts = getattr(filter, "parts", None)
    if filter is None or parts is None:
        return [] if filter is None else [filter]
    return [leaf for part in parts for leaf in _flat(part)]


def test_no_filter_asks_all_and_an_impossible_one_asks_one() -> None:
    assert shards_to_ask(None, "country", 3) == (0, 1, 2)
    assert shards_to_ask(parse_filter({"country": {"in": []}}), "country", 3) == (0,)


conditions = st.recursive(
    st.one_of(
        st.sampled_from(COUNTRIES).map(lambda c: {"country": c}),
        st.lists(st.sampled_from([*COUNTRIES, None]), max_size=3).map(
            lambda c: {"country": {"in": c}}
        ),
        st.just({"country": None}),
        st.sampled_from(COUNTRIES).map(lambda c: {"country": {"ne": c}}),
        st.integers(0, 4).map(lambda y: {"year": {"gte": y}}),
    ),
    lambda parts: st.one_of(
        st.lists(parts, min_size=1, max_size=3).map(lambda p: {"and": p}),
        st.lists(parts, min_size=1, max_size=3).map(lambda p: {"or": p}),
        parts.map(lambda p: {"not": p}),
    ),
    max_leaves=6,
)


@given(conditions, st.integers(1, 6))
def test_no_match_is_outside_of_what_is_asked(condition: Any, num_shards: int) -> None:
    filter = parse_filter(condition)
    rows = [(c, y) for c in [*COUNTRIES, None] for y in range(5)]
    table = pa.table(
        {
            "country": pa.array([c for c, _ in rows], pa.string()),
            "year": pa.array([y for _, y in rows], pa.int64()),
        }
    )
    mask = filter_mask(filter, table)
    named = named_partitions(filter, "country")
    if named is not None:
        rest = np.ones(len(rows), bool) if named.rest is None else filter_mask(named.rest, table)
        wanted = [m and c in named.keys for m, (c, _) in zip(rest.tolist(), rows, strict=True)]
        assert mask.tolist() == wanted
    asked = shards_to_ask(filter, "country", num_shards)
    assert asked
    for (country, year), matches in zip(rows, mask, strict=True):
        if matches and country is not None:
            assert shard_of_partition(country, num_shards) in asked
        elif matches:
            # Without a value a document goes by its id, which may be anything.
            assert asked == tuple(range(num_shards)), year


def test_a_partition_stays_where_it_is() -> None:
    # Indexes in stores depend on it: it is the hash of documents, over the value's text.
    assert shard_of_partition("Zürich", 8) == shard_of("Zürich", 8) == 6
    assert shard_of_partition(-12, 8) == shard_of("-12", 8)
