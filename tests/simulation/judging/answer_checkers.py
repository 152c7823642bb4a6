"""What must hold of every answer, judged by the recorded history and the release log alone.

Moments are true ones here: those of the scheduler, which no region's clock shows exactly.
"""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from tests.simulation.judging.beliefs import LOG, holding
from tests.simulation.judging.history import History, Reply, Serving
from tests.simulation.world.regions import SKEW_MAX_MS

_ROUNDING_MS = 2
_ROUNDING_S = 1e-6
_RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Turn:
    """A switch as it truly came about."""

    position: int
    release: int
    moment_s: float
    """Its moment as the log says."""
    came_s: float
    """From when on it was in force: from its moment, or from its writing if that came later."""


def turns(history: History) -> list[Turn]:
    written_s = {write.path: write.at_s for write in history.writes}
    found = []
    for position, entry in holding(history):
        if entry["kind"] in ("commit", "rollback"):
            moment_s = entry["switch_at_ms"] / 1000
            came_s = max(moment_s, written_s[f"{LOG}{position:020}.json"])
            found.append(Turn(position, entry["release"], moment_s, came_s))
    return found


def _staleness_ms(known: list[Turn], position: int, at_s: float) -> float:
    """How long the answer by the switch at that position had been out of date."""
    missed = [turn.came_s for turn in known if turn.position > position and turn.came_s <= at_s]
    return (at_s - min(missed)) * 1000 if missed else 0.0


def _by_the_current_release(history: History) -> list[Serving]:
    return [s for s in history.servings if not s.canary and s.level != _RELEASE]


def _answered(history: History, level: str) -> Iterator[tuple[Reply, Serving]]:
    for reply in history.replies:
        if reply.serving is not None and reply.query.level == level:
            yield reply, reply.serving


def staleness_is_never_less_than_the_true_one(history: History) -> list[str]:
    known = turns(history)
    problems = []
    for serving in history.servings:
        if serving.canary:
            continue
        position = serving.position
        if serving.level == _RELEASE or not position:
            # As old as the last turn to it that had come by some clock, whatever is in force.
            by_s = serving.at_s + SKEW_MAX_MS / 2000
            came = [t for t in known if t.release == serving.release and t.moment_s <= by_s]
            if not came:
                continue
            position = came[-1].position
        true_ms = _staleness_ms(known, position, serving.at_s)
        if serving.staleness_ms < true_ms - _ROUNDING_MS:
            problems.append(f"{_name(serving)} says {serving.staleness_ms} ms: it is {true_ms:.0f}")
    return problems


def sessions_never_go_back(history: History) -> list[str]:
    problems = []
    for reply in history.replies:
        floor, serving = reply.query.token_position, reply.serving
        if serving is not None and floor is not None and serving.position < floor:
            problems.append(f"{_name(serving)} is older than its session's {floor}")
    return problems


def bounds_are_kept(history: History) -> list[str]:
    known = turns(history)
    problems = []
    for reply, serving in _answered(history, "bounded"):
        bound_ms = reply.query.max_staleness_ms
        assert bound_ms is not None
        if serving.staleness_ms > bound_ms:
            problems.append(f"{_name(serving)} says {serving.staleness_ms} ms of {bound_ms}")
        if serving.canary:
            continue
        true_ms = _staleness_ms(known, serving.position, serving.at_s)
        if true_ms > bound_ms + _ROUNDING_MS:
            problems.append(f"{_name(serving)} is {true_ms:.0f} ms old, over its {bound_ms}")
    return problems


def strong_answers_are_linearizable(history: History) -> list[str]:
    """Nothing older than what anybody was answered, or what was in force, before it was asked."""
    known = turns(history)
    seen = sorted(_by_the_current_release(history), key=lambda serving: serving.at_s)
    moments_s = [serving.at_s for serving in seen]
    reached = list(itertools.accumulate((s.position for s in seen), max))
    problems = []
    for reply, serving in _answered(history, "strong"):
        asked_s = reply.query.asked_s
        before = bisect.bisect_left(moments_s, asked_s)
        floor = max(
            reached[before - 1] if before else 0,
            max((turn.position for turn in known if turn.came_s <= asked_s), default=0),
        )
        if serving.canary or serving.position < floor:
            problems.append(f"{_name(serving)} is strong, but {floor} was there before")
    return problems


def a_majority_agrees_on_quorum_answers(history: History) -> list[str]:
    by_query: dict[int, list[Serving]] = defaultdict(list)
    for serving in history.servings:
        by_query[serving.query_id].append(serving)
    problems = []
    for reply, serving in _answered(history, "quorum"):
        agree = {
            other.region
            for other in by_query[serving.query_id]
            if (other.release, other.hits) == (serving.release, serving.hits)
            and reply.query.asked_s <= other.at_s <= reply.at_s
        }
        if 2 * len(agree) <= len(history.regions):
            problems.append(
                f"{_name(serving)} is a quorum's, but only {sorted(agree)} of "
                f"{len(history.regions)} regions made it"
            )
    return problems


def named_releases_are_served_as_named(history: History) -> list[str]:
    return [
        f"{_name(serving)} was asked for release {reply.query.release}"
        for reply, serving in _answered(history, _RELEASE)
        if serving.release != reply.query.release
    ]


def answers_are_of_one_release(history: History) -> list[str]:
    """The hits are of the release that the answer names."""
    return [
        f"{_name(serving)} holds {serving.hits}"
        for serving in history.servings
        if not serving.hits.endswith(f"of release {serving.release}")
    ]


def only_what_came_into_force_serves(history: History) -> list[str]:
    """By the clock of some region: no clock is further ahead than half of the skew. A canary serves
    where the log gives it a share.
    """
    written_s = {write.path: write.at_s for write in history.writes}
    known = {turn.position: turn for turn in turns(history)}
    shared_s: dict[int, float] = {}
    for position, entry in holding(history):
        if entry["kind"] == "canary" and entry["percent"]:
            shared_s.setdefault(entry["release"], written_s[f"{LOG}{position:020}.json"])
    positions = {r.query.query_id: r.query.token_position for r in history.replies}
    problems = []
    for serving in history.servings:
        if serving.level == _RELEASE or serving.canary or not serving.position:
            by = [t.came_s for t in known.values() if t.release == serving.release]
            began_s = min([*by, shared_s.get(serving.release, float("inf"))])
        else:
            turn = known.get(serving.position)
            if turn is None or turn.release != serving.release:
                problems.append(f"{_name(serving)} is by no switch to it")
                continue
            # The session's token proves that the moment came to somebody's clock.
            proven = positions.get(serving.query_id) == serving.position
            began_s = written_s[f"{LOG}{turn.position:020}.json"] if proven else turn.came_s
        if serving.at_s < began_s - SKEW_MAX_MS / 2000 - _ROUNDING_MS / 1000:
            problems.append(f"{_name(serving)} serves {began_s - serving.at_s:.3f} s too early")
    return problems


def only_what_is_loaded_serves(history: History) -> list[str]:
    return [
        f"{_name(serving)} is by a release that the region has not loaded"
        for serving in history.servings
        if not serving.is_held
    ]


def nothing_is_forwarded_twice(history: History) -> list[str]:
    return [
        f"query {hop.query_id} came to {hop.region} by way of {hop.chain}"
        for hop in history.hops
        if len(hop.chain) > 1 or hop.region in hop.chain
    ]


def deadlines_shrink_on_the_way(history: History) -> list[str]:
    first_s: dict[int, float] = {}
    timeouts_s = {reply.query.query_id: reply.query.timeout_s for reply in history.replies}
    problems = []
    for hop in history.hops:
        if not hop.chain:
            first_s.setdefault(hop.query_id, hop.at_s)
        elif hop.query_id in timeouts_s:
            spent_s = hop.sent_s - first_s[hop.query_id]
            if hop.remaining_s > timeouts_s[hop.query_id] - spent_s + _ROUNDING_S:
                problems.append(
                    f"query {hop.query_id} has {hop.remaining_s:.3f} s in {hop.region}, "
                    f"{spent_s:.3f} s after it came with {timeouts_s[hop.query_id]} s"
                )
    return problems


def eventual_is_served_where_it_can_be(history: History) -> list[str]:
    return [
        f"query {refusal.query_id} is refused in {refusal.region} at {refusal.at_s:.3f}, "
        f"which could have served: {refusal.reason}"
        for refusal in history.refusals
        if refusal.level == "eventual" and refusal.could_serve
    ]


def honest_requests_are_not_called_wrong(history: History) -> list[str]:
    """Clients here send no token and no bound that is not right."""
    return [
        f"query {reply.query.query_id} is said to be wrong: {reply.reason}"
        for reply in history.replies
        if reply.error == "InvalidArgument" and reply.query.level != _RELEASE
    ]


def in_the_quiet_all_are_answered_alike(history: History) -> list[str]:
    if not history.quiet_from_s:
        return []
    problems = []
    served = set()
    for reply in history.replies:
        if reply.query.asked_s < history.quiet_from_s:
            continue
        if reply.serving is None and reply.query.level != _RELEASE:
            problems.append(
                f"in the quiet {reply.query.region} does not answer {reply.query.level}: "
                f"{reply.error} {reply.reason}"
            )
        elif reply.serving is not None and reply.query.level in ("strong", "quorum"):
            served.add((reply.serving.release, reply.serving.position))
    if len(served) > 1:
        problems.append(f"in the quiet the regions differ: {sorted(served)}")
    return problems


def _name(serving: Serving) -> str:
    return (
        f"the answer to query {serving.query_id} at {serving.at_s:.3f} by {serving.region} "
        f"(release {serving.release} at {serving.position})"
    )
