"""Concurrent calls travel together, wait for no timer, and cost nothing once cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from cluster.errors import Overloaded, Unavailable
from cluster.search.coalescing import Coalescer

Run = Callable[[str, list[int]], Awaitable[list[int]]]


TURNS_TO_DEPART = 4
"""One for the tasks to submit, one for the batch to begin, and where it found several calls, one to
see whether there are more, and one to see that there are not."""


class GatedRun:
    """Doubles its items; every batch waits for the gate."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.gate = asyncio.Event()
        self.cancelled = 0
        self.under_way = 0
        self.under_way_max = 0
        self.error: Exception | None = None

    async def __call__(self, key: str, items: list[int]) -> list[int]:
        self.batches.append((key, items))
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1
        if self.error is not None:
            raise self.error
        return [2 * item for item in items]


def coalescer(
    run: Run, *, size_max: int = 100, in_flight_max: int = 1, waiting_max: int = 1000
) -> Coalescer[str, int, int]:
    return Coalescer(run, size_max=size_max, in_flight_max=in_flight_max, waiting_max=waiting_max)


async def started(
    calls: Coalescer[str, int, int],
    *items: int,
    key: str = "k",
    size: int = 1,
    timeout_s: float | None = None,
) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(calls.submit(key, item, size, timeout_s)) for item in items]
    await turns(TURNS_TO_DEPART)
    return tasks


class Timers:
    """Stands for the loop's timers, none of which goes off before the test calls it."""

    def __init__(self) -> None:
        self.set: list[tuple[float, Callable[[], object]]] = []
        """The delay of each, and its callback."""
        self._loop = asyncio.get_running_loop()
        self._call_later = self._loop.call_later
        self._loop.call_later = self._note  # type: ignore[method-assign]

    def _note(
        self, delay: float, callback: Callable[..., object], *args: Any, **_: object
    ) -> asyncio.TimerHandle:
        self.set.append((delay, partial(callback, *args)))
        return self._call_later(3600.0, callback, *args)


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_what_one_turn_brings_departs_together_and_what_comes_later_follows() -> None:
    run = GatedRun()
    calls = coalescer(run)
    first = await started(calls, 1, 2, 3)
    later = await started(calls, 4) + await started(calls, 5)
    assert run.batches == [("k", [1, 2, 3])]
    run.gate.set()
    assert [await task for task in first + later] == [2, 4, 6, 8, 10]
    assert run.batches == [("k", [1, 2, 3]), ("k", [4, 5])]


async def test_a_batch_that_grows_waits_for_one_more_turn_and_no_call_waits_alone() -> None:
    run = GatedRun()
    calls = coalescer(run)
    tasks = [asyncio.create_task(calls.submit("alone", 0, 1))]
    await turns(2)
    assert run.batches == [("alone", [0])]
    for item in range(1, 7, 2):
        tasks += [asyncio.create_task(calls.submit("k", item + i, 1)) for i in range(2)]
        await turns(1)
    assert len(run.batches) == 1
    await turns(TURNS_TO_DEPART)
    assert run.batches[1:] == [("k", [1, 2, 3, 4, 5, 6])]
    run.gate.set()
    await asyncio.gather(*tasks)


async def test_a_batch_does_not_wait_for_ever_while_it_grows() -> None:
    run = GatedRun()
    calls = coalescer(run)
    tasks = []
    for item in range(0, 80, 2):
        tasks += [asyncio.create_task(calls.submit("k", item + i, 1)) for i in range(2)]
        await turns(1)
    assert len(run.batches) == 1
    assert 4 <= len(run.batches[0][1]) <= 40
    run.gate.set()
    await asyncio.gather(*tasks)


async def test_keys_never_mix_and_do_not_wait_for_each_other() -> None:
    run = GatedRun()
    calls = coalescer(run)
    tasks = await started(calls, 1, key="a") + await started(calls, 2, key="b")
    assert run.batches == [("a", [1]), ("b", [2])]
    run.gate.set()
    assert [await task for task in tasks] == [2, 4]


@pytest.mark.parametrize("in_flight_max", [1, 2, 3])
async def test_batches_under_way_are_bounded(in_flight_max: int) -> None:
    run = GatedRun()
    calls = coalescer(run, in_flight_max=in_flight_max)
    tasks = [task for item in range(6) for task in await started(calls, item)]
    assert run.under_way == in_flight_max
    run.gate.set()
    assert [await task for task in tasks] == [2 * item for item in range(6)]
    assert run.under_way_max == in_flight_max


async def test_a_batch_is_bounded_by_size_but_a_large_call_goes_alone() -> None:
    run = GatedRun()
    run.gate.set()
    calls = coalescer(run, size_max=4)
    sizes = [2, 2, 1, 9, 4]
    answers = await asyncio.gather(*(calls.submit("k", size, size) for size in sizes))
    assert answers == [2 * size for size in sizes]
    assert [items for _, items in run.batches] == [[2, 2], [1], [9], [4]]


async def test_what_waits_is_bounded() -> None:
    run = GatedRun()
    calls = coalescer(run, waiting_max=5)
    tasks = await started(calls, 1) + await started(calls, 2, size=4)
    with pytest.raises(Overloaded):
        await calls.submit("k", 3, 2)
    tasks += await started(calls, 4)
    run.gate.set()
    assert [await task for task in tasks] == [2, 4, 8]
    assert await calls.submit("k", 5, 2) == 10


async def test_a_call_that_waits_too_long_ends_and_its_batch_with_the_last_of_them() -> None:
    run = GatedRun()
    calls = coalescer(run)
    (patient,) = await started(calls, 1, timeout_s=30.0)
    with pytest.raises(TimeoutError):
        await calls.submit("k", 2, 1, timeout_s=0.001)
    with pytest.raises(TimeoutError):
        await calls.submit("other", 4, 1, timeout_s=0.001)
    await asyncio.sleep(0)
    assert run.cancelled == 1
    run.gate.set()
    assert await patient == 2
    assert run.batches == [("k", [1]), ("other", [4])]


async def test_a_call_cancelled_in_the_queue_costs_nothing() -> None:
    run = GatedRun()
    calls = coalescer(run)
    (first,) = await started(calls, 1)
    dropped, kept = await started(calls, 2, 3)
    dropped.cancel()
    run.gate.set()
    assert [await first, await kept] == [2, 6]
    assert run.batches == [("k", [1]), ("k", [3])]


async def test_a_batch_stops_when_nobody_waits_for_it_any_more() -> None:
    run = GatedRun()
    calls = coalescer(run)
    one, other = await started(calls, 1, 2)
    one.cancel()
    await asyncio.sleep(0)
    assert run.cancelled == 0
    other.cancel()
    await asyncio.gather(one, other, return_exceptions=True)
    await asyncio.sleep(0)
    assert run.cancelled == 1
    run.gate.set()
    assert await calls.submit("k", 3, 1) == 6


async def test_an_error_is_that_of_its_batch_only() -> None:
    run = GatedRun()
    run.error = Unavailable("no")
    calls = coalescer(run)
    failing = await started(calls, 1, 2)
    waiting = await started(calls, 3)
    run.gate.set()
    assert all(
        isinstance(e, Unavailable) for e in await asyncio.gather(*failing, return_exceptions=True)
    )
    run.error = None
    with pytest.raises(Unavailable):
        await waiting[0]
    assert await calls.submit("k", 4, 1) == 8


async def test_a_batch_is_carried_by_its_newest_key() -> None:
    """Under load a lane never empties: what its first key carried would go stale."""

    class Routed(str):
        route = 0

    seen: list[int] = []
    gate = asyncio.Event()

    async def run(key: str, items: list[int]) -> list[int]:
        assert isinstance(key, Routed)
        seen.append(key.route)
        await gate.wait()
        return items

    calls = coalescer(run)
    tasks = []
    for route in (1, 2, 3):
        key = Routed("k")
        key.route = route
        tasks += await started(calls, route, key=key)
    gate.set()
    assert [await task for task in tasks] == [1, 2, 3]
    assert seen == [1, 3]


async def test_calls_that_were_given_up_make_room_at_once() -> None:
    run = GatedRun()
    calls = coalescer(run, waiting_max=5)
    (under_way,) = await started(calls, 1)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await calls.submit("k", 2, 5, timeout_s=0.001)
        (left,) = await started(calls, 3, size=5)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
    (kept,) = await started(calls, 4, size=5)
    run.gate.set()
    assert [await under_way, await kept] == [2, 8]
    assert run.batches == [("k", [1]), ("k", [4])]


async def test_a_call_may_time_out_and_be_cancelled_in_one_turn() -> None:
    run = GatedRun()
    calls = coalescer(run, waiting_max=5)
    (under_way,) = await started(calls, 1)
    timers = Timers()
    (both,) = await started(calls, 2, size=5, timeout_s=1.0)
    ((_, expire),) = timers.set
    expire()
    both.cancel()
    await asyncio.gather(both, return_exceptions=True)
    (kept,) = await started(calls, 3, size=5)
    run.gate.set()
    assert [await under_way, await kept] == [2, 6]


async def test_a_batch_that_is_late_gives_its_place_to_the_next_one() -> None:
    run = GatedRun()
    calls = Coalescer(
        run, size_max=100, in_flight_max=1, waiting_max=1000, late_after_s=lambda key: len(key)
    )
    timers = Timers()
    tasks = await started(calls, 1)
    tasks += await started(calls, 2, 3)
    assert run.batches == [("k", [1])]
    ((delay, give_way),) = timers.set
    assert delay == 1.0
    give_way()
    await turns(TURNS_TO_DEPART)
    assert run.batches == [("k", [1]), ("k", [2, 3])]
    # The second one counts, and the first one does not count twice when it ends.
    tasks += await started(calls, 4)
    assert len(run.batches) == 2
    run.gate.set()
    assert [await task for task in tasks] == [2, 4, 6, 8]
    assert run.under_way_max == 2
    run.gate.clear()
    tasks = [*await started(calls, 5), *await started(calls, 6)]
    assert run.batches[3:] == [("k", [5])]
    run.gate.set()
    assert [await task for task in tasks] == [10, 12]


async def test_late_batches_are_bounded() -> None:
    run = GatedRun()
    calls = Coalescer(
        run, size_max=1, in_flight_max=1, waiting_max=1000, late_after_s=lambda key: 0.0
    )
    tasks = [asyncio.create_task(calls.submit("k", n, 1)) for n in range(300)]
    await turns(2000)
    assert run.under_way == 257
    run.gate.set()
    assert await asyncio.gather(*tasks) == [2 * n for n in range(300)]
