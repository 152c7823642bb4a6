"""The log of mutations in the store: damage, lost replies, spans that save reading, trimming."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.clock import Deadline
from cluster.errors import Conflict, LogUnreadable, NotFound, OutcomeUnknown, Unavailable
from cluster.mutations.batch import Batch
from cluster.mutations.conflicts import ConflictPolicy
from cluster.mutations.fold import DocumentFold
from cluster.mutations.mutation import Mutation
from cluster.mutations.spans import FANOUT, LEVELS_MAX, blocks_ending_at, cover, span_of
from cluster.mutations.store_log import StoreMutationLog
from cluster.mutations.watermark import Watermark
from cluster.store.object_store import ObjectStore
from tests.support.store_fixtures import CountingStore, LossyStore, memory_store, scripted
from tests.support.values.mutations import CORPUS, batch, delete, upsert
from tests.support.worlds.writing_regions import histories

__all__ = ["memory_store"]

NOTHING = Watermark()
SMALL_FANOUT = 3
LAST_WRITER = ConflictPolicy.LAST_WRITER


def open_log(store: ObjectStore) -> StoreMutationLog:
    return StoreMutationLog(store, CORPUS, sleep=lambda _: None, fanout=SMALL_FANOUT)


def append(log: StoreMutationLog, *batches: Batch) -> None:
    for each in batches:
        log.append(each, deadline=Deadline.after(60.0))


def small(position: int, region: str = "a") -> Batch:
    """One of four documents, again and again."""
    return batch(position, upsert(f"d{position % 4}", position, region), region=region)


def written(store: ObjectStore, count: int, *, spans: bool) -> StoreMutationLog:
    log = open_log(store)
    for position in range(1, count + 1):
        append(log, small(position))
        if spans:
            log.store_spans(LAST_WRITER, "a", position)
    return log


def folded(log: StoreMutationLog) -> DocumentFold:
    fold = DocumentFold(LAST_WRITER)
    while batches := log.read_after(fold.watermark).batches:
        assert all(fold.apply(each) for each in batches)
    return fold


def path(position: int, region: str = "a") -> str:
    return f"logs/{CORPUS}/{region}/{position:020}.batch"


def span_paths(store: ObjectStore) -> list[str]:
    folders = [f"logs/{CORPUS}/a/spans/{level}" for level in range(1, LEVELS_MAX + 1)]
    return [f"{folder}/{name}" for folder in folders for name in store.list_names(folder)]


# Lost replies.


@pytest.mark.parametrize("fault", ["after", "before", "late"])
def test_a_lost_reply_is_resolved_by_reading_back(memory_store: ObjectStore, fault: str) -> None:
    log = open_log(LossyStore(memory_store, scripted(fault)))
    append(log, small(1), small(2))
    assert folded(open_log(memory_store)).watermark == Watermark.of({"a": 2})


def test_what_may_still_land_is_told_apart_from_what_will_not(memory_store: ObjectStore) -> None:
    with pytest.raises(OutcomeUnknown):
        append(open_log(LossyStore(memory_store, lambda: "before")), small(1))
    append(open_log(memory_store), batch(1, upsert("theirs", 1)))
    with pytest.raises(Conflict):
        append(open_log(LossyStore(memory_store, scripted("before"))), small(1))


# Damage.


@pytest.mark.parametrize("gone", [True, False])
def test_a_damaged_object_stops_its_region_alone(memory_store: ObjectStore, gone: bool) -> None:
    log = written(memory_store, 4, spans=False)
    append(log, small(1, "b"), small(2, "b"))
    memory_store.remove(path(3))
    if not gone:
        memory_store.put(path(3), b"rotten")
    reading = log.read_after(NOTHING)
    assert [(b.region, b.last) for b in reading.batches] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert isinstance(reading.stopped["a"], LogUnreadable)
    assert reading.stopped["a"].position == 3
    assert path(3) in str(reading.stopped["a"])
    assert list(reading.stopped) == ["a"]
    memory_store.put(path(3), b"rotten")
    memory_store.remove(path(3))
    append(open_log(LossyStore(memory_store, lambda: "")), small(5))
    assert log.head() == Watermark.of({"a": 5, "b": 2})


def test_an_object_moved_to_another_place_is_found_out(memory_store: ObjectStore) -> None:
    log = written(memory_store, 3, spans=False)
    append(log, small(1, "b"))
    for there, here in ((path(3), path(2)), (path(1), path(1, "b"))):
        memory_store.put(here, memory_store.get(there))
    reading = log.read_after(NOTHING)
    assert [(b.region, b.last) for b in reading.batches] == [("a", 1)]
    assert reading.stopped.keys() == {"a", "b"}


# Spans.


@given(after=st.integers(0, 3000), length=st.integers(0, 3000), fanout=st.integers(2, 6))
def test_blocks_cover_each_position_once_and_in_order(after: int, length: int, fanout: int) -> None:
    blocks = list(cover(after, after + length, fanout))
    positions = [n for block in blocks for n in range(block.first, block.last + 1)]
    assert positions == list(range(after + 1, after + length + 1))
    for block in blocks:
        assert block.level == 0 or block in blocks_ending_at(block.last, fanout)
        if block.level:
            parts = block.parts(fanout)
            assert len(parts) == fanout
            covered = [n for part in parts for n in range(part.first, part.last + 1)]
            assert covered == list(range(block.first, block.last + 1))


def test_a_start_after_a_million_objects_reads_few_of_them() -> None:
    counts = [len(list(cover(0, n))) for n in (10**6 - 1, 10**6, 10**6 + 1, FANOUT**4 - 1)]
    assert counts[1] == 64
    assert max(counts) <= LEVELS_MAX * (FANOUT - 1)


def test_a_start_reads_spans_where_there_are_some(memory_store: ObjectStore) -> None:
    """200 objects, in blocks of 81, 27, 9 and 3."""
    written(memory_store, 200, spans=True)
    counting = CountingStore(memory_store)
    fold = folded(open_log(counting))
    assert fold.watermark == Watermark.of({"a": 200})
    assert counting.calls["get"] == len(list(cover(0, 200, SMALL_FANOUT))) == 6
    for span in span_paths(memory_store):
        memory_store.remove(span)
    counting.calls.clear()
    without = folded(open_log(counting))
    assert counting.calls["get"] > 200
    assert (without.digest, without.watermark) == (fold.digest, fold.watermark)


@pytest.mark.parametrize("damage", ["rotten", "gone", "of another block"])
def test_a_bad_span_costs_reading_and_nothing_else(memory_store: ObjectStore, damage: str) -> None:
    log = written(memory_store, 30, spans=True)
    expected = folded(log).digest
    for span in span_paths(memory_store):
        match damage:
            case "rotten":
                memory_store.put(span, b"rotten")
            case "gone":
                memory_store.remove(span)
            case _:
                memory_store.put(span, memory_store.get(path(1)))
    fold = folded(open_log(memory_store))
    assert (fold.digest, fold.watermark) == (expected, Watermark.of({"a": 30}))


def test_a_span_is_stored_though_smaller_ones_are_missing(memory_store: ObjectStore) -> None:
    log = written(memory_store, 9, spans=False)
    log.store_spans(LAST_WRITER, "a", 9)
    log.store_spans(LAST_WRITER, "a", 9)
    log.store_spans(LAST_WRITER, "a", 8)
    assert [span[-8:] for span in span_paths(memory_store)] == ["09.batch", "09.batch"]
    assert len(span_paths(memory_store)) == 2


def test_no_span_is_made_of_what_cannot_be_read(memory_store: ObjectStore) -> None:
    log = written(memory_store, 3, spans=False)
    memory_store.put(path(2), b"rotten")
    log.store_spans(LAST_WRITER, "a", 3)
    assert span_paths(memory_store) == []


@pytest.mark.parametrize("policy", ConflictPolicy)
@given(data=st.data())
def test_a_span_comes_to_what_its_objects_come_to(
    policy: ConflictPolicy, data: st.DataObject
) -> None:
    logs = data.draw(histories(policy))
    by_object, by_span = DocumentFold(policy), DocumentFold(policy)
    for log in logs.values():
        assert all(by_object.apply(each) for each in log)
        cut = data.draw(st.integers(0, len(log)))
        for part in (log[:cut], log[cut:]):
            assert not part or by_span.apply(span_of(policy, part))
    assert by_span.watermark == by_object.watermark
    assert by_span.digest == by_object.digest
    for document in "xy":
        assert by_span.versions(document) == by_object.versions(document)


def with_key(position: int, wall_ms: int) -> Batch:
    mutation = upsert("x", wall_ms)
    keyed = Mutation(
        document="x", time=mutation.time, content=mutation.content, key=f"key {position}"
    )
    return batch(position, keyed)


def test_a_span_keeps_young_idempotency_keys() -> None:
    hour_ms = 3_600_000
    batches = [with_key(1, 1), with_key(2, 1 + hour_ms), batch(3, upsert("x", 2 + hour_ms))]
    span = span_of(LAST_WRITER, batches)
    assert [m.key for m in span.mutations] == ["key 2", None]
    assert (span.first, span.last) == (1, 3)


def test_a_span_keeps_deletes() -> None:
    span = span_of(LAST_WRITER, [batch(1, upsert("x", 1)), batch(2, delete("x", 2))])
    assert span.mutations == (delete("x", 2),)


# Trimming.


def contents(store: ObjectStore) -> list[int]:
    """The positions of the objects that have some."""
    return [
        int(stored.name.removesuffix(".batch"))
        for stored in store.list_objects(f"logs/{CORPUS}/a")
        if stored.size_bytes > 8
    ]


def test_what_was_trimmed_is_gone_and_the_rest_goes_on(memory_store: ObjectStore) -> None:
    log = written(memory_store, 30, spans=True)
    assert log.trim("a", 20) == 20
    assert contents(memory_store) == list(range(21, 31))
    assert {int(span[-26:-6]) for span in span_paths(memory_store)} == {21, 24, 27, 30}
    for position, each in ((31, log), (32, open_log(memory_store))):
        assert each.head() == Watermark.of({"a": position - 1})
        reading = each.read_after(Watermark.of({"a": 20}))
        assert (reading.batches[0].first, reading.batches[-1].last) == (21, position - 1)
        append(each, small(position))
    assert log.trim("a", 20) == 0
    assert log.trim("a", 25) == 5
    assert log.trim("b", 3) == 0


@pytest.mark.parametrize("after", [0, 5, 19])
def test_a_reader_that_is_behind_is_told_to_start_anew(
    memory_store: ObjectStore, after: int
) -> None:
    log = written(memory_store, 30, spans=False)
    log.trim("a", 20)
    for each in (log, open_log(memory_store)):
        reading = each.read_after(Watermark.of({"a": after}))
        assert reading.batches == ()
        assert reading.head == Watermark.of({"a": 30})
        assert isinstance(reading.stopped["a"], NotFound)


def test_a_log_that_is_trimmed_to_its_end_goes_on(memory_store: ObjectStore) -> None:
    log = written(memory_store, 5, spans=False)
    assert log.trim("a", 99) == 5
    for position, each in ((6, log), (7, open_log(memory_store))):
        append(each, small(each.head()["a"] + 1))
        assert each.head() == Watermark.of({"a": position})
    assert contents(memory_store) == [6, 7]


def test_a_writer_that_was_away_cannot_create_a_trimmed_object_anew(
    memory_store: ObjectStore,
) -> None:
    """Not even one of which an earlier append was in doubt: it may have landed."""
    away = written(memory_store, 5, spans=False)
    others = open_log(memory_store)
    append(others, *(small(n) for n in range(6, 12)))
    others.trim("a", 10)
    for late in (batch(6, upsert("late", 99)), small(6)):
        with pytest.raises(NotFound, match="trimmed"):
            append(away, late)
    assert contents(memory_store) == [11]


def test_an_empty_object_is_damage_and_no_trimmed_one(memory_store: ObjectStore) -> None:
    log = written(memory_store, 3, spans=False)
    memory_store.put(path(2), b"")
    assert isinstance(log.read_after(NOTHING).stopped["a"], LogUnreadable)


def test_an_interrupted_trim_is_resumed(memory_store: ObjectStore) -> None:
    class Failing(LossyStore):
        left = 50

        def put(self, path: str, data: bytes) -> None:
            self.left -= 1
            if self.left <= 0:
                raise Unavailable("no answer")
            super().put(path, data)

    log = written(memory_store, 90, spans=False)
    with pytest.raises(Unavailable):
        open_log(Failing(memory_store, lambda: "")).trim("a", 80)
    left = contents(memory_store)
    assert 90 - 50 < len(left) < 90
    assert open_log(memory_store).head() == Watermark.of({"a": 90})
    assert log.trim("a", 80) == len(left) - 10
    assert contents(memory_store) == list(range(81, 91))


def test_what_was_lost_before_it_was_trimmed_is_trimmed_too(memory_store: ObjectStore) -> None:
    log = written(memory_store, 5, spans=False)
    memory_store.remove(path(2))
    assert log.trim("a", 3) == 3
    assert isinstance(log.read_after(Watermark.of({"a": 1})).stopped["a"], NotFound)


# What it costs.


def test_following_an_idle_log_costs_one_request_and_a_listing_of_regions(
    memory_store: ObjectStore,
) -> None:
    written(memory_store, 5, spans=False)
    counting = CountingStore(memory_store)
    log = open_log(counting)
    at_end = log.head()
    counting.calls.clear()
    assert log.read_after(at_end).batches == ()
    assert counting.calls == {"exists": 1}


def test_an_append_costs_one_request(memory_store: ObjectStore) -> None:
    counting = CountingStore(memory_store)
    log = written(counting, 5, spans=False)
    counting.calls.clear()
    append(log, small(6))
    assert counting.calls == {}, "but to create the object"


def test_no_span_is_made_of_objects_that_are_no_log_together(memory_store: ObjectStore) -> None:
    log = open_log(memory_store)
    append(log, small(1), batch(2, upsert("x", 1)), small(3))
    with pytest.raises(LogUnreadable, match="positions 1 to 3 of the log of a"):
        log.store_spans(LAST_WRITER, "a", 3)
