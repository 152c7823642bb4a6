"""Watermarks are a lattice: partly ordered, with a least above and a greatest below any two."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.mutations.watermark import HeldMutations, Watermark

WATERMARKS = st.builds(
    Watermark.of, st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3), max_size=4)
)


def test_a_region_that_is_left_out_is_at_zero() -> None:
    mark = Watermark.of({"b": 2, "a": 0})
    assert (mark["a"], mark["b"], mark["c"]) == (0, 2, 0)
    assert list(mark) == ["b"]
    assert mark == Watermark.of({"b": 2})
    assert mark.as_dict() == {"b": 2}


@given(a=WATERMARKS, b=WATERMARKS, c=WATERMARKS)
def test_the_laws_of_a_lattice_hold(a: Watermark, b: Watermark, c: Watermark) -> None:
    assert a <= a
    assert (a <= b and b <= a) == (a == b)
    assert not (a <= b and b <= c) or a <= c
    assert a.joined(b) == b.joined(a)
    assert a.joined(b).joined(c) == a.joined(b.joined(c))
    assert a.common(b) == b.common(a)
    assert a.common(b).common(c) == a.common(b.common(c))
    assert a.joined(a.common(b)) == a == a.common(a.joined(b))
    assert (a <= b) == (a.joined(b) == b) == (a.common(b) == a)
    assert hash(a.joined(b)) == hash(b.joined(a))


def test_neither_of_two_that_know_different_things_comes_first() -> None:
    one, other = Watermark.of({"a": 1}), Watermark.of({"b": 1})
    assert not one <= other
    assert not other <= one


def test_a_position_never_goes_back() -> None:
    mark = Watermark.of({"a": 2})
    assert mark.advanced("b", 5) == Watermark.of({"a": 2, "b": 5})
    assert mark.advanced("a", 2) == mark
    with pytest.raises(ValueError, match="a is at 2"):
        mark.advanced("a", 1)
    with pytest.raises(ValueError, match="negative"):
        Watermark.of({"a": -1})


def held(**times: int) -> HeldMutations:
    return HeldMutations.of({region: f"{wall_ms}.0.{region}" for region, wall_ms in times.items()})


def test_what_several_bases_hold_together() -> None:
    one, other = held(a=5, b=3), held(a=2, b=4, c=1)
    assert one.common(other) == held(a=2, b=3)
    assert one.joined(other) == held(a=5, b=4, c=1)
    for both in (one, other):
        assert one.common(other) <= both <= one.joined(other)
    assert not one <= other
    assert not held(c=1) <= one
    assert HeldMutations() <= one
    assert one.common(HeldMutations()) == HeldMutations()
