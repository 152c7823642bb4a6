"""Bugs in the serving of live documents, each of which the checker meant for it finds."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

import pytest

from cluster.deltas.changes import Changes
from cluster.deltas.corpus_deltas import CorpusDeltas, DeltaKey
from cluster.deltas.feed import Feed
from cluster.errors import InvalidArgument
from cluster.mutations.requests import DocumentsPosition
from cluster.mutations.watermark import Watermark
from cluster.query.read_consistency import ConsistencyLevel, ReadConsistency
from cluster.query.session import SessionToken
from cluster.serving.decisions import Decision
from cluster.serving.documents import DocumentsDemand, DocumentsKnowledge
from tests.simulation.clocks.sim_time import Process
from tests.simulation.documents.gateways import DocumentGateway
from tests.simulation.documents.planting import DocumentBug, Patch, is_caught
from tests.simulation.documents.processes import ReaderProcess, ReadingEnd


def a_token_without_documents(patch: Patch) -> None:
    patch.setattr(SessionToken, "joined", lambda self, documents: self)


def a_token_that_nobody_heeds(patch: Patch) -> None:
    patch.setattr(ReadConsistency, "documents", property(lambda self: {}))


def a_token_compared_by_the_sum_of_its_positions(patch: Patch) -> None:
    def is_reached(self: Watermark, other: Watermark) -> bool:
        return sum(self.as_dict().values()) <= sum(other.as_dict().values())

    patch.setattr(Watermark, "__le__", is_reached)


def strong_without_reading_the_logs(patch: Patch) -> None:
    real = DocumentsDemand._is

    def is_level(self: DocumentsDemand, level: ConsistencyLevel) -> bool:
        return level is not ConsistencyLevel.STRONG and real(self, level)

    patch.setattr(DocumentsDemand, "_is", is_level)


def strong_by_a_reading_that_had_begun_before(patch: Patch) -> None:
    real = ReaderProcess.refresh

    def refresh(self: ReaderProcess, caller: Process, until_s: float) -> DocumentsPosition:
        return self.feed.position if self._last.is_complete else real(self, caller, until_s)

    patch.setattr(ReaderProcess, "refresh", refresh)


def a_refresh_that_does_not_wait_for_its_gateway(patch: Patch) -> None:
    patch.setattr(DocumentGateway, "_has", lambda self, found: True)


def no_bound_on_documents(patch: Patch) -> None:
    real = DocumentsDemand._decide

    def decide(self: DocumentsDemand) -> Decision | None:
        if self._is(ConsistencyLevel.BOUNDED):
            return None
        return real(self)

    patch.setattr(DocumentsDemand, "_decide", decide)


def staleness_without_the_skew(patch: Patch) -> None:
    def staleness_ms(self: DocumentsKnowledge, now_ms: int, skew_max_ms: int) -> int:
        return max(0, now_ms - self.read_ms)

    patch.setattr(DocumentsKnowledge, "staleness_ms", staleness_ms)


def staleness_of_the_release_alone(patch: Patch) -> None:
    patch.setattr(DocumentsKnowledge, "staleness_ms", lambda self, now_ms, skew_max_ms: skew_max_ms)


def staleness_from_the_last_attempt(patch: Patch) -> None:
    real = ReaderProcess._end

    def end(self: ReaderProcess, ended: ReadingEnd) -> None:
        self.feed.has_read(self.region.clock.wall_ms())
        real(self, ended)

    patch.setattr(ReaderProcess, "_end", end)


def a_reading_of_some_logs_taken_for_all(patch: Patch) -> None:
    patch.setattr(ReaderProcess, "_is_complete", lambda self, reading: True)


def a_view_that_goes_back_after_a_restart(patch: Patch) -> None:
    real = CorpusDeltas.take

    def take(self: CorpusDeltas, changes: Changes, keys: Set[DeltaKey]) -> None:
        real(self, changes, keys)
        if self._coming is not None:
            self._serving, self._coming = self._coming, None

    patch.setattr(CorpusDeltas, "take", take)


def changes_of_one_epoch_after_those_of_another(patch: Patch) -> None:
    real = Feed.since

    def since(self: Feed, epoch: str, version: int) -> Changes:
        return real(self, self.position.epoch, version)

    patch.setattr(Feed, "since", since)


def deletes_that_do_not_come_along(patch: Patch) -> None:
    real = Feed.since

    def since(self: Feed, epoch: str, version: int) -> Changes:
        changes = real(self, epoch, version)
        live = tuple(change for change in changes.changes if change.content is not None)
        return replace(changes, changes=live)

    patch.setattr(Feed, "since", since)


def calling_wrong_what_has_not_been_read_yet(patch: Patch) -> None:
    def missing(self: DocumentsDemand, what: str) -> Decision:
        self._check_is_in_the_logs()
        raise InvalidArgument(what, "session")

    patch.setattr(DocumentsDemand, "_missing", missing)


BUGS = [
    DocumentBug(a_token_without_documents, "sessions_of_documents_never_go_back"),
    DocumentBug(a_token_that_nobody_heeds, "sessions_of_documents_never_go_back"),
    DocumentBug(
        a_token_compared_by_the_sum_of_its_positions, "sessions_of_documents_never_go_back"
    ),
    DocumentBug(strong_without_reading_the_logs, "strong_answers_have_all_documents"),
    DocumentBug(strong_by_a_reading_that_had_begun_before, "strong_answers_have_all_documents"),
    DocumentBug(a_refresh_that_does_not_wait_for_its_gateway, "strong_answers_have_all_documents"),
    DocumentBug(no_bound_on_documents, "bounds_on_documents_are_kept"),
    DocumentBug(
        staleness_without_the_skew, "staleness_of_documents_is_never_less_than_the_true_one"
    ),
    DocumentBug(
        staleness_of_the_release_alone, "staleness_of_documents_is_never_less_than_the_true_one"
    ),
    DocumentBug(
        staleness_from_the_last_attempt, "staleness_of_documents_is_never_less_than_the_true_one"
    ),
    DocumentBug(
        a_reading_of_some_logs_taken_for_all,
        "staleness_of_documents_is_never_less_than_the_true_one",
    ),
    DocumentBug(a_view_that_goes_back_after_a_restart, "gateways_never_go_back"),
    DocumentBug(
        changes_of_one_epoch_after_those_of_another, "answers_hold_what_their_watermark_says"
    ),
    DocumentBug(deletes_that_do_not_come_along, "answers_hold_what_their_watermark_says"),
    DocumentBug(calling_wrong_what_has_not_been_read_yet, "honest_questions_are_not_called_wrong"),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.plant.__name__)
def test_a_planted_bug_in_live_documents_is_caught(bug: DocumentBug, monkeypatch: Patch) -> None:
    bug.plant(monkeypatch)
    assert is_caught(bug)
