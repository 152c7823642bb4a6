"""Clients: they ask at every level, carry their session along, and move between regions."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.errors import RaygionError
from cluster.query.answers import AnswerRequest, AnswerResult
from cluster.query.read_consistency import read_consistency_of
from cluster.query.search import SearchRequest, SearchResult
from tests.simulation.clocks.sim_time import Process, Signal
from tests.simulation.judging.history import Query, Reply, Serving
from tests.simulation.world.gateways import SERVING, Asked, Outcome, position_of

if TYPE_CHECKING:
    from tests.simulation.harness import World

LEVELS = ("eventual", "session", "bounded", "quorum", "strong", "release")
_SHARES = (25, 30, 15, 8, 17, 5)
_LINK_S = (0.001, 0.02)


class Client(Process):
    """`only`: asks each level once in this region, with time enough, and ends."""

    def __init__(self, world: World, name: str, *, only: str | None = None) -> None:
        super().__init__(world.scheduler, name)
        self._world = world
        self._rng = random.Random(f"{world.seed}/{name}")
        self._only = only
        self._home = only or self._rng.choice(list(world.regions))
        self._session: str | None = None
        self._seen: int | None = None
        """The release of the last answer."""

    def body(self) -> None:
        if self._only is not None:
            for level in LEVELS:
                for answer in (False, True):
                    self._ask(level, self._only, 5.0, answer=answer)
            return
        while self._world.noisy:
            self.sleep(self._rng.uniform(0.05, 1.2))
            if self._rng.random() < 0.3:
                self._home = self._rng.choice(list(self._world.regions))
            moment_s = self._world.next_switch_s(within_s=1.5)
            if moment_s is not None and self._rng.random() < 0.5:
                self._ask_around_a_switch(moment_s)
            level = self._rng.choices(LEVELS, _SHARES)[0]
            self._ask(level, self._home, self._rng.choice([0.3, 1.0, 3.0]))

    def _ask_around_a_switch(self, moment_s: float) -> None:
        """Where clocks matter most: where the moment comes first, and then by the store, where the
        log is read before the moment has come by a clock that is behind.
        """
        regions = list(self._world.regions.values())
        first = max(regions, key=lambda region: region.clock.off_ms)
        then = self._rng.choice([self._rng.choice(regions), self._world.nearest_to_store()])
        moment_s += self._rng.uniform(0.0, 0.01) - first.clock.off_ms / 1000
        self.sleep(max(0.0, moment_s - self.scheduler.now_s))
        self._ask("eventual", first.name, 1.0)
        self._ask(
            self._rng.choice(["strong", "strong", "session", "quorum", "release"]), then.name, 1.0
        )

    def _ask(
        self, level: str, region: str, timeout_s: float, *, answer: bool | None = None
    ) -> None:
        session, named, bound_ms = self._session, None, None
        if level == "release":
            if self._seen is None:
                return
            named = max(1, self._seen - self._rng.choice([0, 0, 1]))
        elif level == "bounded":
            bound_ms = 5000 if self._only else self._rng.choice([300, 1000, 3000])
        if level == "eventual" or (level != "session" and self._rng.random() < 0.3):
            session = None
        if level == "session" and session is None:
            level = "eventual"
        query = Query(
            query_id=self._world.next_query(),
            asked_s=self.scheduler.now_s,
            region=region,
            level=level,
            answer=self._rng.random() < 0.4 if answer is None else answer,
            timeout_s=timeout_s,
            token_position=None if session is None else position_of(session),
            max_staleness_ms=bound_ms,
            release=named,
            user=self.name if self._rng.random() < 0.7 else "",
        )
        self._world.levels[query.query_id] = level
        self._record(query, self._outcome(query, session))

    def _outcome(self, query: Query, session: str | None) -> Outcome | None:
        request = _request(query, session)
        told: list[Outcome] = []
        came = Signal(self.scheduler)

        def take(outcome: Outcome) -> None:
            told.append(outcome)
            came.give()

        def back(outcome: Outcome) -> None:
            self.scheduler.after(self._rng.uniform(*_LINK_S), lambda: take(outcome))

        def arrive() -> None:
            gateway = self._world.regions[query.region].gateway
            if gateway is not None:
                gateway.take_up(request, query.asked_s, back)

        self.scheduler.after(self._rng.uniform(*_LINK_S), arrive)
        came.wait(self, query.timeout_s + 0.2)
        return told[0] if told else None

    def _record(self, query: Query, outcome: Outcome | None) -> None:
        serving, error = None, ""
        if isinstance(outcome, SearchResult | AnswerResult):
            serving = self._served(outcome)
            self._session, self._seen = outcome.session or None, outcome.release
        elif isinstance(outcome, RaygionError):
            error = type(outcome).__name__
        self._world.history.replies.append(
            Reply(
                query=query,
                at_s=self.scheduler.now_s,
                serving=serving,
                error=error if outcome is not None else "lost",
                reason=str(outcome) if error else "",
            )
        )

    def _served(self, result: SearchResult | AnswerResult) -> Serving:
        """The serving that the result comes from, with what the result says of it."""
        found = isinstance(result, SearchResult)
        number = int(result.timings_ms[SERVING]) if found else int(result.answer)
        return replace(
            self._world.history.servings[number],
            region=result.served_by,
            release=result.release,
            position=position_of(result.session),
            staleness_ms=result.staleness_ms,
            hits=result.hits[0].id if found else result.citations[0].id,
        )


def _request(query: Query, session: str | None) -> Asked:
    level = None if query.level == "release" else query.level
    search = SearchRequest(
        queries=("what?",),
        timeout_s=query.timeout_s,
        release=query.release,
        user=query.user,
        trace_id=str(query.query_id),
        consistency=read_consistency_of(
            level, session, query.max_staleness_ms, release=query.release
        ),
    )
    if not query.answer:
        return search
    return AnswerRequest(
        question="what?",
        timeout_s=search.timeout_s,
        release=search.release,
        user=search.user,
        trace_id=search.trace_id,
        consistency=search.consistency,
    )
