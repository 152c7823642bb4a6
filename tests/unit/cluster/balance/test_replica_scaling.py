"""Replicas follow the load: soon up, slowly down, never out of bounds, never to and fro."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.balance.replica_scaling import DEFAULT_SCALING, ReplicaLoad, ReplicaScaler

TICK_S = 2.0


def run(
    scaler: ReplicaScaler, work: float, *, count: int, seconds: float, start_s: float = 0.0
) -> list[int]:
    """The counts over time under `work`, in replicas kept wholly busy, shared out evenly."""
    counts = []
    now_s = start_s
    while now_s < start_s + seconds:
        share = min(1.0, work / count)
        waiting = 20 if work > count else 0
        loads = [ReplicaLoad(busy_share=share, waiting=waiting)] * count
        count = scaler.wanted(count, loads, least=1, most=4, now_s=now_s)
        counts.append(count)
        now_s += TICK_S
    return counts


@pytest.mark.parametrize(
    ("work", "settled"), [(0.0, 1), (0.3, 1), (0.65, 1), (1.2, 2), (1.9, 3), (9.0, 4)]
)
def test_the_count_settles_where_the_load_is_borne(work: float, settled: int) -> None:
    counts = run(ReplicaScaler(), work, count=1, seconds=200)
    assert counts[-1] == settled
    assert counts == sorted(counts), "it goes up only"


def test_it_grows_soon_and_shrinks_slowly() -> None:
    scaler = ReplicaScaler()
    grown = run(scaler, 1.2, count=1, seconds=60)
    assert grown.index(2) * TICK_S <= DEFAULT_SCALING.up_after_s + TICK_S
    quiet = run(scaler, 0.1, count=2, seconds=300, start_s=60)
    assert quiet[-1] == 1
    assert quiet.index(1) * TICK_S >= DEFAULT_SCALING.down_after_s


def test_a_short_burst_changes_nothing() -> None:
    scaler = ReplicaScaler()
    for start_s in range(0, 100, 10):
        assert set(run(scaler, 5.0, count=1, seconds=4, start_s=start_s)) == {1}
        assert set(run(scaler, 0.2, count=1, seconds=6, start_s=start_s + 4)) == {1}


def test_one_look_that_falls_below_does_not_start_the_wait_anew() -> None:
    scaler = ReplicaScaler()
    counts = [
        scaler.wanted(
            1, [ReplicaLoad(busy_share=share, waiting=1)], least=1, most=4, now_s=look * TICK_S
        )
        for look, share in enumerate([0.9, 0.9, 0.6, 0.9])
    ]
    assert counts == [1, 1, 1, 2]


def test_new_bounds_hold_at_once_and_replicas_that_say_nothing_change_nothing() -> None:
    scaler = ReplicaScaler()
    assert scaler.wanted(5, [], least=1, most=3, now_s=0.0) == 3
    assert scaler.wanted(1, [], least=2, most=3, now_s=1.0) == 2
    assert scaler.wanted(2, [], least=1, most=3, now_s=1e6) == 2


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 300), st.floats(0.1, 200)), max_size=60),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_it_moves_by_one_within_its_bounds(
    story: list[tuple[float, int, float]], least: int, room: int
) -> None:
    scaler, count, now_s = ReplicaScaler(), least, 0.0
    for busy_share, waiting, pause_s in story:
        loads = [ReplicaLoad(busy_share=busy_share, waiting=waiting)] * count
        wanted = scaler.wanted(count, loads, least=least, most=least + room, now_s=now_s)
        assert abs(wanted - count) <= 1
        assert least <= wanted <= least + room
        count, now_s = wanted, now_s + pause_s


@given(st.floats(0, 4))
def test_a_steady_load_is_never_answered_by_to_and_fro(work: float) -> None:
    counts = run(ReplicaScaler(), work, count=2, seconds=1500)
    late = counts[len(counts) // 2 :]
    assert len(set(late)) == 1
