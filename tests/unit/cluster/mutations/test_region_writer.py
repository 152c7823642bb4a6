"""The writer of a region's log: each write once, by whichever writer, or a typed error."""

from __future__ import annotations

import pytest

from cluster.errors import (
    ClockAhead,
    Conflict,
    DeadlineExceeded,
    InvalidArgument,
    OutcomeUnknown,
    Overloaded,
    Unavailable,
)
from cluster.mutations.batch import Batch
from cluster.mutations.conflicts import ConflictPolicy
from cluster.mutations.group_commit import GroupCommit, GroupLimits, PendingWrite
from cluster.mutations.hybrid_clock import HybridClock, HybridTime
from cluster.mutations.mutation import IfVersion, Write
from cluster.mutations.region_writer import Outcome, RegionWriter, Written
from tests.support.fakes import SimClock
from tests.support.values.mutations import CORPUS, batch, delete, text_content, upsert

NOW_MS = 1_000_000
LIMITS = GroupLimits(mutations_max=3, queue_mutations_max=6)


def writer_of(
    wall: SimClock | None = None, policy: ConflictPolicy = ConflictPolicy.LAST_WRITER
) -> RegionWriter:
    clock = HybridClock("a", wall or SimClock(), skew_max_ms=100)
    queue = GroupCommit(LIMITS)
    return RegionWriter(CORPUS, "a", policy=policy, clock=clock, queue=queue)


def write(document: str = "x", text: str | None = "text", **demands: object) -> Write:
    content = None if text is None else text_content(text)
    return Write(document=document, content=content, **demands)  # type: ignore[arg-type]


def submit(writer: RegionWriter, *writes: Write, first: int = 1) -> None:
    for ticket, each in enumerate(writes, first):
        writer.submit(PendingWrite(ticket, each, expires_s=10.0))


def append(writer: RegionWriter) -> Batch:
    """Has the next batch land."""
    planned = writer.next_append(0.0)
    assert planned is not None
    writer.landed()
    return planned


def outcomes(writer: RegionWriter) -> dict[int, Outcome]:
    settled = writer.settled()
    assert len({ticket for ticket, _ in settled}) == len(settled), "each is settled once"
    return dict(settled)


def written(writer: RegionWriter, *writes: Write) -> dict[int, Outcome]:
    submit(writer, *writes)
    while writer.next_append(0.0) is not None:
        writer.landed()
    return outcomes(writer)


def test_writes_land_in_order_with_positions_and_versions() -> None:
    writer = writer_of()
    found = written(writer, write("x"), write("y"), write("x", "new"), write("x", None))
    assert found == {
        1: Written(version=HybridTime(NOW_MS, 0, "a"), position=1),
        2: Written(version=HybridTime(NOW_MS, 1, "a"), position=1),
        3: Written(version=HybridTime(NOW_MS, 2, "a"), position=1),
        4: Written(version=HybridTime(NOW_MS, 3, "a"), position=2),
    }
    assert [v.document for v in writer.fold.live()] == ["y"]
    assert writer.next_append(0.0) is None


def test_what_arrives_while_an_append_is_under_way_becomes_the_next_batch() -> None:
    writer = writer_of()
    submit(writer, write("x"))
    first = writer.next_append(0.0)
    submit(writer, write("y"), write("z"), first=2)
    assert writer.next_append(0.0) is first
    writer.landed()
    second = append(writer)
    assert [m.document for m in second.mutations] == ["y", "z"]
    assert (second.first, second.last) == (2, 2)


def test_of_two_writers_the_slower_one_writes_behind_the_faster() -> None:
    writer, other = writer_of(), writer_of()
    submit(writer, write("x", "mine"))
    submit(other, write("x", "theirs"))
    mine = writer.next_append(0.0)
    theirs = append(other)
    assert mine is not None
    assert mine.last == theirs.last == 1
    writer.lost()
    assert writer.take_in(theirs)
    again = append(writer)
    assert again.last == 2
    assert again.mutations[0].time > theirs.mutations[0].time
    assert outcomes(writer) == {1: Written(version=again.mutations[0].time, position=2)}
    assert other.take_in(again)
    assert other.fold.digest == writer.fold.digest


def test_an_append_in_doubt_is_repeated_unchanged_until_it_is_known() -> None:
    writer = writer_of()
    submit(writer, write("x"))
    first = writer.next_append(0.0)
    writer.left_in_doubt()
    assert writer.next_append(99.0) is first
    writer.failed(Unavailable("no answer"))
    assert writer.next_append(99.0) is first, "an earlier attempt may still land"
    assert outcomes(writer) == {}
    writer.landed()
    assert isinstance(outcomes(writer)[1], Written)


def test_an_append_that_failed_for_certain_is_told_and_the_rest_goes_on() -> None:
    writer = writer_of()
    submit(writer, write("x"), write("y"), write("z"), write("w"))
    assert writer.next_append(0.0) is not None
    error = Unavailable("no answer")
    writer.failed(error)
    assert outcomes(writer) == {1: error, 2: error, 3: error}
    assert [m.document for m in append(writer).mutations] == ["w"]
    assert writer.fold.position("a") == 1


def test_what_has_waited_too_long_is_not_written() -> None:
    writer = writer_of()
    submit(writer, write("x"))
    assert writer.next_append(10.5) is None
    assert isinstance(outcomes(writer)[1], DeadlineExceeded)


def test_a_full_queue_refuses() -> None:
    writer = writer_of()
    submit(writer, *(write(str(n)) for n in range(6)))
    with pytest.raises(Overloaded):
        submit(writer, write("more"), first=7)


# Idempotency keys.


def test_a_repeated_write_is_one_mutation() -> None:
    writer = writer_of()
    first = written(writer, write("x", key="k"))[1]
    assert isinstance(first, Written)
    found = written(writer, write("y"), write("x", key="k"))
    assert found[2] == Written(version=first.version, position=1, is_repeated=True)
    assert writer.fold.position("a") == 2


def test_twins_that_wait_together_are_one_mutation() -> None:
    writer = writer_of()
    found = written(writer, write("x", key="k"), write("x", key="k"), write("y"))
    assert [one.is_repeated for one in (found[1], found[2]) if isinstance(one, Written)] == [
        False,
        True,
    ]
    assert writer.fold.position("a") == 1


def test_a_twin_is_written_when_the_first_was_not() -> None:
    writer = writer_of()
    submit(writer, write("x", key="k"), write("x", key="k"))
    writer.next_append(0.0)
    writer.failed(Unavailable("no answer"))
    append(writer)
    found = outcomes(writer)
    assert isinstance(found[1], Unavailable)
    assert found[2] == Written(version=HybridTime(NOW_MS, 1, "a"), position=1)


def test_a_write_repeated_at_another_writer_is_one_mutation() -> None:
    writer, other = writer_of(), writer_of()
    submit(writer, write("x", key="k"))
    submit(other, write("x", key="k"))
    writer.next_append(0.0)
    theirs = append(other)
    writer.lost()
    assert writer.take_in(theirs)
    assert writer.next_append(0.0) is None
    assert outcomes(writer) == {
        1: Written(version=theirs.mutations[0].time, position=1, is_repeated=True)
    }


@pytest.mark.parametrize(
    "other", [write("y", key="k"), write("x", "other", key="k"), write("x", None, key="k")]
)
def test_a_key_of_another_write_is_refused(other: Write) -> None:
    writer = writer_of()
    written(writer, write("x", key="k"))
    refused = written(writer, other)[1]
    assert isinstance(refused, InvalidArgument)
    assert refused.field == "key"


def test_a_key_is_forgotten_after_an_hour() -> None:
    wall = SimClock()
    writer = writer_of(wall)
    written(writer, write("x", key="k"))
    wall.sleep(3600.0)
    assert written(writer, write("y"), write("x", key="k"))[2] == Written(
        version=HybridTime(NOW_MS, 0, "a"), position=1, is_repeated=True
    )
    wall.sleep(1.0)
    written(writer, write("y", key="later"))
    found = written(writer, write("x", key="k"))[1]
    assert isinstance(found, Written)
    assert not found.is_repeated


# if_version.


def test_a_version_is_demanded_and_had() -> None:
    writer = writer_of()
    first = written(writer, write("x", if_version=IfVersion.ABSENT))[1]
    assert isinstance(first, Written)
    second = written(writer, write("x", "new", if_version=first.version))[1]
    assert isinstance(second, Written)
    assert isinstance(written(writer, write("x", None, if_version=second.version))[1], Written)
    assert isinstance(written(writer, write("x", if_version=IfVersion.ABSENT))[1], Written)


@pytest.mark.parametrize(
    ("before", "demand"),
    [
        ([write("x")], IfVersion.ABSENT),
        ([write("x")], HybridTime(1, 0, "a")),
        ([], HybridTime(1, 0, "a")),
        ([write("x"), write("x", None)], HybridTime(NOW_MS, 1, "a")),
    ],
)
def test_another_version_than_the_demanded_one_is_a_conflict(
    before: list[Write], demand: HybridTime
) -> None:
    writer = writer_of()
    written(writer, *before)
    kept = writer.fold.versions("x")
    found = written(writer, write("y"), write("x", "new", if_version=demand))
    assert isinstance(found[1], Written), "one that is refused fails no other"
    assert isinstance(found[2], Conflict)
    assert writer.fold.versions("x") == kept


def test_a_version_is_compared_with_earlier_writes_of_the_batch() -> None:
    writer = writer_of()
    found = written(
        writer, write("x", if_version=IfVersion.ABSENT), write("x", if_version=IfVersion.ABSENT)
    )
    assert isinstance(found[1], Written)
    assert isinstance(found[2], Conflict)


def test_a_version_is_compared_anew_when_another_writer_was_faster() -> None:
    writer = writer_of()
    submit(writer, write("x", "mine", if_version=IfVersion.ABSENT))
    writer.next_append(0.0)
    writer.lost()
    assert writer.take_in(batch(1, upsert("x", NOW_MS)))
    assert writer.next_append(0.0) is None
    assert isinstance(outcomes(writer)[1], Conflict)


# Other regions, and clocks.


def test_a_write_counts_as_later_than_what_the_region_has_read() -> None:
    writer = writer_of()
    assert writer.take_in(batch(1, upsert("x", NOW_MS + 90, "b"), region="b"))
    found = written(writer, write("x", "mine"))[1]
    assert isinstance(found, Written)
    assert found.version == HybridTime(NOW_MS + 90, 1, "a")
    assert writer.fold.versions("x")[-1].content == text_content("mine")


def test_a_write_comes_after_all_that_the_region_has_read_of_whatever_document() -> None:
    writer = writer_of()
    assert writer.take_in(batch(1, upsert("y", NOW_MS + 90, "b"), region="b"))
    found = written(writer, write("x"))[1]
    assert isinstance(found, Written)
    assert found.version == HybridTime(NOW_MS + 90, 1, "a")


def test_a_write_that_would_not_count_is_refused_until_the_clock_has_come_so_far() -> None:
    wall = SimClock()
    writer = writer_of(wall)
    assert writer.take_in(batch(1, upsert("x", NOW_MS + 5000, "b"), region="b"))
    found = written(writer, write("x"), write("y"))
    refused = found[1]
    assert isinstance(refused, ClockAhead)
    assert refused.ahead_ms == 5000
    assert isinstance(found[2], Written)
    wall.sleep(5.0)
    assert isinstance(written(writer, write("x"))[1], Written)


def test_a_clock_behind_its_own_log_writes_nothing() -> None:
    writer = writer_of()
    assert writer.take_in(batch(1, upsert("x", NOW_MS + 5000)))
    assert isinstance(written(writer, write("y"))[1], ClockAhead)
    assert writer.fold.position("a") == 1


def test_a_gap_is_told() -> None:
    writer = writer_of()
    assert not writer.take_in(batch(2, upsert("x", 1, "b"), region="b"))
    assert writer.take_in(batch(1, delete("x", 1, "b"), region="b"))
    assert writer.take_in(batch(1, delete("x", 1, "b"), region="b"))


def test_siblings_are_replaced_by_a_writer_that_has_read_them() -> None:
    writer = writer_of(policy=ConflictPolicy.MANUAL)
    assert writer.take_in(batch(1, upsert("x", 1, "b"), region="b"))
    assert writer.take_in(batch(1, upsert("x", 2, "c"), region="c"))
    assert list(writer.fold.conflicts()) == ["x"]
    written(writer, write("x", "resolved"))
    assert list(writer.fold.conflicts()) == []
    assert len(writer.fold.versions("x")) == 1


def test_a_writer_at_its_end_tells_what_is_under_way_as_unknown() -> None:
    writer = writer_of()
    submit(writer, write("x"), write("y"), write("z"), write("waits"))
    assert writer.next_append(0.0) is not None
    writer.left_in_doubt()
    writer.give_up(Unavailable("the log is gone"))
    found = outcomes(writer)
    assert {type(outcome) for outcome in found.values()} == {OutcomeUnknown}
    assert sorted(found) == [1, 2, 3]
    successor = RegionWriter(
        CORPUS,
        "a",
        policy=ConflictPolicy.LAST_WRITER,
        clock=HybridClock("a", SimClock(), skew_max_ms=100),
        queue=writer.queue,
    )
    append(successor)
    assert sorted(outcomes(successor)) == [4]
