"""Writers of one region at once over a store that loses replies: each write once in the log."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.clock import Deadline
from cluster.errors import LogUnreadable, NotFound, Unavailable
from cluster.mutations.conflicts import ConflictPolicy
from cluster.mutations.fold import DocumentFold
from cluster.mutations.group_commit import PendingWrite
from cluster.mutations.hybrid_clock import HybridClock
from cluster.mutations.log_writer import LogWriter
from cluster.mutations.mutation import Write
from cluster.mutations.region_writer import RegionWriter, Written
from cluster.mutations.store_log import StoreMutationLog
from cluster.mutations.watermark import Watermark
from cluster.store.object_store import ObjectStore
from tests.support.fakes import SimClock
from tests.support.store_fixtures import LossyStore, memory_store, random_faults, scripted
from tests.support.values.mutations import CORPUS, batch, text_content, upsert

__all__ = ["memory_store"]


def open_log(store: ObjectStore) -> StoreMutationLog:
    return StoreMutationLog(store, CORPUS, sleep=lambda _: None)


def writer_over(store: ObjectStore) -> tuple[RegionWriter, LogWriter]:
    clock = SimClock()
    writer = RegionWriter(
        CORPUS,
        "a",
        policy=ConflictPolicy.LAST_WRITER,
        clock=HybridClock("a", clock, skew_max_ms=100),
    )
    return writer, LogWriter(open_log(store), writer, appended=lambda _: None, clock=clock)


def folded(store: ObjectStore) -> DocumentFold:
    fold = DocumentFold(ConflictPolicy.LAST_WRITER)
    while batches := open_log(store).read_after(fold.watermark).batches:
        assert all(fold.apply(each) for each in batches)
    return fold


def submit(writer: RegionWriter, ticket: int, document: str) -> None:
    write = Write(document=document, content=text_content(document), key=document)
    writer.submit(PendingWrite(ticket, write, expires_s=1e9))


@pytest.mark.parametrize("seed", range(4))
def test_each_acknowledged_write_is_in_the_log_once(memory_store: ObjectStore, seed: int) -> None:
    num_writers, num_writes = 3, 12

    def work(number: int) -> list[str]:
        store = LossyStore(memory_store, random_faults(10 * seed + number, 0.3))
        writer, at_work = writer_over(store)
        at_work.catch_up()
        acknowledged: list[str] = []
        for ticket in range(num_writes):
            submit(writer, ticket, f"{number}.{ticket}")
            if ticket % 3 == 2:
                while at_work.step():
                    pass
        for ticket, outcome in writer.settled():
            assert isinstance(outcome, Written)
            acknowledged.append(f"{number}.{ticket}")
        return acknowledged

    with ThreadPoolExecutor(num_writers) as pool:
        acknowledged = [
            one for of_writer in pool.map(work, range(num_writers)) for one in of_writer
        ]
    assert len(acknowledged) == num_writers * num_writes
    assert Counter(documents_after(memory_store, 0)) == Counter(acknowledged)


def test_a_writer_starts_from_what_the_log_says(memory_store: ObjectStore) -> None:
    writer, at_work = writer_over(memory_store)
    submit(writer, 1, "x")
    assert at_work.step()
    assert not at_work.step()
    successor, at_work = writer_over(memory_store)
    assert at_work.catch_up().stopped == {}
    submit(successor, 1, "x")
    assert not at_work.step()
    (_, outcome) = successor.settled()[0]
    assert isinstance(outcome, Written)
    assert outcome.is_repeated
    assert successor.fold.digest == writer.fold.digest == folded(memory_store).digest


def test_a_lost_reply_is_found_out_by_the_next_step(memory_store: ObjectStore) -> None:
    faults = ["before"] * 8 + ["after"]
    writer, at_work = writer_over(LossyStore(memory_store, scripted(*faults)))
    submit(writer, 1, "x")
    assert at_work.step()
    assert writer.settled() == []
    assert at_work.step()
    assert [type(outcome) for _, outcome in writer.settled()] == [Written]
    assert folded(memory_store).position("a") == 1


def test_a_store_that_refuses_fails_the_writes(memory_store: ObjectStore) -> None:
    class Refusing(LossyStore):
        def put_if_absent(self, path: str, data: bytes) -> None:
            raise Unavailable("no writes today")

    writer, at_work = writer_over(Refusing(memory_store, lambda: ""))
    submit(writer, 1, "x")
    assert at_work.step()
    assert [type(outcome) for _, outcome in writer.settled()] == [Unavailable]
    assert not at_work.step()


def test_a_writer_ends_when_its_log_cannot_be_read(memory_store: ObjectStore) -> None:
    writer, at_work = writer_over(memory_store)
    theirs = batch(1, upsert("theirs", 1))
    open_log(memory_store).append(theirs, deadline=Deadline.after(10.0))
    memory_store.put(f"logs/{CORPUS}/a/{1:020}.batch", b"rotten")
    submit(writer, 1, "x")
    with pytest.raises(LogUnreadable):
        at_work.step()
    assert writer.settled() == [], "its own write may be told as unknown by whoever waits for it"


def test_a_writer_that_was_away_ends_when_its_log_was_trimmed(memory_store: ObjectStore) -> None:
    writer, at_work = writer_over(memory_store)
    submit(writer, 1, "x")
    at_work.step()
    other, other_at_work = writer_over(memory_store)
    other_at_work.catch_up()
    for ticket in range(4):
        submit(other, ticket, f"y{ticket}")
        other_at_work.step()
    open_log(memory_store).trim("a", 4)
    submit(writer, 2, "late")
    with pytest.raises(NotFound):
        at_work.step()
    assert documents_after(memory_store, 4) == ["y3"]


def documents_after(store: ObjectStore, position: int) -> list[str]:
    reading = open_log(store).read_after(Watermark.of({"a": position}), objects_max=99)
    return [m.document for each in reading.batches for m in each.mutations]
