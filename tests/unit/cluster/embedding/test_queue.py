"""Which texts are embedded next: nobody waits for all of somebody else's."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.embedding.queue import FairQueue
from cluster.errors import InvalidArgument, Overloaded

PIECE = 512
LONG = 256
"""Tokens of a long text."""
TOKENS = st.lists(st.integers(1, 600), min_size=1, max_size=20)


def queue(waiting_max: int = 4096) -> FairQueue[str]:
    return FairQueue(piece_tokens_max=PIECE, waiting_max=waiting_max)


def test_a_lone_query_is_the_next_piece_beside_a_batch() -> None:
    dealt = queue()
    dealt.add("batch", [LONG] * 1024)
    for _ in range(5):
        assert {request for request, _ in dealt.next_piece()} == {"batch"}
        dealt.add("query", [10])
        assert dealt.next_piece() == [("query", 0)]


def test_queries_that_never_end_leave_a_batch_every_second_piece() -> None:
    dealt = queue()
    dealt.add("batch", [LONG] * 100)
    assert dealt.next_piece() == [("batch", 99)]
    pieces = []
    for number in range(20):
        dealt.add(f"query {number}", [PIECE])
        pieces.append({request.split()[0] for request, _ in dealt.next_piece()})
    assert pieces == [{"query"}, {"batch"}] * 10


def test_batches_take_turns() -> None:
    dealt = queue()
    for name in "abc":
        dealt.add(name, [LONG] * 50)
    dealt_of: Counter[str] = Counter()
    for _ in range(30):
        dealt_of.update(request for request, _ in dealt.next_piece())
        assert max(dealt_of.values()) - min(dealt_of[name] for name in "abc") <= 2


def test_what_is_left_of_a_long_text_waits_for_its_next_turn() -> None:
    dealt = queue(waiting_max=8)
    dealt.add("a", [10 * PIECE])
    dealt.add("b", [10 * PIECE, 10 * PIECE])
    pieces_left = {("a", 0): 3, ("b", 1): 2, ("b", 0): 2, ("query", 0): 1}
    got = []
    while piece := dealt.next_piece():
        (text,) = piece
        got.append(text)
        pieces_left[text] -= 1
        if pieces_left[text]:
            dealt.put_back(*text)
        if len(got) == 2:
            dealt.add("query", [10])
    a, b, c = ("a", 0), ("b", 1), ("b", 0)
    assert got == [a, b, a, ("query", 0), b, a, c, c]


def test_what_is_put_back_keeps_its_place_and_goes_with_its_request() -> None:
    dealt = queue(waiting_max=2)
    dealt.add("long", [10 * PIECE])
    ((request, text),) = dealt.next_piece()
    dealt.put_back(request, text)
    with pytest.raises(Overloaded):
        dealt.add("query", [10])
    dealt.drop("long")
    assert dealt.next_piece() == []
    dealt.add("query", [10])


def test_what_is_dropped_is_not_dealt_and_leaves_its_places() -> None:
    dealt = queue(waiting_max=8)
    dealt.add("batch", [LONG] * 4)
    dealt.next_piece()
    dealt.drop("batch")
    dealt.drop("nobody")
    assert dealt.next_piece() == []
    dealt.add("another", [LONG] * 4)


def test_batches_leave_room_for_queries() -> None:
    dealt = queue(waiting_max=4096)
    for number in range(3):
        dealt.add(f"batch {number}", [LONG] * 1024)
    for number in range(50):
        with pytest.raises(Overloaded, match="send fewer"):
            dealt.add(f"one more {number}", [LONG] * 1024)
    for number in range(1000):
        dealt.add(f"query {number}", [10])
    with pytest.raises(InvalidArgument, match="at most 2048"):
        dealt.add("too many", [1] * 2049)


@given(
    steps=st.lists(
        st.one_of(TOKENS, st.just("piece"), st.integers(0, 10).map(lambda n: ("drop", n))),
        max_size=60,
    )
)
def test_each_text_is_dealt_once_shortest_first_in_bounded_pieces(steps: list[object]) -> None:
    dealt = queue(waiting_max=100_000)
    added: dict[str, list[int]] = {}
    dropped: set[str] = set()
    got: list[tuple[str, int]] = []

    def take() -> bool:
        piece = dealt.next_piece()
        assert len(piece) <= 1 or sum(added[r][t] for r, t in piece) <= PIECE
        assert not dropped.intersection(request for request, _ in piece)
        got.extend(piece)
        return bool(piece)

    for step in steps:
        if isinstance(step, list):
            name = str(len(added))
            added[name] = step
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
    for name, tokens in added.items():
        of_it = [tokens[text] for request, text in got if request == name]
        assert of_it == sorted(of_it)
        assert name in dropped or len(of_it) == len(tokens)


@given(before=st.lists(TOKENS, max_size=8), later=st.lists(TOKENS, min_size=18, max_size=18))
def test_a_request_waits_for_one_text_of_each_that_came_before_it(
    before: list[list[int]], later: list[list[int]]
) -> None:
    """However many come later, and however much they bring."""
    dealt = queue(waiting_max=100_000)
    for number, tokens in enumerate(before):
        dealt.add(f"before {number}", tokens)
    dealt.add("mine", [10])
    for number, tokens in enumerate(later[: 2 * len(before) + 2]):
        if ("mine", 0) in dealt.next_piece():
            return
        dealt.add(f"later {number}", tokens)
    raise AssertionError("others went first")
