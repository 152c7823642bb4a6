"""Bugs in the log of mutations and its fold, each of which the checker meant for it finds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import cluster.mutations.conflicts as conflicts
import cluster.mutations.fold as fold
import cluster.mutations.region_writer as region_writer
import cluster.mutations.spans as spans
import cluster.mutations.store_log as store_log
from cluster.errors import Conflict, RaygionError
from cluster.mutations.batch import Batch
from cluster.mutations.conflicts import ConflictPolicy, Versions
from cluster.mutations.fold import DocumentFold
from cluster.mutations.group_commit import GroupCommit
from cluster.mutations.hybrid_clock import HybridClock, HybridTime
from cluster.mutations.mutation import Mutation
from cluster.mutations.recent_keys import RecentKeys
from cluster.mutations.region_writer import RegionWriter, Written
from cluster.mutations.store_log import StoreMutationLog
from tests.simulation.documents.planting import SIBLINGS, DocumentBug, Patch, is_caught
from tests.simulation.documents.world import FAIR


def the_last_to_arrive_wins(patch: Patch) -> None:
    patch.setattr(fold, "merged", lambda policy, versions, mutation: (mutation,))


def the_order_of_regions_decides(patch: Patch) -> None:
    def merged(policy: ConflictPolicy, versions: Versions, mutation: Mutation) -> Versions:
        kept = max([*versions, mutation], key=lambda m: (m.time.region, m.time))
        return (kept,)

    patch.setattr(fold, "merged", merged)


def siblings_of_which_the_last_one_wins(patch: Patch) -> None:
    def merged(policy: ConflictPolicy, versions: Versions, mutation: Mutation) -> Versions:
        return (max([*versions, mutation], key=lambda m: m.time),)

    patch.setattr(fold, "merged", merged)


def siblings_that_outlive_their_successor(patch: Patch) -> None:
    patch.setattr(conflicts, "has_seen", lambda mutation, time: False)


def appending_behind_after_a_lost_reply(patch: Patch) -> None:
    """Taken for lost, the batch is appended once more at the next position."""

    def left_in_doubt(self: RegionWriter) -> None:
        assert self._under_way is not None
        batch = self._under_way.batch
        self.queue.put_back(self._under_way.group)
        self._end_append()
        self.take_in(replace(batch, mutations=()))

    patch.setattr(RegionWriter, "left_in_doubt", left_in_doubt)


def a_lost_reply_taken_for_success(patch: Patch) -> None:
    patch.setattr(RegionWriter, "left_in_doubt", RegionWriter.landed)


def a_lost_reply_taken_for_failure(patch: Patch) -> None:
    def left_in_doubt(self: RegionWriter) -> None:
        self.failed(Conflict("it did not work"))

    patch.setattr(RegionWriter, "left_in_doubt", left_in_doubt)


def a_taken_position_taken_for_success(patch: Patch) -> None:
    patch.setattr(RegionWriter, "lost", RegionWriter.landed)


def writes_dropped_when_another_writer_was_faster(patch: Patch) -> None:
    patch.setattr(GroupCommit, "put_back", lambda self, group: None)


def acknowledging_before_the_append(patch: Patch) -> None:
    real = RegionWriter.next_append

    def next_append(self: RegionWriter, now_s: float) -> Batch | None:
        is_new = self._under_way is None
        batch = real(self, now_s)
        if batch is not None and is_new:
            assert self._under_way is not None
            for pending, mutation in zip(self._under_way.group, batch.mutations, strict=True):
                written = Written(version=mutation.time, position=batch.last)
                self._settled.append((pending.ticket, written))
        return batch

    def landed(self: RegionWriter) -> None:
        assert self._under_way is not None
        batch = self._under_way.batch
        self._end_append()
        self.take_in(batch)

    patch.setattr(RegionWriter, "next_append", next_append)
    patch.setattr(RegionWriter, "landed", landed)


def the_old_batch_at_the_next_position(patch: Patch) -> None:
    """When another writer was faster, nothing is checked or stamped anew."""
    real = RegionWriter.next_append

    def lost(self: RegionWriter) -> None:
        self._in_doubt = False

    def next_append(self: RegionWriter, now_s: float) -> Batch | None:
        batch = real(self, now_s)
        position = self.fold.position(self._region) + 1
        if batch is not None and batch.last != position:
            batch = replace(batch, first=position, last=position)
            assert self._under_way is not None
            self._under_way = replace(self._under_way, batch=batch)
        return batch

    patch.setattr(RegionWriter, "lost", lost)
    patch.setattr(RegionWriter, "next_append", next_append)


def keys_that_die_with_their_writer(patch: Patch) -> None:
    real = RegionWriter.take_in

    def take_in(self: RegionWriter, batch: Batch) -> bool:
        keys, self._keys = self._keys, RecentKeys()
        try:
            return real(self, batch)
        finally:
            self._keys = keys

    patch.setattr(RegionWriter, "take_in", take_in)


def keys_that_nobody_looks_up(patch: Patch) -> None:
    patch.setattr(RegionWriter, "_known_key", lambda self, write: None)


def demands_that_nobody_checks(patch: Patch) -> None:
    patch.setattr(region_writer, "_check_version", lambda write, versions: None)


def demands_checked_without_the_batch(patch: Patch) -> None:
    real = region_writer._Plan.add

    def add(self: Any, write: Any, clock: HybridClock) -> None:
        real(self, write, clock)
        self._versions.clear()

    patch.setattr(region_writer._Plan, "add", add)


def stamps_of_the_wall_clock_alone(patch: Patch) -> None:
    def stamp(self: HybridClock) -> HybridTime:
        now_ms = self._clock.wall_ms()
        self._counter = self._counter + 1 if now_ms == self._wall_ms else 0
        self._wall_ms = now_ms
        return HybridTime(now_ms, self._counter, self._region)

    patch.setattr(HybridClock, "stamp", stamp)
    patch.setattr(HybridClock, "observe", lambda self, time: None)


def deletes_forgotten_too_early(patch: Patch) -> None:
    def stable_time(self: DocumentFold, regions: object) -> HybridTime | None:
        return max(self._times.values(), default=None)

    patch.setattr(DocumentFold, "stable_time", stable_time)


def deletes_dropped_from_spans(patch: Patch) -> None:
    real = spans.span_of

    def span_of(policy: ConflictPolicy, batches: list[Batch]) -> Batch:
        span = real(policy, batches)
        live = tuple(m for m in span.mutations if m.content is not None)
        return replace(span, mutations=live)

    patch.setattr(store_log, "span_of", span_of)


def a_watermark_that_jumps_over_a_gap(patch: Patch) -> None:
    real = DocumentFold.apply

    def apply(self: DocumentFold, batch: Batch) -> bool:
        if batch.first > self.position(batch.region) + 1:
            self._positions[batch.region] = batch.first - 1
        return real(self, batch)

    patch.setattr(DocumentFold, "apply", apply)


def a_watermark_that_goes_back(patch: Patch) -> None:
    real = DocumentFold.apply

    def apply(self: DocumentFold, batch: Batch) -> bool:
        if batch.last <= self.position(batch.region):
            self._positions[batch.region] = batch.first - 1
        return real(self, batch)

    patch.setattr(DocumentFold, "apply", apply)


def skipping_what_cannot_be_read(patch: Patch) -> None:
    real = StoreMutationLog._find

    def find(self: StoreMutationLog, region: str, block: Any) -> Batch | RaygionError:
        found = real(self, region, block)
        if isinstance(found, RaygionError) and not block.level:
            return Batch(
                corpus=self._corpus, region=region, first=block.first, last=block.last, mutations=()
            )
        return found

    patch.setattr(StoreMutationLog, "_find", find)


def a_digest_that_forgets_what_was_replaced(patch: Patch) -> None:
    real = DocumentFold._merge

    def merge(self: DocumentFold, mutation: Mutation) -> None:
        self._shares.pop(mutation.document, None)
        real(self, mutation)

    patch.setattr(DocumentFold, "_merge", merge)


def trimming_away_the_names(patch: Patch) -> None:
    def trim_one(self: StoreMutationLog, region: str, position: int) -> bool:
        self._store.remove(self._log(region).path(position))
        return True

    patch.setattr(StoreMutationLog, "_trim_one", trim_one)


BUGS = [
    DocumentBug(the_last_to_arrive_wins, "equal_watermarks_are_equal_documents"),
    DocumentBug(the_order_of_regions_decides, "equal_watermarks_are_equal_documents"),
    DocumentBug(
        siblings_of_which_the_last_one_wins, "equal_watermarks_are_equal_documents", SIBLINGS
    ),
    DocumentBug(
        siblings_that_outlive_their_successor, "equal_watermarks_are_equal_documents", SIBLINGS
    ),
    DocumentBug(appending_behind_after_a_lost_reply, "no_write_is_applied_twice"),
    DocumentBug(a_lost_reply_taken_for_success, "no_acknowledged_write_is_lost"),
    DocumentBug(a_lost_reply_taken_for_failure, "refused_writes_change_nothing"),
    DocumentBug(a_taken_position_taken_for_success, "no_acknowledged_write_is_lost"),
    DocumentBug(writes_dropped_when_another_writer_was_faster, "the_quiet_time_ends_well"),
    DocumentBug(acknowledging_before_the_append, "no_acknowledged_write_is_lost"),
    DocumentBug(the_old_batch_at_the_next_position, "logs_are_consecutive_and_ascend"),
    DocumentBug(keys_that_die_with_their_writer, "no_write_is_applied_twice"),
    DocumentBug(keys_that_nobody_looks_up, "no_write_is_applied_twice"),
    DocumentBug(demands_that_nobody_checks, "demanded_versions_were_there"),
    DocumentBug(demands_checked_without_the_batch, "demanded_versions_were_there"),
    DocumentBug(stamps_of_the_wall_clock_alone, "demanded_versions_were_there", FAIR),
    DocumentBug(deletes_forgotten_too_early, "equal_watermarks_are_equal_documents"),
    DocumentBug(deletes_dropped_from_spans, "equal_watermarks_are_equal_documents"),
    DocumentBug(a_watermark_that_jumps_over_a_gap, "equal_watermarks_are_equal_documents"),
    DocumentBug(a_watermark_that_goes_back, "watermarks_never_go_back"),
    DocumentBug(skipping_what_cannot_be_read, "equal_watermarks_are_equal_documents"),
    DocumentBug(a_digest_that_forgets_what_was_replaced, "digests_are_those_of_the_documents"),
    DocumentBug(trimming_away_the_names, "no_acknowledged_write_is_lost", FAIR),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.plant.__name__)
def test_a_planted_bug_in_documents_is_caught(bug: DocumentBug, monkeypatch: Patch) -> None:
    bug.plant(monkeypatch)
    assert is_caught(bug)
