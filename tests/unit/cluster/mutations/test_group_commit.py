"""Groups: in order, within their bounds, and a full queue says when to come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import Overloaded, TooLarge
from cluster.mutations.group_commit import GroupCommit, GroupLimits, PendingWrite
from cluster.mutations.mutation import Write
from cluster.mutations.mutation_log import BATCH_BYTES_MAX, MUTATIONS_MAX
from tests.support.values.mutations import text_content

SMALL = GroupLimits(mutations_max=3, bytes_max=1000, queue_mutations_max=8, queue_bytes_max=4000)


def pending(ticket: int, text_bytes: int = 1) -> PendingWrite:
    content = text_content("x" * text_bytes)
    return PendingWrite(ticket, Write(document="d", content=content), expires_s=0.0)


def tickets(group: tuple[PendingWrite, ...]) -> list[int]:
    return [each.ticket for each in group]


def test_what_waits_is_a_group_in_its_order() -> None:
    queue = GroupCommit(SMALL)
    for ticket in range(7):
        queue.offer(pending(ticket))
    assert [tickets(queue.take()) for _ in range(4)] == [[0, 1, 2], [3, 4, 5], [6], []]


def test_a_group_has_at_most_a_thousand_mutations_and_sixteen_mebibytes() -> None:
    queue = GroupCommit()
    for ticket in range(MUTATIONS_MAX + 1):
        queue.offer(pending(ticket))
    assert len(queue.take()) == MUTATIONS_MAX == 1000
    assert len(queue.take()) == 1
    for ticket in range(3):
        queue.offer(pending(ticket, BATCH_BYTES_MAX // 2 - 1000))
    assert len(queue.take()) == 2
    assert BATCH_BYTES_MAX == 16 * 2**20


def test_a_group_ends_before_what_does_not_fit() -> None:
    queue = GroupCommit(SMALL)
    for ticket, text_bytes in enumerate([500, 500, 10, 10]):
        queue.offer(pending(ticket, text_bytes))
    assert [tickets(queue.take()) for _ in range(2)] == [[0], [1, 2, 3]]


def test_what_fits_into_no_group_is_refused_by_name() -> None:
    queue = GroupCommit(SMALL)
    with pytest.raises(TooLarge, match="'d' takes"):
        queue.offer(pending(1, 2000))
    assert len(queue) == 0


@pytest.mark.parametrize(("text_bytes", "fitting"), [(1, 8), (850, 4)])
def test_a_full_queue_refuses_and_says_when_to_come_back(text_bytes: int, fitting: int) -> None:
    queue = GroupCommit(SMALL)
    for ticket in range(fitting):
        queue.offer(pending(ticket, text_bytes))
    queue.has_taken(0.25)
    with pytest.raises(Overloaded, match=f"{fitting} writes wait") as caught:
        queue.offer(pending(99, text_bytes))
    assert caught.value.retry_after_s == {8: 3, 4: 4}[fitting] * 0.25
    queue.take()
    queue.offer(pending(99, text_bytes))


def test_the_bounds_themselves_are_allowed() -> None:
    base_bytes = pending(1, 0).write.size_bytes
    full = GroupLimits(bytes_max=base_bytes + 500, queue_bytes_max=2 * (base_bytes + 500))
    queue = GroupCommit(full)
    with pytest.raises(TooLarge):
        queue.offer(pending(0, 501))
    for ticket in (1, 2):
        queue.offer(pending(ticket, 500))
    with pytest.raises(Overloaded):
        queue.offer(pending(3, 0))
    queue.put_back(queue.take())
    with pytest.raises(Overloaded):
        queue.offer(pending(3, 0))
    assert [tickets(queue.take()) for _ in range(2)] == [[1], [2]]


@given(
    sizes=st.lists(st.integers(0, 700), max_size=12),
    steps=st.lists(st.booleans(), max_size=20),
)
def test_each_write_is_taken_once_in_order_within_the_bounds(
    sizes: list[int], steps: list[bool]
) -> None:
    """True takes a group; False takes one and puts it back."""
    queue = GroupCommit(SMALL)
    accepted, taken = [], []
    for ticket, text_bytes in enumerate(sizes):
        try:
            queue.offer(pending(ticket, text_bytes))
        except Overloaded:
            continue
        accepted.append(ticket)
    for keeps in [*steps, *[True] * len(sizes)]:
        group = queue.take()
        assert len(group) <= SMALL.mutations_max
        assert sum(each.write.size_bytes for each in group) <= SMALL.bytes_max
        if keeps:
            taken += tickets(group)
        else:
            queue.put_back(group)
    assert taken == accepted
    assert len(queue) == 0
    for ticket in range(SMALL.queue_mutations_max):
        queue.offer(pending(ticket))


def test_what_nobody_waits_for_any_more_is_taken_out() -> None:
    queue = GroupCommit(SMALL)
    for ticket, text_bytes in enumerate([1, 850, 1, 850]):
        queue.offer(pending(ticket, text_bytes))
    assert tickets(queue.take()) == [0]
    assert queue.withdraw({0, 1, 3}) == {1, 3}, "0 is on its way"
    for ticket in range(4, 8):
        queue.offer(pending(ticket, 850))
    assert [tickets(queue.take()) for _ in range(3)] == [[2], [4], [5]], "their room is free"
