"""Which texts are embedded next: nobody waits for all of somebody else's."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.embedding.queue import FairQueue, Window
from cluster.errors import InvalidArgument, Overloaded

PIECE = 512
LONG = 256
"""Tokens of a long text."""
LENGTHS = st.integers(1, 9).map(lambda n: n * 64)
TEXTS = st.lists(st.lists(LENGTHS, min_size=1, max_size=3), min_size=1, max_size=20)
"""The windows of each text of a request, by their lengths."""


def texts(*lengths: int) -> list[list[int]]:
    """Texts of one window each."""
    return [[length] for length in lengths]


def queue(waiting_max: int = 4096) -> FairQueue[str]:
    return FairQueue(piece_tokens_max=PIECE, waiting_max=waiting_max)


def test_a_lone_query_is_the_next_piece_beside_a_batch() -> None:
    dealt = queue()
    dealt.add("batch", texts(LONG) * 1024)
    for _ in range(5):
        assert {window.request for window in dealt.next_piece()} == {"batch"}
        dealt.add("query", texts(10))
        assert dealt.next_piece() == [Window("query", 0)]


def test_queries_that_never_end_leave_a_batch_every_second_piece() -> None:
    dealt = queue()
    dealt.add("batch", texts(LONG) * 100)
    assert dealt.next_piece() == [Window("batch", 99)]
    pieces = []
    for number in range(20):
        dealt.add(f"query {number}", texts(PIECE))
        pieces.append({window.request.split()[0] for window in dealt.next_piece()})
    assert pieces == [{"query"}, {"batch"}] * 10


def test_batches_take_turns() -> None:
    dealt = queue()
    for name in "abc":
        dealt.add(name, texts(LONG) * 50)
    dealt_of: Counter[str] = Counter()
    for _ in range(30):
        dealt_of.update(window.request for window in dealt.next_piece())
        assert max(dealt_of.values()) - min(dealt_of[name] for name in "abc") <= 2


def test_a_long_text_is_dealt_window_by_window_beside_others() -> None:
    dealt = queue()
    dealt.add("a", [[PIECE] * 3])
    dealt.add("b", [[PIECE] * 2, [PIECE] * 2])
    got = []
    while piece := dealt.next_piece():
        (window,) = piece
        got.append(window.request)
        if len(got) == 2:
            dealt.add("query", texts(10))
    assert got == ["a", "b", "a", "query", "b", "a", "b", "b"]


def test_a_piece_has_windows_of_one_length_of_whoever_waits() -> None:
    dealt = queue()
    for number, length in enumerate([24, 32, 24, 40, 24]):
        dealt.add(f"query {number}", texts(length))
    dealt.add("batch", texts(32, 24, 24))
    pieces = []
    while piece := dealt.next_piece():
        pieces.append([(window.request, window.number) for window in piece])
    query = [(f"query {number}", 0) for number in range(5)]
    assert pieces[0] == [query[0], query[2], query[4], ("batch", 2)]
    assert pieces[1:] == [[query[1]], [("batch", 1)], [query[3]], [("batch", 0)]]


def test_a_piece_is_no_longer_than_it_may_be() -> None:
    dealt = queue()
    dealt.add("batch", texts(LONG) * 3)
    dealt.add("longest", texts(2 * PIECE))
    assert [len(dealt.next_piece()) for _ in range(4)] == [1, 1, 2, 0]


def test_a_text_waits_until_its_first_window_is_dealt() -> None:
    dealt = queue(waiting_max=4)
    dealt.add("two", [[8, 16], [24, 32]])
    with pytest.raises(Overloaded):
        dealt.add("query", texts(10) * 2)
    assert dealt.next_piece() == [Window("two", 0)]
    with pytest.raises(Overloaded):
        dealt.add("query", texts(10) * 2)
    assert dealt.next_piece() == [Window("two", 1)]
    assert dealt.next_piece() == [Window("two", 2)]
    dealt.add("query", texts(10) * 2)
    dealt.drop("query")
    dealt.drop("two")
    dealt.add("another", texts(10) * 2)


def test_what_is_dropped_is_not_dealt_and_leaves_its_places() -> None:
    dealt = queue(waiting_max=8)
    dealt.add("batch", texts(LONG) * 4)
    dealt.next_piece()
    dealt.drop("batch")
    dealt.drop("nobody")
    assert dealt.next_piece() == []
    dealt.add("another", texts(LONG) * 4)


def test_batches_leave_room_for_queries() -> None:
    dealt = queue(waiting_max=4096)
    for number in range(3):
        dealt.add(f"batch {number}", texts(LONG) * 1024)
    for number in range(50):
        with pytest.raises(Overloaded, match="send fewer"):
            dealt.add(f"one more {number}", texts(LONG) * 1024)
    for number in range(1000):
        dealt.add(f"query {number}", texts(10))
    with pytest.raises(InvalidArgument, match="at most 2048"):
        dealt.add("too many", texts(1) * 2049)


@given(
    steps=st.lists(
        st.one_of(TEXTS, st.just("piece"), st.integers(0, 10).map(lambda n: ("drop", n))),
        max_size=60,
    )
)
def test_each_window_is_dealt_once_shortest_first_in_bounded_pieces(steps: list[object]) -> None:
    dealt = queue(waiting_max=100_000)
    added: dict[str, list[int]] = {}
    dropped: set[str] = set()
    got: list[Window[str]] = []

    def take() -> bool:
        piece = dealt.next_piece()
        lengths = [added[window.request][window.number] for window in piece]
        assert len(set(lengths)) <= 1
        assert len(piece) <= 1 or sum(lengths) <= PIECE
        assert not dropped.intersection(window.request for window in piece)
        got.extend(piece)
        return bool(piece)

    for step in steps:
        if isinstance(step, list):
            name = str(len(added))
            added[name] = [length for text in step for length in text]
            dealt.add(name, step)
        elif isinstance(step, tuple):
            dropped.add(str(step[1]))
            dealt.drop(str(step[1]))
            dropped &= added.keys()
        else:
            take()
    while take():
        pass
    assert len(set(got)) == len(got)
    for name, lengths in added.items():
        of_it = [lengths[window.number] for window in got if window.request == name]
        assert of_it == sorted(of_it)
        assert name in dropped or len(of_it) == len(lengths)
    dealt.add("all slots are free again", texts(8) * 50_000)


@given(before=st.lists(TEXTS, max_size=8), later=st.lists(TEXTS, min_size=18, max_size=18))
def test_a_request_waits_for_one_window_of_each_that_came_before_it(
    before: list[list[list[int]]], later: list[list[list[int]]]
) -> None:
    """However many come later, and however much they bring."""
    dealt = queue(waiting_max=100_000)
    for number, request in enumerate(before):
        dealt.add(f"before {number}", request)
    dealt.add("mine", texts(10))
    for number, request in enumerate(later[: 2 * len(before) + 2]):
        if Window("mine", 0) in dealt.next_piece():
            return
        dealt.add(f"later {number}", request)
    raise AssertionError("others went first")


@given(requests=st.lists(TEXTS, min_size=1, max_size=8))
def test_each_begun_request_has_its_turn_before_any_leads_again(
    requests: list[list[list[int]]],
) -> None:
    dealt = queue(waiting_max=100_000)
    for number, request in enumerate(requests):
        dealt.add(str(number), request)
    left = {str(n): sum(map(len, request)) for n, request in enumerate(requests)}
    waited: Counter[str] = Counter()
    while piece := dealt.next_piece():
        served = {window.request for window in piece}
        left = {name: num - sum(w.request == name for w in piece) for name, num in left.items()}
        waited.update(name for name, num in left.items() if num and name not in served)
        for name in served:
            assert waited.pop(name, 0) <= 2 * len(requests)
