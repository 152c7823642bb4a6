"""Bugs in the release log and its coordinators, each of which the checker meant for it finds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

import cluster.releases.fold as release_fold
import cluster.releases.rollback as rollback
import cluster.releases.rollout as rollout
import cluster.store.numbered_log as numbered_log
from cluster.errors import Conflict, Corrupt, LogUnreadable, OutcomeUnknown, Unavailable
from cluster.releases.driver import RolloutDriver
from cluster.releases.entries import (
    Abort,
    CanaryShare,
    Elect,
    Fence,
    LogEntry,
    LogState,
    Proposal,
    Rollback,
)
from cluster.releases.events import (
    Append,
    EntryRead,
    Instruction,
    Prepared,
    PrepareFailed,
    RegionStatus,
)
from cluster.releases.log_entries import parse_entry
from cluster.releases.release_log import LogSnapshot, ReleaseLog, snapshot_path
from cluster.releases.residents import Residents
from cluster.releases.rollout import Rollout
from cluster.store.numbered_log import NumberedLog
from tests.simulation.judging.planting import Bug, Patch, is_caught


def no_epoch_check(patch: Patch) -> None:
    real = release_fold.objection

    def objection(state: LogState, entry: LogEntry) -> str | None:
        lenient = (
            entry if isinstance(entry, Elect) else entry.model_copy(update={"epoch": state.epoch})
        )
        return real(state, lenient)

    patch.setattr(release_fold, "objection", objection)
    patch.setattr(rollout, "objection", objection)


def commit_without_waiting(patch: Patch) -> None:
    patch.setattr(Proposal, "waits_for", lambda self, prepared: [])


def all_fenced_but_not_aborted(patch: Patch) -> None:
    real = Rollout._next_entry

    def next_entry(
        self: Rollout, proposal: Proposal, now_ms: int, commit_id: str
    ) -> LogEntry | None:
        entry = real(self, proposal, now_ms, commit_id)
        if isinstance(entry, Abort):
            return self._commit_entry(proposal.release.number, now_ms, commit_id)
        return entry

    patch.setattr(Rollout, "_next_entry", next_entry)


def no_reading_back_after_a_lost_reply(patch: Patch) -> None:
    def put_only(store: Any, path: str, data: bytes, **options: Any) -> bytes:
        try:
            store.put_if_absent(path, data)
        except OutcomeUnknown as error:
            raise Conflict("taken for somebody else's") from error
        return data

    patch.setattr(numbered_log, "put_or_get", put_only)


def a_lost_reply_told_as_a_failure(patch: Patch) -> None:
    def put_once(store: Any, path: str, data: bytes, **options: Any) -> bytes:
        try:
            store.put_if_absent(path, data)
        except OutcomeUnknown as error:
            raise Unavailable("it did not work") from error
        return data

    patch.setattr(numbered_log, "put_or_get", put_once)


def keeping_the_predecessors_epoch(patch: Patch) -> None:
    patch.setattr(Rollout, "leads", property(lambda self: self.state.leader == self.region))


def overwriting_the_log(patch: Patch) -> None:
    def append_at(self: NumberedLog, n: int, data: bytes, **options: Any) -> None:
        self._store.put(self.path(n), data)

    patch.setattr(NumberedLog, "append_at", append_at)


def believing_any_snapshot(patch: Patch) -> None:
    def snapshot(self: ReleaseLog, last: int) -> LogSnapshot | None:
        path = snapshot_path(last)
        try:
            return LogSnapshot.from_bytes(self._store.get(path), source=path)
        except Corrupt:
            return None

    patch.setattr(ReleaseLog, "_snapshot", snapshot)


def skipping_what_cannot_be_read(patch: Patch) -> None:
    def read_after(self: ReleaseLog, n: int) -> Iterator[LogEntry]:
        for position in range(n + 1, self._log.latest() + 1):
            with suppress(LogUnreadable):
                yield parse_entry(self._log.read(position), position=position)

    patch.setattr(ReleaseLog, "read_after", read_after)


def taking_one_entry_in_twice(patch: Patch) -> None:
    real = RolloutDriver._append

    def append_and_read(self: RolloutDriver, append: Append) -> bool:
        landed = real(self, append)
        if landed:
            self._handle(EntryRead(entry=append.entry))
        return landed

    patch.setattr(RolloutDriver, "_append", append_and_read)


def switching_ahead_of_the_moment(patch: Patch) -> None:
    def current(self: LogState, now_ms: int) -> int | None:
        return self.switches[-1].release if self.switches else None

    patch.setattr(LogState, "current", current)


def unloading_what_is_due(patch: Patch) -> None:
    def resident(self: LogState, now_ms: int) -> tuple[int, ...]:
        opened, current = self.open_proposal(), self.current(now_ms)
        return tuple({*([] if opened is None else [opened.release.number]), current} - {None})

    patch.setattr(LogState, "resident", resident)


def standing_against_a_leader_that_lives(patch: Patch) -> None:
    patch.setattr(Rollout, "_lapsed", lambda self, leader: True)


def leftovers_that_stand_again(patch: Patch) -> None:
    patch.setattr(Rollout, "superseded", property(lambda self: False, lambda self, value: None))


def never_trying_a_committed_release_again(patch: Patch) -> None:
    patch.setattr(Residents, "_is_wanted", lambda self, state, n, now_ms: n not in self._local)


def giving_up_at_the_first_failure(patch: Patch) -> None:
    real = Residents.settle

    def settle(self: Residents, event: Prepared | PrepareFailed, now_ms: int) -> list[Instruction]:
        if isinstance(event, PrepareFailed):
            event = replace(event, retryable=False)
        return real(self, event, now_ms)

    patch.setattr(Residents, "settle", settle)


def going_back_to_what_is_not_loaded(patch: Patch) -> None:
    patch.setattr(Rollout, "_check_loaded", lambda self, number: None)


def going_back_while_another_takes_over(patch: Patch) -> None:
    patch.setattr(rollout, "check_stays", lambda state, number: None)


def going_back_to_what_was_aborted(patch: Patch) -> None:
    real = release_fold.objection

    def objection(state: LogState, entry: LogEntry) -> str | None:
        is_back = isinstance(entry, Rollback) and entry.release in state.proposals
        return None if is_back else real(state, entry)

    def earlier_release(state: LogState, number: int | None) -> Proposal:
        if number is not None and number in state.proposals:
            return state.proposals[number]
        return rollback.earlier_release(state, number)

    for module in (release_fold, rollout):
        patch.setattr(module, "objection", objection)
    patch.setattr(rollout, "earlier_release", earlier_release)


def never_fencing(patch: Patch) -> None:
    real = Rollout._next_entry

    def next_entry(
        self: Rollout, proposal: Proposal, now_ms: int, commit_id: str
    ) -> LogEntry | None:
        entry = real(self, proposal, now_ms, commit_id)
        return None if isinstance(entry, Fence | Abort) else entry

    patch.setattr(Rollout, "_next_entry", next_entry)


def granting_what_is_void(patch: Patch) -> None:
    patch.setattr(rollout, "objection", lambda state, entry: None)


def trying_what_is_not_prepared(patch: Patch) -> None:
    patch.setattr(Rollout, "_check_prepared", lambda self, proposal: None)


def a_share_that_outlives_the_abort(patch: Patch) -> None:
    patch.setattr(release_fold, "_canary_without", lambda state, release: state.canary)


def a_share_for_a_region_that_takes_no_part(patch: Patch) -> None:
    patch.setattr(LogState, "canary_in", lambda self, region, now_ms: self.canary_at(now_ms))


def going_on_with_a_canary_at_fault(patch: Patch) -> None:
    def canary(self: Rollout, now_ms: int) -> CanaryShare | None:
        return self.state.canary_in(self.region, now_ms)

    patch.setattr(Rollout, "canary", canary)
    patch.setattr(Rollout, "_fault", lambda self, number: None)


def faults_that_the_leader_is_not_told(patch: Patch) -> None:
    real = Rollout.heartbeat

    def heartbeat(self: Rollout, now_ms: int) -> RegionStatus:
        told = real(self, now_ms)
        return told if self.leads else told.model_copy(update={"at_fault": {}})

    patch.setattr(Rollout, "heartbeat", heartbeat)


BUGS = [
    Bug(no_epoch_check, "everybody_agrees_at_a_position"),
    Bug(commit_without_waiting, "commits_wait_for_their_targets"),
    Bug(all_fenced_but_not_aborted, "commits_wait_for_their_targets"),
    Bug(no_reading_back_after_a_lost_reply, "requests_have_the_effect_that_was_told"),
    Bug(a_lost_reply_told_as_a_failure, "requests_have_the_effect_that_was_told"),
    Bug(keeping_the_predecessors_epoch, "one_incarnation_leads_an_epoch"),
    Bug(overwriting_the_log, "log_is_consecutive_and_immutable"),
    Bug(believing_any_snapshot, "everybody_agrees_at_a_position"),
    Bug(skipping_what_cannot_be_read, "everybody_agrees_at_a_position"),
    Bug(taking_one_entry_in_twice, "everybody_agrees_at_a_position"),
    Bug(switching_ahead_of_the_moment, "everybody_agrees_at_a_position"),
    Bug(unloading_what_is_due, "what_serves_is_never_retired"),
    Bug(standing_against_a_leader_that_lives, "the_quiet_time_ends_well"),
    Bug(leftovers_that_stand_again, "the_quiet_time_ends_well"),
    Bug(never_trying_a_committed_release_again, "the_quiet_time_ends_well"),
    Bug(giving_up_at_the_first_failure, "nobody_is_left_out_for_what_passes"),
    Bug(going_back_to_what_is_not_loaded, "rollbacks_without_force_last"),
    Bug(going_back_while_another_takes_over, "rollbacks_without_force_last"),
    Bug(going_back_to_what_was_aborted, "what_makes_no_sense_is_refused"),
    Bug(never_fencing, "the_quiet_time_ends_well"),
    Bug(granting_what_is_void, "requests_have_the_effect_that_was_told"),
    Bug(trying_what_is_not_prepared, "commits_wait_for_their_targets"),
    Bug(a_share_that_outlives_the_abort, "a_canarys_share_goes_to_what_may_have_it"),
    Bug(a_share_for_a_region_that_takes_no_part, "a_canarys_share_goes_to_what_may_have_it"),
    Bug(going_on_with_a_canary_at_fault, "a_canarys_share_goes_to_what_may_have_it"),
    Bug(faults_that_the_leader_is_not_told, "the_quiet_time_ends_well"),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.plant.__name__)
def test_a_planted_bug_is_caught(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug.plant(monkeypatch)
    assert is_caught(bug)
