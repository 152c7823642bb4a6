"""Sequences that share their memory never see what others append."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st

from cluster.grown import Grown


@given(steps=st.lists(st.tuples(st.integers(0, 100), st.integers())))
def test_each_keeps_what_it_had_whatever_grows_from_it(steps: list[tuple[int, int]]) -> None:
    made: list[tuple[Grown[int], list[int]]] = [(Grown(), [])]
    for origin, item in steps:
        grown, items = made[origin % len(made)]
        made.append((grown.appended(item), [*items, item]))
    for grown, items in made:
        assert list(grown) == items
        assert list(reversed(grown)) == items[::-1]
        assert (len(grown), bool(grown)) == (len(items), bool(items))
        assert grown[-3:] == tuple(items[-3:])
        assert grown[1:2] == tuple(items[1:2])
        assert [grown[n] for n in range(-len(items), len(items))] == [*items, *items]
        assert grown == tuple(items)
        assert pickle.loads(pickle.dumps(grown)) == grown


def test_one_that_others_grew_from_travels_without_them() -> None:
    short = Grown([1])
    longer = short.appended(2)
    assert pickle.loads(pickle.dumps(short)) == short != longer
    assert len(pickle.dumps(short)) < len(pickle.dumps(longer))
