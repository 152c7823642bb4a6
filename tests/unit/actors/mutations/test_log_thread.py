"""The thread of a corpus's log, turn by turn: what it appends, reads and tells."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from typing import Any, cast

import pytest

from actors.mutations.log_thread import POLL_S, LogNews, LogThread
from actors.mutations.shared_queue import SharedQueue
from cluster.clock import Deadline
from cluster.deltas.feed import Feed
from cluster.errors import LogUnreadable, OutcomeUnknown, Unavailable
from cluster.mutations.batch import Batch
from cluster.mutations.conflicts import ConflictPolicy
from cluster.mutations.group_commit import PendingWrite
from cluster.mutations.hybrid_clock import HybridClock
from cluster.mutations.mutation import Write
from cluster.mutations.mutation_log import Reading
from cluster.mutations.region_writer import Outcome, Written
from cluster.mutations.spans import FANOUT
from cluster.mutations.store_log import StoreMutationLog
from cluster.mutations.watermark import Watermark
from cluster.store.object_store import ObjectStore
from tests.support.fakes import SimClock
from tests.support.store_fixtures import Door, LossyStore, memory_store, scripted
from tests.support.values.mutations import CORPUS, batch, text_content, upsert
from tests.support.waiting import wait_until

__all__ = ["memory_store"]


class AtOnce(Executor):
    """Runs what is submitted in the caller's thread."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        fn(*args, **kwargs)
        return Future()


class Turned:
    """A thread that is not started: the test makes its turns."""

    def __init__(self, store: ObjectStore) -> None:
        self.clock = SimClock()
        self.queue = SharedQueue()
        self.news: list[LogNews] = []
        self.feed = Feed(lambda: "epoch")
        self.log = StoreMutationLog(store, CORPUS, sleep=self.clock.sleep)
        self.thread = LogThread(
            CORPUS,
            "a",
            mutations=self.log,
            queue=self.queue,
            stamps=HybridClock("a", self.clock, skew_max_ms=100),
            policy=ConflictPolicy.LAST_WRITER,
            writing=("a", "b"),
            news=self._take,
            spans=AtOnce(),
            clock=self.clock,
        )
        self._tickets = 0

    def _take(self, news: LogNews) -> None:
        self.news.append(news)
        self.feed.take(news.changed, news.watermark)

    def offer(self, document: str, text: str | None = "text", key: str | None = None) -> int:
        self._tickets += 1
        write = Write(
            document=document, content=None if text is None else text_content(text), key=key
        )
        self.queue.offer(PendingWrite(self._tickets, write, expires_s=1e9))
        return self._tickets

    def turn_for(self, time_s: float = 0.0) -> None:
        """Turns without a pause until nothing is left to do, then once more for each wait."""
        until_s = self.clock.now_s + time_s
        while True:
            wait_s = self.thread.turn()
            if wait_s > 0:
                if self.clock.now_s + wait_s > until_s:
                    return
                self.clock.sleep(wait_s)

    def outcomes(self) -> dict[int, Outcome]:
        return dict(pair for news in self.news for pair in news.settled)


@pytest.fixture
def turned(memory_store: ObjectStore) -> Turned:
    return Turned(memory_store)


def append(store: ObjectStore, *batches: Batch) -> None:
    for each in batches:
        StoreMutationLog(store, CORPUS).append(each, deadline=Deadline.after(10.0))


def test_it_tells_a_write_together_with_its_change(turned: Turned) -> None:
    ticket = turned.offer("x")
    turned.turn_for()
    told = next(news for news in turned.news if news.settled)
    assert told.settled[0][0] == ticket
    assert list(told.changed) == ["x"]
    assert told.watermark == Watermark.of({"a": 1})


def test_it_appends_nothing_before_it_has_read_its_own_log(
    turned: Turned, memory_store: ObjectStore
) -> None:
    append(memory_store, batch(1, upsert("x", 1)))
    path = f"logs/{CORPUS}/a/{1:020}.batch"
    whole = memory_store.get(path)
    memory_store.put(path, b"rotten")
    ticket = turned.offer("y")
    turned.turn_for(3 * POLL_S)
    assert turned.outcomes() == {}
    assert isinstance(turned.news[-1].stopped["a"], LogUnreadable)
    memory_store.put(path, whole)
    turned.turn_for(2 * POLL_S)
    outcome = turned.outcomes()[ticket]
    assert isinstance(outcome, Written)
    assert outcome.position == 2


def test_it_reads_once_a_second_and_whenever_it_is_asked(
    turned: Turned, memory_store: ObjectStore
) -> None:
    turned.turn_for()
    append(memory_store, batch(1, upsert("x", 1, "b"), region="b"))
    turned.turn_for(POLL_S / 2)
    assert turned.feed.position.version == 0
    number = turned.thread.ask_for_reading()
    turned.turn_for()
    reading = turned.news[-1].reading
    assert reading is not None
    assert (reading.number, reading.error) == (number, None)
    assert turned.feed.position.watermark == Watermark.of({"b": 1})
    append(memory_store, batch(2, upsert("y", 2, "b"), region="b"))
    turned.turn_for(2 * POLL_S)
    assert turned.feed.position.watermark == Watermark.of({"b": 2})


def test_a_reading_counts_from_the_moment_at_which_it_began(
    turned: Turned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written while the store is asked need not be found."""
    began_ms, read_after = turned.clock.wall_ms(), turned.log.read_after

    def slow(watermark: Watermark) -> Reading:
        turned.clock.sleep(3.0)
        return read_after(watermark)

    monkeypatch.setattr(turned.log, "read_after", slow)
    turned.thread.turn()
    (reading,) = [news.reading for news in turned.news if news.reading is not None]
    assert reading.began_ms == began_ms


def test_a_reading_that_is_not_complete_says_why(memory_store: ObjectStore) -> None:
    door = Door(memory_store)
    turned = Turned(cast(ObjectStore, door))
    door.shut = True
    turned.turn_for(2 * POLL_S)
    readings = [news.reading for news in turned.news if news.reading is not None]
    assert readings
    assert all(isinstance(reading.error, Unavailable) for reading in readings)
    door.shut = False
    turned.turn_for(2 * POLL_S)
    last = turned.news[-1].reading
    assert last is not None
    assert last.error is None
    assert last.began_ms >= readings[-1].began_ms


def test_a_writer_that_lost_its_log_gives_up_and_another_goes_on(
    memory_store: ObjectStore,
) -> None:
    """Another writer of the region has appended, and what it wrote is damaged."""
    turned = Turned(memory_store)
    turned.offer("x")
    turned.turn_for()
    append(memory_store, batch(2, upsert("theirs", turned.clock.wall_ms() + 1)))
    path = f"logs/{CORPUS}/a/{2:020}.batch"
    whole = memory_store.get(path)
    memory_store.put(path, b"rotten")
    waits = turned.offer("y", key="y")
    turned.turn_for(5 * POLL_S)
    assert waits not in turned.outcomes(), "its turn comes when the log is mended"
    assert turned.feed.position.watermark == Watermark.of({"a": 1})
    memory_store.put(path, whole)
    turned.turn_for(60.0)
    outcome = turned.outcomes()[waits]
    assert isinstance(outcome, Written)
    assert outcome.position == 3
    changes = turned.feed.since("epoch", 1)
    assert [change.document for change in changes.changes] == ["theirs", "y"], "x is no news"


def test_a_batch_in_doubt_is_told_as_unknown_when_its_writer_ends(
    memory_store: ObjectStore,
) -> None:
    lossy = LossyStore(memory_store, scripted(*["before"] * 8))
    turned = Turned(lossy)
    turned.turn_for()
    in_doubt = turned.offer("x")
    turned.thread.turn()
    assert turned.outcomes() == {}
    append(memory_store, batch(1, upsert("theirs", 1)))
    StoreMutationLog(memory_store, CORPUS).trim("a", 1)
    turned.thread.turn()
    assert isinstance(turned.outcomes()[in_doubt], OutcomeUnknown)


def test_what_a_new_writer_has_not_read_yet_is_not_taken_back(memory_store: ObjectStore) -> None:
    turned = Turned(memory_store)
    turned.offer("x")
    turned.turn_for()
    turned.offer("y")
    turned.turn_for()
    version, digest = turned.feed.position.version, turned.news[-1].digest
    path = f"logs/{CORPUS}/a/{2:020}.batch"
    whole = memory_store.get(path)
    memory_store.put(path, b"rotten")
    turned.thread._start_anew(Unavailable("a test"))
    turned.turn_for(30.0)
    assert turned.feed.position.version == version
    assert (turned.news[-1].watermark, turned.news[-1].digest) == (Watermark.of({"a": 2}), digest)
    memory_store.put(path, whole)
    turned.turn_for(30.0)
    assert turned.feed.position.version == version, "the same documents are no change"
    turned.offer("z")
    turned.turn_for()
    assert turned.feed.position.watermark == Watermark.of({"a": 3})


def test_a_bug_in_a_turn_does_not_end_all_turns(
    turned: Turned, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned.turn_for()
    ticket = turned.offer("x")
    with monkeypatch.context() as broken:
        broken.setattr(turned.log, "append", lambda *_, **__: 1 / 0)
        turned.thread.turn()
    assert isinstance(turned.outcomes()[ticket], OutcomeUnknown)
    again = turned.offer("x")
    turned.turn_for(60.0)
    assert isinstance(turned.outcomes()[again], Written)


def test_deletes_are_forgotten_when_no_older_write_can_come(
    turned: Turned, memory_store: ObjectStore
) -> None:
    turned.offer("x")
    turned.offer("x", None)
    turned.turn_for()
    now_ms = turned.clock.wall_ms()
    append(memory_store, batch(1, upsert("y", now_ms + 50, "b"), region="b"))
    turned.turn_for(2 * POLL_S)
    turned.offer("z")
    turned.turn_for(120.0)
    assert turned.thread._writer.fold.versions("x") == ()
    (kept,) = turned.feed.versions("x")
    assert kept.content is None, "the base may have it: it stays hidden"


def test_all_is_told_anew_with_the_deletes_that_were_forgotten(
    turned: Turned, memory_store: ObjectStore
) -> None:
    turned.offer("x")
    turned.offer("x", None)
    turned.turn_for()
    append(memory_store, batch(1, upsert("y", turned.clock.wall_ms() + 50, "b"), region="b"))
    turned.turn_for(2 * POLL_S)
    turned.offer("z")
    turned.turn_for(120.0)
    watermark, digest = turned.news[-1].watermark, turned.news[-1].digest
    turned.news.clear()
    turned.thread.read_anew()
    waits = turned.offer("waits")
    turned.turn_for()
    anew = next(n for n, news in enumerate(turned.news) if news.is_anew)
    assert [news.changed for news in turned.news[: anew + 1] if news.changed] == []
    told = turned.news[anew + 1]
    assert set(told.changed) == {"x", "y", "z"}
    assert (told.watermark, told.digest) == (watermark, digest)
    assert isinstance(turned.outcomes()[waits], Written)


def test_spans_are_stored_and_what_fails_with_them_harms_nothing(
    memory_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned = Turned(memory_store)
    for number in range(FANOUT):
        turned.offer(f"d{number}")
        turned.turn_for()
    assert memory_store.list_names(f"logs/{CORPUS}/a/spans/1") == [f"{FANOUT:020}.batch"]

    def fails(*_: object) -> None:
        raise LogUnreadable("broken", 1)

    monkeypatch.setattr(turned.log, "store_spans", fails)
    for number in range(FANOUT):
        turned.offer(f"e{number}")
        turned.turn_for()
    assert turned.feed.position.watermark == Watermark.of({"a": 2 * FANOUT})


def test_a_started_thread_appends_when_it_is_woken(memory_store: ObjectStore) -> None:
    turned = Turned(memory_store)
    turned.thread.start()
    ticket = turned.offer("x")
    turned.thread.wake()
    wait_until(lambda: ticket in turned.outcomes())
    turned.thread.stop()
    assert isinstance(turned.outcomes()[ticket], Written)
