"""The release log in the store: checksums, snapshots, entries that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.clock import Deadline
from cluster.errors import LogUnreadable, OutcomeUnknown, Unavailable
from cluster.releases.entries import RELEASE_LOG, LogEntry, entry_path
from cluster.releases.events import Prepared
from cluster.releases.log_entries import entry_bytes, parse_entry
from cluster.releases.release_log import (
    SNAPSHOTS,
    LogSnapshot,
    ReleaseLog,
    read_release_log,
    snapshot_of,
    snapshot_path,
)
from cluster.releases.requests import AbortRelease
from cluster.store.object_store import ObjectStore
from tests.support.fakes import Entries, SimClock
from tests.support.regions.one_region import Region
from tests.support.store_fixtures import (
    LossyStore,
    address,
    memory_store,
    s3_server,
    scripted,
    store,
)
from tests.support.worlds.gc_world import ShiftedClock, TimedStore

__all__ = ["address", "memory_store", "s3_server", "store"]

EVERY = 4


def log_in(store: ObjectStore) -> ReleaseLog:
    """The log with short snapshots."""
    return ReleaseLog(store, snapshot_entries=EVERY)


def entries(count: int, leader: str = "a") -> list[LogEntry]:
    made = Entries()
    return [made.elect(leader, epoch) for epoch in range(1, count + 1)]


def write(store: ObjectStore, log: Sequence[LogEntry]) -> None:
    for position, entry in enumerate(log, 1):
        store.put_if_absent(entry_path(position), entry_bytes(entry))


def store_snapshots(store: ObjectStore, position: int) -> None:
    log = log_in(store)
    for _ in range(position):
        log.store_snapshot(position)


def read(store: ObjectStore, after: int = 0) -> list[LogEntry]:
    return list(log_in(store).read_after(after))


# Entries.


def some_entries() -> list[LogEntry]:
    e = Entries()
    return [
        e.elect("a", 1),
        e.propose(1),
        e.canary(1, 5, at_ms=1),
        e.commit(1),
        e.fence(1, "b"),
        e.abort(1),
        e.rollback(1),
    ]


@given(
    entry=st.sampled_from(some_entries()),
    place=st.integers(min_value=0),
    bit=st.integers(0, 7),
)
def test_no_flipped_bit_makes_another_entry(entry: LogEntry, place: int, bit: int) -> None:
    data = bytearray(entry_bytes(entry))
    data[place % len(data)] ^= 1 << bit
    with pytest.raises(LogUnreadable, match=r"entry 7 .*releases/0{19}7\.json"):
        parse_entry(bytes(data), position=7)


@given(entry=st.sampled_from(some_entries()), length=st.integers(min_value=0))
def test_no_entry_that_was_cut_is_read(entry: LogEntry, length: int) -> None:
    data = entry_bytes(entry)
    with pytest.raises(LogUnreadable):
        parse_entry(data[: length % len(data)], position=7)


@pytest.mark.parametrize("entry", some_entries(), ids=lambda entry: entry.kind)
def test_entries_are_read_with_a_checksum_and_from_before_there_was_one(entry: LogEntry) -> None:
    assert b'"sha256":"' in entry_bytes(entry)
    assert parse_entry(entry_bytes(entry), position=1) == entry
    assert parse_entry(entry.to_bytes(), position=1) == entry


class ElectOfTheFuture(type(Entries().elect("a", 1))):  # type: ignore[misc]
    because: str = "of the moon"


def test_an_entry_of_a_newer_version_is_told_from_a_damaged_one() -> None:
    entry = ElectOfTheFuture(epoch=1, commit_id="x", at_ms=0, leader="a")
    with pytest.raises(LogUnreadable, match=r"newer version of Raygion .*because") as caught:
        parse_entry(entry_bytes(entry), position=7)
    assert caught.value.position == 7
    with pytest.raises(LogUnreadable, match="A damaged entry"):
        parse_entry(entry_bytes(entry).replace(b"moon", b"star"), position=7)


# Snapshots.


@pytest.mark.parametrize("count", [0, 1, EVERY - 1, EVERY, EVERY + 1, 3 * EVERY, 3 * EVERY + 2])
def test_the_log_is_the_same_with_snapshots_and_without(store: ObjectStore, count: int) -> None:
    log = entries(count)
    write(store, log)
    assert read(store) == log
    store_snapshots(store, count)
    assert len(store.list_names(f"{RELEASE_LOG}/snapshots")) == count // EVERY
    assert read(store) == log
    assert read(store, after=1) == log[1:]
    assert read_release_log(store).position == count


class CountingStore(TimedStore):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__(ShiftedClock())
        self.reads = 0

    def get(self, path: str) -> bytes:
        self.reads += 1
        return super().get(path)


def test_a_snapshot_saves_the_reading_of_its_entries() -> None:
    store = CountingStore()
    write(store, entries(5 * EVERY + 1))
    store_snapshots(store, 5 * EVERY + 1)
    store.reads = 0
    assert len(read(store)) == 5 * EVERY + 1
    assert store.reads == 2 * 5 + 1, "each snapshot with its last entry, and what comes after"


def replaced(change: Callable[[bytes], bytes]) -> Callable[[ObjectStore], None]:
    def spoil(store: ObjectStore) -> None:
        path = snapshot_path(2 * EVERY)
        store.put(path, change(store.get(path)))

    return spoil


def from_another_log(store: ObjectStore) -> None:
    others = [entry_bytes(entry) for entry in entries(2 * EVERY, leader="b")[EVERY:]]
    store.put(snapshot_path(2 * EVERY), snapshot_of(EVERY + 1, others).to_bytes())


def under_the_number_of_another(store: ObjectStore) -> None:
    store.put(snapshot_path(2 * EVERY), store.get(snapshot_path(EVERY)))


def beyond_the_end(store: ObjectStore) -> None:
    future = [entry_bytes(entry) for entry in entries(4 * EVERY, leader="b")[3 * EVERY :]]
    store.put(snapshot_path(4 * EVERY), snapshot_of(3 * EVERY + 1, future).to_bytes())


@pytest.mark.parametrize(
    "spoil",
    [
        replaced(lambda data: data[:-9]),
        replaced(lambda data: b""),
        replaced(lambda data: data.replace(b"entry-5", b"entry-9")),
        replaced(lambda data: data.replace(b'"format":1', b'"format":2')),
        from_another_log,
        under_the_number_of_another,
        beyond_the_end,
    ],
)
def test_a_bad_snapshot_is_ignored(
    memory_store: ObjectStore, spoil: Callable[[ObjectStore], None]
) -> None:
    log = entries(3 * EVERY + 1)
    write(memory_store, log)
    store_snapshots(memory_store, len(log))
    spoil(memory_store)
    assert read(memory_store) == log


def test_a_bad_snapshot_does_not_keep_others_from_being_stored(memory_store: ObjectStore) -> None:
    log = entries(3 * EVERY)
    write(memory_store, log)
    beyond_the_end(memory_store)
    memory_store.put(snapshot_path(EVERY), b"rotten")
    region = log_in(memory_store)
    assert list(region.read_after(0)) == log
    for _ in range(3):
        region.store_snapshot(len(log))
    names = memory_store.list_names(SNAPSHOTS)
    assert [int(name.removesuffix(".json")) // EVERY for name in names] == [1, 2, 3, 4]
    assert read(memory_store) == log


def test_what_has_changed_since_it_was_read_is_kept_out_of_snapshots(
    memory_store: ObjectStore,
) -> None:
    write(memory_store, entries(EVERY))
    memory_store.put(entry_path(2), b"{}")
    with pytest.raises(LogUnreadable):
        log_in(memory_store).store_snapshot(EVERY)
    assert memory_store.list_names(f"{RELEASE_LOG}/snapshots") == []


def test_two_that_store_the_same_snapshot_are_both_right(memory_store: ObjectStore) -> None:
    write(memory_store, entries(2 * EVERY))
    one, other = log_in(memory_store), log_in(memory_store)
    for log in (one, other, one, other):
        log.store_snapshot(2 * EVERY)
    path = snapshot_path(2 * EVERY)
    assert LogSnapshot.from_bytes(memory_store.get(path), source=path).last == 2 * EVERY


def test_the_leader_stores_snapshots_as_the_log_grows(memory_store: ObjectStore) -> None:
    clock = SimClock()
    region = Region(memory_store, clock, snapshot_entries=EVERY)
    region.step()
    for number in range(1, 4):
        region.propose("a")
        region.driver.request(AbortRelease(release=number, reason="no"))
        region.step()
    names = memory_store.list_names(f"{RELEASE_LOG}/snapshots")
    assert len(names) == region.log.latest() // EVERY == 1
    later = Region(memory_store, clock, life=2, snapshot_entries=EVERY)
    later.driver.read()
    assert later.rollout.state == region.rollout.state


class NoSnapshotsStore(CountingStore):
    """Whose policy forbids to write them."""

    def put_if_absent(self, path: str, data: bytes) -> None:
        if path.startswith(SNAPSHOTS):
            raise Unavailable("access denied")
        super().put_if_absent(path, data)


def test_a_snapshot_that_cannot_be_stored_is_not_tried_all_the_time() -> None:
    store, clock = NoSnapshotsStore(), SimClock()
    write(store, entries(EVERY))
    region = Region(store, clock, snapshot_entries=EVERY)
    region.step()
    tries = []
    for _ in range(5):
        store.reads = 0
        region.driver.decide(exchange_heartbeats=False)
        tries.append(store.reads > 0)
        clock.sleep(20.0)
    assert tries == [False, False, False, True, False], "once a minute"
    assert region.rollout.leads


# An entry that cannot be read.


def spoilt(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("position", [1, 2, EVERY, EVERY + 1])
@pytest.mark.parametrize("is_gone", [True, False])
def test_what_comes_before_an_unreadable_entry_is_read(
    memory_store: ObjectStore, position: int, is_gone: bool
) -> None:
    log = entries(2 * EVERY)
    write(memory_store, log)
    path = entry_path(position)
    if is_gone:
        memory_store.remove(path)
    else:
        memory_store.put(path, spoilt(memory_store.get(path)))
    found: list[LogEntry] = []
    with pytest.raises(LogUnreadable, match=f"entry {position} .*{path}") as caught:
        found.extend(log_in(memory_store).read_after(0))
    assert caught.value.position == position
    assert found == log[: position - 1]


def test_what_cannot_be_read_back_may_have_landed(memory_store: ObjectStore) -> None:
    log = ReleaseLog(LossyStore(memory_store, scripted("after")), sleep=lambda _: None)
    real = memory_store.put_if_absent
    memory_store.put_if_absent = lambda path, data: real(path, b"rotten")  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknown, match="entry 1 "):
        log.append_at(1, entries(1)[0], deadline=Deadline.after(20.0))


def committed(region: Region) -> int:
    """A release that is current by now; its number."""
    number = region.propose("a")
    region.step()
    region.driver.observe(Prepared(release=number))
    region.clock.sleep(5.0)
    region.step()
    return number


def test_a_region_serves_what_it_can_read_and_changes_nothing(memory_store: ObjectStore) -> None:
    region = Region(memory_store, SimClock())
    region.step()
    first = committed(region)
    committed(region)
    position = region.log.latest()
    path = entry_path(position - 1)
    whole = memory_store.get(path)
    memory_store.put(path, spoilt(whole))

    successor = Region(memory_store, region.clock, life=2)
    for _ in range(3):
        with pytest.raises(LogUnreadable, match=path):
            successor.step()
        successor.driver.decide(exchange_heartbeats=True)
        region.clock.sleep(10.0)
    assert successor.host.preparing == [first]
    assert not successor.rollout.leads
    assert successor.driver.freshness.read_ms == 0, "no reading came to the end of the log"
    with pytest.raises(LogUnreadable, match=path):
        successor.propose("a")
    assert successor.log.latest() == position

    memory_store.put(path, whole)
    successor.step()
    assert successor.rollout.leads
    assert successor.propose("a") == 3
