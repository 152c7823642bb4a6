"""What gateways count while a canary is tried: whose fault it was, how long it took, who waits."""

from __future__ import annotations

import asyncio
import pickle
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing, nullcontext

import numpy as np
import pytest

from cluster.canary.counts import Measure, OutcomeCounts, Work, class_of, longest_s, measure_of
from cluster.errors import (
    Corrupt,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Overloaded,
    Unavailable,
)
from cluster.query.answers import AnswerEvent, AnswerResult, Retrieved, Token, Usage
from cluster.query.filters import parse_filter
from cluster.query.search import SearchEffort, SearchRequest
from tests.support.fakes import SimClock, provenance_of

CURRENT, CANARY = 1, 2
ASKED = SearchRequest(queries=("tea",))


@pytest.fixture
def clock() -> SimClock:
    return SimClock()


@pytest.fixture
def counts(clock: SimClock) -> OutcomeCounts:
    counts = OutcomeCounts("gateway-1", clock)
    counts.follow(CANARY)
    return counts


def search(
    counts: OutcomeCounts,
    clock: SimClock,
    release: int,
    took_s: float,
    error: BaseException | None = None,
    asked: SearchRequest = ASKED,
) -> None:
    """One search that ends after some time; its error is for the caller to see."""
    raised: AbstractContextManager[object] = (
        nullcontext() if error is None else pytest.raises(type(error))
    )
    with raised, counts.search(asked, release):
        clock.sleep(took_s)
        if error is not None:
            raise error


def times(of: Counter[tuple[Measure, int]], measure: Measure) -> list[float]:
    """The longest times of the classes counted, shortest first."""
    return sorted(longest_s(c) for (m, c), n in of.items() if m is measure for _ in range(n))


@pytest.mark.parametrize("took_s", [0.0, 1e-5, 1e-4, 0.0042, 1.0, 59.0])
def test_a_class_holds_its_times(took_s: float) -> None:
    assert took_s <= longest_s(class_of(took_s)) * (1 + 1e-9)
    assert class_of(took_s) == 0 or longest_s(class_of(took_s) - 1) < took_s * (1 + 1e-9)


def test_classes_are_bounded() -> None:
    assert class_of(1e9) == class_of(1e12)


def test_outcomes_go_to_the_release_that_served(counts: OutcomeCounts, clock: SimClock) -> None:
    search(counts, clock, CURRENT, 0.01)
    search(counts, clock, CURRENT, 0.01)
    search(counts, clock, CANARY, 0.5)
    search(counts, clock, CANARY, 0.1, Unavailable("gone"))
    report = counts.take()
    assert report is not None
    assert (report.reporter, report.release) == ("gateway-1", CANARY)
    current, canary = report.ended.current, report.ended.canary
    assert (current.ended[Work.SEARCH], current.failed[Work.SEARCH]) == (2, 0)
    assert (canary.ended[Work.SEARCH], canary.failed[Work.SEARCH]) == (2, 1)
    assert times(current.times, Measure.TEXT_SEARCH) == pytest.approx([0.01, 0.01], rel=0.11)
    assert times(canary.times, Measure.TEXT_SEARCH) == pytest.approx([0.5], rel=0.11)
    assert pickle.loads(pickle.dumps(report)) == report


@pytest.mark.parametrize(
    ("error", "timeout_s", "ended", "failed"),
    [
        (InvalidArgument("no such corpus", "corpus"), 5.0, 0, 0),
        (NotFound("no such thing"), 5.0, 0, 0),
        (Unavailable("no replica"), 5.0, 1, 1),
        (Overloaded("full"), 5.0, 1, 1),
        (Corrupt("not what it should be"), 5.0, 1, 1),
        (ZeroDivisionError(), 5.0, 1, 1),
        (DeadlineExceeded("too late"), 5.0, 1, 1),
        (DeadlineExceeded("too late for the impatient"), 0.05, 0, 0),
        (asyncio.CancelledError(), 5.0, 0, 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_whose_fault_it_was(
    counts: OutcomeCounts,
    clock: SimClock,
    error: BaseException,
    timeout_s: float,
    ended: int,
    failed: int,
) -> None:
    asked = SearchRequest(queries=("tea",), timeout_s=timeout_s)
    search(counts, clock, CANARY, 0.1, error, asked)
    search(counts, clock, CURRENT, 0.1)
    report = counts.take()
    assert report is not None
    tally = report.ended.canary
    assert (tally.ended[Work.SEARCH], tally.failed[Work.SEARCH]) == (ended, failed)


def test_a_caller_who_leaves_has_waited(counts: OutcomeCounts, clock: SimClock) -> None:
    search(counts, clock, CANARY, 3.0, asyncio.CancelledError())
    report = counts.take()
    assert report is not None
    assert times(report.ended.canary.times, Measure.TEXT_SEARCH) == pytest.approx([3.0], rel=0.11)


@pytest.mark.parametrize(
    ("asked", "measure"),
    [
        (ASKED, Measure.TEXT_SEARCH),
        (SearchRequest(vectors=np.zeros((1, 4), np.float32)), Measure.VECTOR_SEARCH),
        (SearchRequest(queries=("a", "b")), None),
        (SearchRequest(vectors=np.zeros((3, 4), np.float32)), None),
        (SearchRequest(queries=("a",), filter=parse_filter({"year": 1})), None),
        (SearchRequest(queries=("a",), effort=SearchEffort(exact=True)), None),
    ],
)
def test_only_what_compares_is_timed(
    counts: OutcomeCounts, clock: SimClock, asked: SearchRequest, measure: Measure | None
) -> None:
    assert measure_of(asked) is measure
    search(counts, clock, CANARY, 0.1, asked=asked)
    report = counts.take()
    assert report is not None
    assert report.ended.canary.ended[Work.SEARCH] == 1
    assert {m for m, _ in report.ended.canary.times} == ({measure} - {None})


def test_those_who_wait_are_told_each_time_but_counted_once(
    counts: OutcomeCounts, clock: SimClock
) -> None:
    with counts.search(ASKED, CANARY):
        waits = []
        for _ in range(2):
            clock.sleep(2.0)
            report = counts.take()
            assert report is not None
            assert not report.ended
            waits += times(report.waiting.canary.times, Measure.TEXT_SEARCH)
        assert waits == pytest.approx([2.0, 4.0], rel=0.11)
    report = counts.take()
    assert report is not None
    assert times(report.ended.canary.times, Measure.TEXT_SEARCH) == pytest.approx([4.0], rel=0.11)
    assert not report.waiting
    assert counts.take() is None


def test_another_canary_begins_from_nothing(counts: OutcomeCounts, clock: SimClock) -> None:
    with counts.search(ASKED, CANARY):
        counts.follow(CANARY + 1)
        clock.sleep(1.0)
        search(counts, clock, CURRENT, 0.1)
        report = counts.take()
        assert report is not None
        assert report.release == CANARY + 1
        assert not report.waiting
    assert counts.take() is None
    counts.follow(None)
    assert not counts.counting
    assert counts.take() is None


# Answers.


def result(tokens: int) -> AnswerResult:
    return AnswerResult(
        answer="",
        citations=(),
        provenance=provenance_of(release=CANARY),
        usage=Usage(prompt_tokens=1, completion_tokens=tokens),
        finish_reason="stop",
        model="m",
        took_ms=1.0,
    )


RETRIEVED = Retrieved(citations=(), provenance=provenance_of(release=CANARY), model="m")


async def events(
    clock: SimClock, *, first_s: float, tokens: int, token_s: float, error: Exception | None = None
) -> AsyncGenerator[AnswerEvent, None]:
    yield RETRIEVED
    clock.sleep(first_s)
    for number in range(tokens):
        clock.sleep(token_s if number else 0.0)
        yield Token(text="x")
    if error is not None:
        raise error
    yield result(tokens)


async def test_an_answers_times_are_those_in_which_its_caller_waits(
    counts: OutcomeCounts, clock: SimClock
) -> None:
    made = events(clock, first_s=0.3, tokens=100, token_s=0.01)
    seen = []
    async for event in counts.answer(made, CANARY, timeout_s=60.0):
        clock.sleep(5.0)
        seen.append(event)
    assert (seen[0], seen[-1], len(seen)) == (RETRIEVED, result(100), 102)
    report = counts.take()
    assert report is not None
    tally = report.ended.canary
    assert (tally.ended[Work.ANSWER], tally.failed[Work.ANSWER]) == (1, 0)
    assert times(tally.times, Measure.FIRST_TOKEN) == pytest.approx([0.3], rel=0.11)
    assert times(tally.times, Measure.TOKEN) == pytest.approx([0.01], rel=0.11)


async def test_an_answer_that_breaks_off_has_failed(counts: OutcomeCounts, clock: SimClock) -> None:
    made = events(clock, first_s=0.3, tokens=3, token_s=0.01, error=Unavailable("gone"))
    with pytest.raises(Unavailable):
        async for _ in counts.answer(made, CANARY, timeout_s=60.0):
            pass
    report = counts.take()
    assert report is not None
    tally = report.ended.canary
    assert (tally.ended[Work.ANSWER], tally.failed[Work.ANSWER]) == (1, 1)
    assert times(tally.times, Measure.TOKEN) == []


async def test_a_stream_that_its_caller_closes_is_closed_and_no_failure(
    counts: OutcomeCounts, clock: SimClock
) -> None:
    closed = False

    async def endless() -> AsyncGenerator[AnswerEvent, None]:
        nonlocal closed
        try:
            while True:
                clock.sleep(0.5)
                yield Token(text="x")
        finally:
            closed = True

    async with aclosing(counts.answer(endless(), CURRENT, timeout_s=60.0)) as stream:
        async for _ in stream:
            break
    assert closed
    report = counts.take()
    assert report is not None
    assert not report.ended.current.ended
    assert times(report.ended.current.times, Measure.FIRST_TOKEN) == pytest.approx([0.5], rel=0.11)


async def test_who_waits_for_a_first_token_is_seen_before_it_comes(
    counts: OutcomeCounts, clock: SimClock
) -> None:
    async def hangs() -> AsyncGenerator[AnswerEvent, None]:
        yield RETRIEVED
        await asyncio.Event().wait()

    stream = counts.answer(hangs(), CANARY, timeout_s=60.0)
    await anext(stream)
    task = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    clock.sleep(7.0)
    report = counts.take()
    assert report is not None
    waits = times(report.waiting.canary.times, Measure.FIRST_TOKEN)
    assert waits == pytest.approx([7.0], rel=0.11)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
