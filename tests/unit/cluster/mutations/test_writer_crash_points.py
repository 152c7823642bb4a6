"""A writer that dies at any operation of the store, before or after its effect: its successor goes
on, and each write that is asked for again is in the log once.
"""

from __future__ import annotations

from collections import Counter
from uuid import uuid4

import pytest

from cluster.mutations.conflicts import ConflictPolicy
from cluster.mutations.fold import DocumentFold
from cluster.mutations.group_commit import GroupCommit, GroupLimits, PendingWrite
from cluster.mutations.hybrid_clock import HybridClock
from cluster.mutations.log_writer import LogWriter
from cluster.mutations.mutation import Write
from cluster.mutations.region_writer import RegionWriter, Written
from cluster.mutations.store_log import StoreMutationLog
from cluster.mutations.watermark import Watermark
from cluster.store.object_store import ObjectStore, open_store
from tests.support.deadly_store import DeadlyStore, Died
from tests.support.fakes import SimClock
from tests.support.values.mutations import CORPUS, text_content

NUM_WRITES = 10
FANOUT = 2
POLICY = ConflictPolicy.LAST_WRITER


def empty_store() -> ObjectStore:
    return open_store(f"memory://{uuid4().hex}")


def write_all(store: ObjectStore) -> list[int]:
    """One life of a writer, which is asked for all writes; the numbers of those acknowledged."""
    clock = SimClock()
    log = StoreMutationLog(store, CORPUS, sleep=lambda _: None, fanout=FANOUT)
    writer = RegionWriter(
        CORPUS,
        "a",
        policy=POLICY,
        clock=HybridClock("a", clock, skew_max_ms=100),
        queue=GroupCommit(GroupLimits(mutations_max=2)),
    )
    at_work = LogWriter(
        log, writer, appended=lambda batch: log.store_spans(POLICY, "a", batch.last), clock=clock
    )
    at_work.catch_up()
    for number in range(NUM_WRITES):
        content = None if number % 4 == 3 else text_content(f"text {number}")
        write = Write(document=f"d{number % 3}", content=content, key=f"key {number}")
        writer.submit(PendingWrite(number, write, expires_s=1e9))
    while at_work.step():
        pass
    return [ticket for ticket, outcome in writer.settled() if isinstance(outcome, Written)]


def keys_in(store: ObjectStore) -> Counter[str | None]:
    """Of all objects of the log; blocks of a thousand have no spans here."""
    reading = StoreMutationLog(store, CORPUS, fanout=1000).read_after(Watermark(), objects_max=99)
    return Counter(m.key for batch in reading.batches for m in batch.mutations)


@pytest.mark.parametrize("has_effect", [False, True])
def test_a_writer_may_die_anywhere(has_effect: bool) -> None:
    undisturbed = DeadlyStore(empty_store(), None, has_effect=True)
    everything = write_all(undisturbed)
    assert everything == list(range(NUM_WRITES))
    for at in range(1, undisturbed.operations + 1):
        store = empty_store()
        with pytest.raises(Died):
            write_all(DeadlyStore(store, at, has_effect=has_effect))
        assert write_all(store) == everything
        assert keys_in(store) == {f"key {number}": 1 for number in everything}, f"died at {at}"
        log, fold = StoreMutationLog(store, CORPUS, fanout=FANOUT), DocumentFold(POLICY)
        while batches := log.read_after(fold.watermark).batches:
            assert all(fold.apply(batch) for batch in batches)
        assert sorted(version.document for version in fold.live()) == ["d0", "d2"]
