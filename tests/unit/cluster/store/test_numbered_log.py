"""The numbered log: consecutive numbers, each append landed once, lost replies resolved."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.clock import Backoff, Deadline
from cluster.errors import (
    Conflict,
    Corrupt,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from cluster.store.local_store import LocalStore
from cluster.store.numbered_log import PROBES_MAX, NumberedLog
from cluster.store.object_store import ObjectStore
from tests.support.store_fixtures import (
    CountingStore,
    LossyStore,
    S3Server,
    address,
    memory_store,
    random_faults,
    s3_server,
    scripted,
    store,
)

__all__ = ["address", "memory_store", "s3_server", "store"]


class StillClock:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return int(self.now_s * 1000)

    def sleep(self, wait_s: float) -> None:
        self.now_s += wait_s


def open_log(store: ObjectStore, clock: StillClock | None = None) -> NumberedLog:
    clock = clock or StillClock()
    return NumberedLog(store, "log", rng=random.Random(0), sleep=clock.sleep)


def append(log: NumberedLog, n: int, data: bytes, clock: StillClock | None = None) -> None:
    log.append_at(
        n,
        data,
        is_mine=lambda found: found == data,
        deadline=Deadline.after(60, clock or StillClock()),
    )


def test_entries_are_numbered_from_one(store: ObjectStore) -> None:
    log, other = open_log(store), open_log(store)
    assert log.latest() == 0
    assert log.read_after(0) == []
    for n in (1, 2, 3):
        append(log, n, b"entry %d" % n)
        assert log.latest() == other.latest() == n
    assert log.read(2) == b"entry 2"
    assert other.read_after(1) == [(2, b"entry 2"), (3, b"entry 3")]
    assert store.list_names("log") == [f"{n:020}.json" for n in (1, 2, 3)]
    with pytest.raises(NotFound):
        log.read(4)


def test_a_taken_number_is_a_conflict(store: ObjectStore) -> None:
    append(open_log(store), 1, b"theirs")
    log = open_log(store)
    with pytest.raises(Conflict):
        append(log, 1, b"mine")
    append(log, 2, b"mine")
    assert log.read_after(0) == [(1, b"theirs"), (2, b"mine")]


def test_an_append_may_be_repeated_after_doubt(store: ObjectStore) -> None:
    log = open_log(store)
    append(log, 1, b"mine")
    append(log, 1, b"mine")
    assert log.read_after(0) == [(1, b"mine")]


@pytest.mark.parametrize("n", [0, -1, 2, 7])
def test_no_gap_can_be_made(memory_store: ObjectStore, n: int) -> None:
    with pytest.raises(InvalidArgument):
        append(open_log(memory_store), n, b"")
    assert memory_store.list_names("log") == []


@pytest.mark.parametrize(
    "faults",
    [
        ["after"],
        ["before"],
        ["late"],
        ["before", "after"],
        ["before", "before", "before"],
        ["late", "after"],
    ],
)
def test_a_lost_reply_is_resolved_by_reading_back(
    memory_store: ObjectStore, faults: list[str]
) -> None:
    log = open_log(LossyStore(memory_store, scripted(*faults)))
    append(log, 1, b"mine")
    assert memory_store.get(log.path(1)) == b"mine"
    append(log, 2, b"next")
    assert log.latest() == 2


def test_a_reply_lost_on_the_wire_to_s3_is_resolved(s3_server: S3Server) -> None:
    """The client below sends the request again and meets its own object."""
    store = s3_server.address().open()
    log = open_log(store)
    s3_server.endpoint.replies_to_lose = 1
    with pytest.raises(Conflict):
        store.put_if_absent("elsewhere", b"mine")
    for n in (1, 2):
        s3_server.endpoint.replies_to_lose = 1
        append(log, n, b"mine %d" % n)
        assert s3_server.endpoint.replies_to_lose == 0
    assert log.read_after(0) == [(1, b"mine 1"), (2, b"mine 2")]


def test_a_lost_reply_to_the_loser_is_a_conflict(memory_store: ObjectStore) -> None:
    append(open_log(memory_store), 1, b"theirs")
    with pytest.raises(Conflict):
        append(open_log(LossyStore(memory_store, scripted("before"))), 1, b"mine")


def test_doubt_that_stays_is_told(memory_store: ObjectStore) -> None:
    num_attempts = 0

    def lose() -> str:
        nonlocal num_attempts
        num_attempts += 1
        return "before"

    with pytest.raises(OutcomeUnknown):
        append(open_log(LossyStore(memory_store, lose)), 1, b"mine")
    assert num_attempts == Backoff().attempts_max


class BrokenStore(LossyStore):
    """Reads fail; creates fail too, certainly without effect, unless faults are given."""

    def __init__(self, inner: ObjectStore, faults: Callable[[], str] | None = None) -> None:
        super().__init__(inner, faults or (lambda: ""))
        self._refuses = faults is None

    def get(self, path: str) -> bytes:
        raise Unavailable("no reads today")

    def put_if_absent(self, path: str, data: bytes) -> None:
        if self._refuses:
            raise Unavailable("no writes today")
        super().put_if_absent(path, data)


def test_a_write_that_certainly_failed_is_told_apart_from_doubt(memory_store: ObjectStore) -> None:
    with pytest.raises(Unavailable):
        append(open_log(BrokenStore(memory_store)), 1, b"mine")
    with pytest.raises(OutcomeUnknown):
        append(open_log(BrokenStore(memory_store, lambda: "after")), 1, b"mine")
    with pytest.raises(OutcomeUnknown):
        append(open_log(BrokenStore(memory_store, lambda: "")), 1, b"other")


def test_the_deadline_ends_the_attempts(memory_store: ObjectStore) -> None:
    clock = StillClock()
    log = open_log(LossyStore(memory_store, lambda: "before"), clock)
    with pytest.raises(OutcomeUnknown):
        log.append_at(1, b"", is_mine=lambda _: True, deadline=Deadline.after(0.05, clock))
    assert clock.now_s == pytest.approx(0.05)
    with pytest.raises(DeadlineExceeded):
        log.append_at(1, b"", is_mine=lambda _: True, deadline=Deadline.after(0, clock))
    assert memory_store.list_names("log") == []


@pytest.mark.parametrize("seed", range(3))
def test_concurrent_appends_land_once_each(store: ObjectStore, seed: int) -> None:
    num_writers, num_appends = 4, 6

    def write(writer: int) -> list[int]:
        log = open_log(LossyStore(store, random_faults(seed * 100 + writer, 0.3)))
        landed: list[int] = []
        while len(landed) < num_appends:
            n = log.latest() + 1
            try:
                append(log, n, f"{writer}.{len(landed)}".encode())
            except Conflict:
                continue
            landed.append(n)
        return landed

    with ThreadPoolExecutor(num_writers) as pool:
        acknowledged = list(pool.map(write, range(num_writers)))

    entries = open_log(store).read_after(0)
    assert [n for n, _ in entries] == list(range(1, num_writers * num_appends + 1))
    assert Counter(data for _, data in entries) == Counter(
        f"{writer}.{number}".encode()
        for writer in range(num_writers)
        for number in range(num_appends)
    )
    for writer, numbers in enumerate(acknowledged):
        for number, n in enumerate(numbers):
            assert entries[n - 1] == (n, f"{writer}.{number}".encode())


def test_the_latest_is_found_by_probes_and_by_listing_when_far(memory_store: ObjectStore) -> None:
    counting = CountingStore(memory_store)
    reader, writer = open_log(counting), open_log(memory_store)
    append(writer, 1, b"")
    assert reader.latest() == 1
    assert counting.calls == {"list_names": 1}

    counting.calls.clear()
    append(writer, 2, b"")
    assert reader.latest() == 2
    assert counting.calls == {"exists": 2}

    counting.calls.clear()
    for n in range(3, 3 + 5 * PROBES_MAX):
        append(writer, n, b"")
    assert reader.latest() == 2 + 5 * PROBES_MAX
    assert counting.calls == {"exists": PROBES_MAX, "list_names": 1}


def test_unknown_names_are_ignored_with_one_warning(
    memory_store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("99.json", "notes.txt", f"{5:020}.json.bak"):
        memory_store.put_if_absent(f"log/{name}", b"")
    log = open_log(memory_store)
    with caplog.at_level(logging.WARNING):
        assert log.latest() == 0
        assert log.latest() == 0
    assert len(caplog.records) == 3
    assert "log/99.json" in caplog.text
    append(log, 1, b"")
    assert log.latest() == 1


def test_a_missing_entry_is_corrupt(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    log = open_log(store)
    for n in (1, 2, 3):
        append(log, n, b"")
    store.remove(log.path(2))
    with pytest.raises(Corrupt, match=f"{2:020}"):
        open_log(store).read_after(0)
