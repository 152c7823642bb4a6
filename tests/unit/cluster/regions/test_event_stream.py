"""Server-sent events, however they are cut on the way."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import Unavailable
from cluster.regions.event_stream import EVENT_BYTES_MAX, EventParser

STREAM = (
    b': alive\n\nevent: token\ndata: {"text":"\xe2\x80\xa8\xc2\x85"}\n\n'
    b": alive\n\ndata:bare\n\nevent: two\ndata: a\ndata: b\n\nevent: none\n\n"
)
EVENTS = [
    ("token", b'{"text":"\xe2\x80\xa8\xc2\x85"}'),
    ("message", b"bare"),
    ("two", b"a\nb"),
]


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_do_not_depend_on_where_the_bytes_are_cut(cuts: list[int]) -> None:
    parser, edges = EventParser(), [0, *sorted(cuts), len(STREAM)]
    found = []
    for start, end in itertools.pairwise(edges):
        found += parser.feed(STREAM[start:end])
    assert found == EVENTS


def test_an_unfinished_event_is_none() -> None:
    assert EventParser().feed(STREAM[:-1])[-1] == EVENTS[-1]
    assert EventParser().feed(b"event: done\ndata: {}\n") == []


def test_an_event_without_an_end_is_refused() -> None:
    parser = EventParser()
    half = b"x" * (EVENT_BYTES_MAX // 2 + 1)
    assert parser.feed(half) == []
    with pytest.raises(Unavailable, match="without an end"):
        parser.feed(half)
