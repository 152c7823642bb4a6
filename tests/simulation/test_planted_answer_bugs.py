"""Bugs in what regions answer, each of which the checker meant for it finds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import pytest

import actors.regions.quorum_round as quorum_round
import cluster.serving.consistency as consistency
import cluster.serving.view as region_view
from actors.regions.forwarding_service import ForwardingService
from cluster.clock import Deadline
from cluster.errors import RaygionError
from cluster.query.answers import AnswerRequest
from cluster.query.read_consistency import EVENTUAL, ReadConsistency
from cluster.query.request import Request
from cluster.query.search import SearchRequest, SearchResult
from cluster.query.session import SessionToken
from cluster.regions.quorum import Vote
from cluster.releases.driver import RolloutDriver
from cluster.releases.entries import Switch
from cluster.releases.release_log import Freshness
from cluster.serving.consistency import RegionKnowledge
from cluster.serving.decisions import Reading
from cluster.serving.view import RegionView
from tests.simulation.judging.planting import (
    ANSWERS,
    ANSWERS_IN_GOOD_WEATHER,
    ANSWERS_NEARBY,
    Bug,
    Patch,
    is_caught,
)


def ignoring_the_token(patch: Patch) -> None:
    patch.setattr(ReadConsistency, "floor", property(lambda self: 0))


def forgetting_the_token_once_a_quorum_agrees(patch: Patch) -> None:
    real = ForwardingService._agreed_on

    async def agreed_on(
        self: ForwardingService, request: AnswerRequest, deadline: Deadline
    ) -> tuple[AnswerRequest, tuple[str, ...]]:
        pinned, regions = await real(self, request, deadline)
        return replace(pinned, consistency=EVENTUAL), regions

    patch.setattr(ForwardingService, "_agreed_on", agreed_on)


def forgetting_the_token_for_a_named_release(patch: Patch) -> None:
    real = consistency._Asked.named

    def named(self: consistency._Asked, release: int) -> consistency.Decision:
        return real(replace(self, consistency=EVENTUAL), release)

    patch.setattr(consistency._Asked, "named", named)


def comparing_releases_instead_of_positions(patch: Patch) -> None:
    """After a roll-back an older switch may lead to a higher number."""

    def in_force(self: RegionView, now_ms: int, not_before: int = 0) -> Switch | None:
        seen = next((s.release for s in self.switches if s.position == not_before), 0)
        for switch in reversed(self.switches):
            if switch.at_ms <= now_ms and switch.release in self.releases:
                return switch if switch.release >= seen else None
        return None

    patch.setattr(RegionView, "in_force", in_force)


def counting_staleness_from_the_last_attempt(patch: Patch) -> None:
    real = RolloutDriver._read_log

    def read_log(self: RolloutDriver) -> None:
        begun_ms = self._clock.wall_ms()
        try:
            real(self)
        except RaygionError:
            position = self.rollout.state.position
            self.freshness = Freshness(read_ms=begun_ms, position=position)
            raise

    patch.setattr(RolloutDriver, "_read_log", read_log)


def staleness_without_the_skew(patch: Patch) -> None:
    real = RegionKnowledge.staleness_ms

    def staleness_ms(self: RegionKnowledge, switch: Switch | None, now_ms: int) -> int:
        return real(replace(self, skew_max_ms=0), switch, now_ms)

    patch.setattr(RegionKnowledge, "staleness_ms", staleness_ms)


def staleness_that_knows_of_no_later_switch(patch: Patch) -> None:
    patch.setattr(RegionView, "superseded_ms", lambda self, position, now_ms: None)


def strong_without_a_reading(patch: Patch) -> None:
    real = consistency._Asked.strong

    def strong(self: consistency._Asked) -> consistency.Decision:
        return real(replace(self, reading=Reading.DONE))

    patch.setattr(consistency._Asked, "strong", strong)


def strong_without_waiting_out_the_skew(patch: Patch) -> None:
    real = consistency._Asked.strong

    def strong(self: consistency._Asked) -> consistency.Decision:
        return real(replace(self, knowledge=replace(self.knowledge, skew_max_ms=0)))

    patch.setattr(consistency._Asked, "strong", strong)


def strong_from_what_happens_to_be_loaded(patch: Patch) -> None:
    patch.setattr(RegionView, "newest", RegionView.in_force)


def no_bound(patch: Patch) -> None:
    patch.setattr(consistency._Asked, "bounded", lambda self: self.current())


def a_quorum_of_those_who_answer(patch: Patch) -> None:
    real = quorum_round.agreed
    patch.setattr(quorum_round, "agreed", lambda votes, regions: real(votes, len(votes)))


def a_quorum_on_the_release_alone(patch: Patch) -> None:
    patch.setattr(quorum_round, "vote_of", lambda result: Vote(result.release, b""))


def the_current_release_for_a_named_one(patch: Patch) -> None:
    patch.setattr(consistency._Asked, "named", lambda self, release: self.current(exactly=True))


def forwarding_again(patch: Patch) -> None:
    real = ForwardingService._order

    def order(self: ForwardingService, request: Request) -> Iterator[tuple[str, bool]]:
        # Three times: for ever, no simulation would end.
        again = request.trace_id.count("/") < 3
        return real(self, replace(request, forwarded_by="") if again else request)

    patch.setattr(ForwardingService, "_order", order)


def a_full_deadline_for_each_region(patch: Patch) -> None:
    real = ForwardingService._search_at

    async def search_at(
        self: ForwardingService,
        region: str,
        request: SearchRequest,
        deadline: Deadline,
        *,
        is_last: bool = True,
    ) -> SearchResult:
        again = Deadline.after(2 * request.timeout_s, self._clock)
        return await real(self, region, request, again, is_last=is_last)

    patch.setattr(ForwardingService, "_search_at", search_at)


def taking_a_new_coordinators_word_for_all(patch: Patch) -> None:
    """What a coordinator that has just begun holds is taken for all that can serve."""

    def with_view(self: RegionKnowledge, view: RegionView) -> RegionKnowledge:
        return replace(self, view=consistency._with_newer(view, self.view.switches))

    patch.setattr(RegionKnowledge, "with_view", with_view)


def serving_what_was_unloaded(patch: Patch) -> None:
    real = RegionKnowledge.with_view

    def with_view(self: RegionKnowledge, view: RegionView) -> RegionKnowledge:
        return real(self, replace(view, releases={**self.view.releases, **view.releases}))

    patch.setattr(RegionKnowledge, "with_view", with_view)


def switching_before_the_moment(patch: Patch) -> None:
    patch.setattr(region_view, "_has_come", lambda switch, now_ms, not_before: True)


def a_token_cached_for_all_positions(patch: Patch) -> None:
    @lru_cache(maxsize=1)
    def first(store_id: str) -> list[str]:
        return []

    def token(store_id: str, position: int) -> str:
        if store_id and not first(store_id):
            first(store_id).append(SessionToken(store_id, position).encode())
        return first(store_id)[0] if store_id else ""

    patch.setattr(consistency, "_token", token)


STALENESS = "staleness_is_never_less_than_the_true_one"
STRONG = "strong_answers_are_linearizable"
QUORUM = "a_majority_agrees_on_quorum_answers"
BUGS = [
    Bug(ignoring_the_token, "sessions_never_go_back", ANSWERS),
    Bug(forgetting_the_token_once_a_quorum_agrees, "sessions_never_go_back", ANSWERS_NEARBY),
    Bug(forgetting_the_token_for_a_named_release, "sessions_never_go_back", ANSWERS),
    Bug(comparing_releases_instead_of_positions, "sessions_never_go_back", ANSWERS),
    Bug(counting_staleness_from_the_last_attempt, STALENESS, ANSWERS),
    Bug(staleness_without_the_skew, STALENESS, ANSWERS),
    Bug(staleness_that_knows_of_no_later_switch, STALENESS, ANSWERS),
    Bug(strong_without_a_reading, STRONG, ANSWERS),
    Bug(strong_without_waiting_out_the_skew, STRONG, ANSWERS_IN_GOOD_WEATHER),
    Bug(strong_from_what_happens_to_be_loaded, STRONG, ANSWERS),
    Bug(no_bound, "bounds_are_kept", ANSWERS),
    Bug(a_quorum_of_those_who_answer, QUORUM, ANSWERS),
    Bug(a_quorum_on_the_release_alone, QUORUM, ANSWERS),
    Bug(the_current_release_for_a_named_one, "named_releases_are_served_as_named", ANSWERS),
    Bug(forwarding_again, "nothing_is_forwarded_twice", ANSWERS),
    Bug(a_full_deadline_for_each_region, "deadlines_shrink_on_the_way", ANSWERS),
    Bug(taking_a_new_coordinators_word_for_all, "eventual_is_served_where_it_can_be", ANSWERS),
    Bug(serving_what_was_unloaded, "only_what_is_loaded_serves", ANSWERS),
    Bug(switching_before_the_moment, "only_what_came_into_force_serves", ANSWERS),
    Bug(a_token_cached_for_all_positions, "only_what_came_into_force_serves", ANSWERS),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.plant.__name__)
def test_a_planted_bug_is_caught(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug.plant(monkeypatch)
    assert is_caught(bug)
