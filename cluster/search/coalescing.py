"""Concurrent calls travel together: what arrives while others are under way forms the next batch.

    submit -> waiting -> departs when fewer than `in_flight_max` batches are under way -> answered
                                                 a late batch does not count any more

No call waits for company by the clock: one that finds nothing under way departs in the next turn of
the event loop. Only while each turn brings more of its kind, another turn is waited for: under load
what a process answered a moment ago comes back as new calls, and a batch costs little more than a
call. (32 clients of two gateways: 9 calls a batch in place of 6, a tenth more searches a second.)

A batch that takes longer than batches usually do waits for a part that hangs. It gives its slot to
the next batch, so that the calls that come after it do not wait for that part, too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from cluster.errors import Overloaded

KeyT = TypeVar("KeyT", bound=Hashable)
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(slots=True, eq=False)
class _Call(Generic[KeyT, ItemT, ResultT]):
    key: KeyT
    item: ItemT
    size: int
    answer: asyncio.Future[ResultT]
    is_waiting: bool = True
    """Neither departed nor given up."""
    batch: _Batch[KeyT, ItemT, ResultT] | None = None


@dataclass(slots=True, eq=False)
class _Batch(Generic[KeyT, ItemT, ResultT]):
    calls: list[_Call[KeyT, ItemT, ResultT]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    is_late: bool = False


@dataclass(slots=True, eq=False)
class _Lane(Generic[KeyT, ItemT, ResultT]):
    """The calls of one key."""

    waiting: deque[_Call[KeyT, ItemT, ResultT]] = field(default_factory=deque)
    in_flight: int = 0
    late: int = 0
    """Batches under way that do not count as `in_flight` any more."""
    is_departing: bool = False
    """A task is about to begin that takes what waits then."""


_TURNS_MAX = 8
"""Turns of the event loop for which a batch that still grows is held back."""
_LATE_MAX = 256
"""Late batches under way at once, of all keys. With so many, a batch that becomes late keeps its
slot."""


class Coalescer(Generic[KeyT, ItemT, ResultT]):
    """Gathers the calls of one key into batches for `run(key, items)`, which answers each item.

    Guarantees: a batch holds calls of one key in the order of their arrival, and is no larger than
    `size_max` unless a single call is; at most `in_flight_max` batches of a key are under way, and
    besides them at most `_LATE_MAX` late ones; a call that is cancelled before it departs costs
    nothing, and a batch whose calls are all cancelled is cancelled. An error of `run` is the error
    of every call in the batch. Of equal keys `run` gets that of the batch's last call: what a key
    carries besides is as new as can be.
    """

    def __init__(
        self,
        run: Callable[[KeyT, list[ItemT]], Awaitable[Sequence[ResultT]]],
        *,
        size_max: int,
        in_flight_max: int,
        waiting_max: int,
        late_after_s: Callable[[KeyT], float] | None = None,
    ) -> None:
        """`late_after_s`: after this time a batch of the key is late; None: a batch is never."""
        self._run = run
        self._size_max = size_max
        self._in_flight_max = in_flight_max
        self._waiting_max = waiting_max
        self._late_after_s = late_after_s
        self._num_late = 0
        self._num_waiting = 0
        self._lanes: dict[KeyT, _Lane[KeyT, ItemT, ResultT]] = {}

    async def submit(
        self, key: KeyT, item: ItemT, size: int, timeout_s: float | None = None
    ) -> ResultT:
        """The answer to one item, which counts for `size` of a batch's bounds.

        Raises Overloaded when `waiting_max` would be exceeded, and TimeoutError. A timeout here
        costs a third of what `asyncio.timeout` around the call does.
        """
        if self._num_waiting and self._num_waiting + size > self._waiting_max:
            raise Overloaded("too much is waiting already; try again shortly")
        loop = asyncio.get_running_loop()
        call: _Call[KeyT, ItemT, ResultT] = _Call(key, item, size, loop.create_future())
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane()
        lane.waiting.append(call)
        self._num_waiting += size
        self._depart(key, lane)
        timer = None if timeout_s is None else loop.call_later(timeout_s, self._expire, call)
        try:
            return await call.answer
        except asyncio.CancelledError:
            self._give_up(call)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _expire(self, call: _Call[KeyT, ItemT, ResultT]) -> None:
        if not call.answer.done():
            call.answer.set_exception(TimeoutError())
            self._give_up(call)

    def _give_up(self, call: _Call[KeyT, ItemT, ResultT]) -> None:
        batch = call.batch
        if call.is_waiting:
            self._lanes[call.key].waiting.remove(call)
            self._no_longer_waiting(call)
        elif batch is not None and all(other.answer.done() for other in batch.calls):
            assert batch.task is not None
            batch.task.cancel()

    def _no_longer_waiting(self, call: _Call[KeyT, ItemT, ResultT]) -> None:
        call.is_waiting = False
        self._num_waiting -= call.size

    def _depart(self, key: KeyT, lane: _Lane[KeyT, ItemT, ResultT]) -> None:
        """Sends a task on its way for what waits, unless one is already, or enough are."""
        if lane.waiting and not lane.is_departing and lane.in_flight < self._in_flight_max:
            lane.is_departing = True
            batch: _Batch[KeyT, ItemT, ResultT] = _Batch()
            batch.task = asyncio.create_task(self._carry(key, lane, batch))

    def _next_batch(self, lane: _Lane[KeyT, ItemT, ResultT]) -> list[_Call[KeyT, ItemT, ResultT]]:
        """The oldest calls that fit together; one that is too large alone goes alone."""
        calls: list[_Call[KeyT, ItemT, ResultT]] = []
        size = 0
        while lane.waiting:
            call = lane.waiting[0]
            if calls and size + call.size > self._size_max:
                break
            self._no_longer_waiting(lane.waiting.popleft())
            calls.append(call)
            size += call.size
        return calls

    async def _carry(
        self,
        key: KeyT,
        lane: _Lane[KeyT, ItemT, ResultT],
        batch: _Batch[KeyT, ItemT, ResultT],
    ) -> None:
        waiting, turns = 1, 0
        while waiting < len(lane.waiting) and turns < _TURNS_MAX:
            waiting, turns = len(lane.waiting), turns + 1
            await asyncio.sleep(0)
        lane.is_departing = False
        calls = batch.calls = self._next_batch(lane)
        for call in calls:
            call.batch = batch
        lane.in_flight += 1
        # Calls that do not fit travel in the next batch, beside this one.
        self._depart(key, lane)
        timer = None
        if self._late_after_s is not None:
            late_after_s = self._late_after_s(key)
            loop = asyncio.get_running_loop()
            timer = loop.call_later(late_after_s, self._give_way, key, lane, batch)
        try:
            if calls:
                await self._answer(calls)
        finally:
            if timer is not None:
                timer.cancel()
            self._arrive(key, lane, batch)

    def _give_way(
        self,
        key: KeyT,
        lane: _Lane[KeyT, ItemT, ResultT],
        batch: _Batch[KeyT, ItemT, ResultT],
    ) -> None:
        if self._num_late >= _LATE_MAX:
            return
        batch.is_late = True
        self._num_late += 1
        lane.late += 1
        lane.in_flight -= 1
        self._depart(key, lane)

    def _arrive(
        self,
        key: KeyT,
        lane: _Lane[KeyT, ItemT, ResultT],
        batch: _Batch[KeyT, ItemT, ResultT],
    ) -> None:
        if batch.is_late:
            self._num_late -= 1
            lane.late -= 1
        else:
            lane.in_flight -= 1
        self._depart(key, lane)
        if not (lane.in_flight or lane.late or lane.is_departing):
            del self._lanes[key]

    async def _answer(self, calls: list[_Call[KeyT, ItemT, ResultT]]) -> None:
        try:
            answers = await self._run(calls[-1].key, [call.item for call in calls])
        except asyncio.CancelledError:
            for call in calls:
                call.answer.cancel()
            raise
        except Exception as error:
            for call in calls:
                if not call.answer.done():
                    call.answer.set_exception(error)
        else:
            for call, answer in zip(calls, answers, strict=True):
                if not call.answer.done():
                    call.answer.set_result(answer)
