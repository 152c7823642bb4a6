"""The guarantees of MutationLog, checked over every log: today those in each kind of store."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.clock import Deadline
from cluster.errors import Conflict, InvalidArgument
from cluster.mutations.batch import Batch
from cluster.mutations.conflicts import ConflictPolicy
from cluster.mutations.fold import DocumentFold
from cluster.mutations.mutation_log import MutationLog, Reading
from cluster.mutations.store_log import StoreMutationLog
from cluster.mutations.watermark import Watermark
from tests.support.store_fixtures import StoreAddress, address, s3_server
from tests.support.values.mutations import CORPUS, batch, upsert

__all__ = ["address", "s3_server"]

NOTHING = Watermark()


@pytest.fixture
def open_log(address: StoreAddress) -> Callable[[], MutationLog]:
    """Opens one empty log once more, as another process does."""
    return lambda: StoreMutationLog(address.open(), CORPUS)


def append(log: MutationLog, *batches: Batch) -> None:
    for each in batches:
        log.append(each, deadline=Deadline.after(60.0))


def small(position: int, region: str = "a") -> Batch:
    return batch(position, upsert(f"{region}{position}", position, region), region=region)


def read_all(log: MutationLog, watermark: Watermark = NOTHING) -> list[Batch]:
    found: list[Batch] = []
    while True:
        reading = log.read_after(watermark)
        assert not reading.stopped
        found += reading.batches
        for each in reading.batches:
            watermark = watermark.advanced(each.region, each.last)
        if reading.head <= watermark:
            return found


def test_an_empty_log_has_nothing(open_log: Callable[[], MutationLog]) -> None:
    log = open_log()
    assert log.head() == NOTHING
    assert log.read_after(NOTHING) == Reading(batches=(), head=NOTHING, stopped={})


def test_what_was_appended_is_read_by_all_in_order(open_log: Callable[[], MutationLog]) -> None:
    writer, reader = open_log(), open_log()
    assert reader.head() == NOTHING
    for position in (1, 2, 3):
        append(writer, small(position))
        assert reader.head() == writer.head() == Watermark.of({"a": position})
    assert read_all(reader) == [small(1), small(2), small(3)]
    assert read_all(reader, Watermark.of({"a": 2})) == [small(3)]
    assert read_all(open_log()) == read_all(reader)


def test_each_region_has_a_log_of_its_own(open_log: Callable[[], MutationLog]) -> None:
    log = open_log()
    append(log, small(1, "a"), small(1, "b"), small(2, "b"))
    assert log.head() == Watermark.of({"a": 1, "b": 2})
    found = log.read_after(Watermark.of({"b": 1}))
    assert found.head == Watermark.of({"a": 1, "b": 2})
    assert sorted(found.batches, key=lambda b: b.region) == [small(1, "a"), small(2, "b")]


def test_an_empty_batch_has_a_position(open_log: Callable[[], MutationLog]) -> None:
    log = open_log()
    append(log, batch(1), small(2))
    assert read_all(log) == [batch(1), small(2)]


def test_a_position_is_given_once(open_log: Callable[[], MutationLog]) -> None:
    first, second = open_log(), open_log()
    append(first, batch(1, upsert("theirs", 1)))
    with pytest.raises(Conflict):
        append(second, batch(1, upsert("mine", 2)))
    append(second, batch(2, upsert("mine", 2)))
    assert read_all(first) == [batch(1, upsert("theirs", 1)), batch(2, upsert("mine", 2))]


def test_an_append_may_be_repeated_unchanged(open_log: Callable[[], MutationLog]) -> None:
    log = open_log()
    append(log, small(1), small(1), small(2), small(1))
    assert read_all(log) == [small(1), small(2)]


@pytest.mark.parametrize("position", [2, 7])
def test_a_gap_is_refused(open_log: Callable[[], MutationLog], position: int) -> None:
    log = open_log()
    with pytest.raises(InvalidArgument):
        append(log, small(position))
    assert log.head() == NOTHING


@pytest.mark.parametrize(
    "wrong",
    [
        Batch(corpus="notes", region="a", first=1, last=1, mutations=()),
        Batch(corpus=CORPUS, region="a", first=1, last=2, mutations=()),
    ],
)
def test_what_is_no_object_of_this_log_is_refused(
    open_log: Callable[[], MutationLog], wrong: Batch
) -> None:
    log = open_log()
    with pytest.raises(InvalidArgument):
        append(log, wrong)
    assert log.head() == NOTHING


def test_a_reading_takes_few_objects_and_some_of_each_region(
    open_log: Callable[[], MutationLog],
) -> None:
    log = open_log()
    append(log, *(small(n, "a") for n in (1, 2, 3, 4)), small(1, "b"))
    reading = log.read_after(NOTHING, objects_max=2)
    assert reading.head == Watermark.of({"a": 4, "b": 1})
    assert sorted(reading.batches, key=lambda b: b.region) == [small(1, "a"), small(1, "b")]
    assert [b.last for b in log.read_after(Watermark.of({"b": 1}), objects_max=2).batches] == [1, 2]


def test_writers_at_once_get_a_position_each(open_log: Callable[[], MutationLog]) -> None:
    num_writers, num_appends = 3, 4

    def write(writer: int) -> list[tuple[int, str]]:
        log = open_log()
        landed: list[tuple[int, str]] = []
        while len(landed) < num_appends:
            position, document = log.head()["a"] + 1, f"{writer}.{len(landed)}"
            try:
                append(log, batch(position, upsert(document, position)))
            except Conflict:
                continue
            landed.append((position, document))
        return landed

    with ThreadPoolExecutor(num_writers) as pool:
        acknowledged = sorted(
            one for of_writer in pool.map(write, range(num_writers)) for one in of_writer
        )
    assert [position for position, _ in acknowledged] == list(
        range(1, num_writers * num_appends + 1)
    )
    found = [(b.last, b.mutations[0].document) for b in read_all(open_log())]
    assert found == acknowledged


def test_readings_lead_to_one_state(open_log: Callable[[], MutationLog]) -> None:
    log = open_log()
    for position in range(1, 8):
        for region in "ab":
            append(log, batch(position, upsert("x", position, region), region=region))
    digests = set()
    for objects_max in (1, 3, 100):
        fold = DocumentFold(ConflictPolicy.LAST_WRITER)
        for each in read_some(log, objects_max):
            assert fold.apply(each)
        assert fold.watermark == log.head()
        digests.add(fold.digest)
    assert len(digests) == 1


def read_some(log: MutationLog, objects_max: int) -> list[Batch]:
    found: list[Batch] = []
    watermark = NOTHING
    while batches := log.read_after(watermark, objects_max=objects_max).batches:
        found += batches
        for each in batches:
            watermark = watermark.advanced(each.region, each.last)
    return found
