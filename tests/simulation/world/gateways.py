"""A region's gateway in virtual time: the real service with its rules of consistency, forwarding
and quorums, over an engine that finds nothing but says which release it would have searched.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from actors.query.shared_readings import SharedReadings
from actors.regions.forwarding_service import ForwardingService
from cluster.clock import Deadline
from cluster.errors import DeadlineExceeded, RaygionError, Unavailable
from cluster.query.answers import (
    AnswerEvent,
    AnswerRequest,
    AnswerResult,
    Citation,
    Token,
    Usage,
    last_event,
)
from cluster.query.search import Hit, SearchRequest, SearchResult
from cluster.query.session import SessionToken
from cluster.serving.consistency import PinnedRelease, RegionKnowledge
from cluster.serving.view import Pulse
from tests.simulation.judging.history import Hop, Refusal, Serving
from tests.simulation.world.coordinators import Incarnation
from tests.simulation.world.regions import SKEW_MAX_MS, Region

if TYPE_CHECKING:
    from tests.simulation.harness import World

PULSE_EVERY_S = 0.5
REFRESH_TIMEOUT_S = 3.0
SERVING = "serving"
"""Among a result's timings: which one of the history's servings it is."""
Asked = SearchRequest | AnswerRequest
Outcome = SearchResult | AnswerResult | RaygionError


class Gateway:
    """One life of a region's gateway."""

    def __init__(self, world: World, region: Region) -> None:
        self.world = world
        self.region = region
        self.rng = random.Random(f"{world.seed}/{region.name}/gateway/{world.scheduler.now_s}")
        self.views = Views(self)
        self._is_dead = False
        self._tasks: set[asyncio.Task[SearchResult | AnswerResult]] = set()
        self._service = ForwardingService(
            region=region.name,
            engine=Engine(self),
            views=self.views,
            peers=Peers(self),
            clock=region.clock,
            quorum_pause_s=SKEW_MAX_MS / 1000.0,
        )

    def die(self) -> None:
        """What it was at work on is lost; whoever waits for it hears nothing."""
        self._is_dead = True
        self.views.stop()
        for task in self._tasks:
            task.cancel()

    def take_up(self, request: Asked, sent_s: float, reply: Callable[[Outcome], None]) -> None:
        number, *chain = request.trace_id.split("/")
        self.world.history.hops.append(
            Hop(
                at_s=self.world.scheduler.now_s,
                query_id=int(number),
                region=self.region.name,
                chain=tuple(chain),
                sent_s=sent_s,
                remaining_s=request.timeout_s,
            )
        )
        could_serve = self._could_serve()
        task = asyncio.ensure_future(self._result(request))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._end(request, done, reply, could_serve))

    async def _result(self, request: Asked) -> SearchResult | AnswerResult:
        if isinstance(request, SearchRequest):
            return await self._service.search(request)
        return await last_event(self._service.answer_events(request))

    def _end(
        self,
        request: Asked,
        task: asyncio.Task[SearchResult | AnswerResult],
        reply: Callable[[Outcome], None],
        could_serve: bool,
    ) -> None:
        self._tasks.discard(task)
        if self._is_dead or task.cancelled():
            return
        error = task.exception()
        if error is None:
            reply(task.result())
        elif isinstance(error, RaygionError):
            self._note_refusal(request, error, could_serve and self._could_serve())
            reply(error)
        else:
            raise error

    def _note_refusal(self, request: Asked, error: RaygionError, could_serve: bool) -> None:
        number = int(request.trace_id.split("/")[0])
        self.world.history.refusals.append(
            Refusal(
                at_s=self.world.scheduler.now_s,
                query_id=number,
                region=self.region.name,
                level=self.world.levels[number],
                reason=f"{type(error).__name__}: {error}",
                could_serve=could_serve,
            )
        )

    def _could_serve(self) -> bool:
        """Whether its region holds what it has been serving, or what has come into force since."""
        return self.views.has_served and self.world.could_serve(self.region)

    def current(self) -> int | None:
        """What it serves those who ask for nothing special."""
        try:
            switch = self.views.knowledge.view.in_force(self.region.clock.wall_ms())
        except Unavailable:
            return None
        return None if switch is None else switch.release


class Views:
    """What the gateway knows of its region: as `actors.query.view_follower`, from its
    coordinator.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._region = gateway.region
        self._scheduler = gateway.world.scheduler
        self._rng = gateway.rng
        self._known: RegionKnowledge | None = None
        self._pulse = Pulse()
        self.has_served = False
        self._followed: Incarnation | None = None
        self._polled: Incarnation | None = None
        self._is_stopped = False
        self._readings = SharedReadings(self._read_log, timeout_s=REFRESH_TIMEOUT_S)
        if self._region.coordinator is not None:
            self.hear_of_view(self._region.coordinator)
        self._feel()

    @property
    def knowledge(self) -> RegionKnowledge:
        if self._known is None:
            raise Unavailable("this region is still starting; try again shortly")
        return self._known

    def stop(self) -> None:
        self._is_stopped = True

    def hear_of_view(self, publisher: Incarnation) -> None:
        if self._polled is publisher:
            return
        if publisher is self._followed:
            delay_s = self._rng.uniform(0.001, 0.02)
        else:
            # Its poll has failed, and waits before it tries the next coordinator.
            delay_s = self._rng.uniform(0.02, 1.5)
        self._polled = publisher
        self._scheduler.after(delay_s, lambda: self._take_view(publisher))

    def _take_view(self, publisher: Incarnation) -> None:
        """A poll brings what is there when it ends."""
        if publisher is not self._polled:
            return
        self._polled = None
        if self._is_stopped or publisher.is_gone:
            return
        self._followed = publisher
        if self._known is None:
            self._known = RegionKnowledge(publisher.view, skew_max_ms=SKEW_MAX_MS).with_pulse(
                self._pulse
            )
        else:
            self._known = self._known.with_view(publisher.view)
        self.has_served = self.has_served or self._gateway.current() is not None

    def _feel(self) -> None:
        if self._is_stopped:
            return
        named = self._region.coordinator
        if named is not None and not named.is_gone:
            pulse = named.pulse
            slow = self._gateway.world.noisy and self._rng.random() < 0.05
            delay_s = self._rng.uniform(0.2, 1.5) if slow else 0.003
            self._scheduler.after(delay_s, lambda: self._take_pulse(pulse))
        self._scheduler.after(self._rng.uniform(0.95, 1.05) * PULSE_EVERY_S, self._feel)

    def _take_pulse(self, pulse: Pulse) -> None:
        if self._known is None:
            self._pulse = pulse
        else:
            self._known = self._known.with_pulse(pulse)

    async def refresh(self) -> None:
        await self._readings.fresh()

    async def _read_log(self) -> None:
        named = self._region.coordinator
        if named is None or named.is_gone:
            raise Unavailable("the region has no coordinator")
        self._take_pulse(await named.refresh())


class Engine:
    """Pins each request as `actors.query.engine` does, and takes a while over it."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._region = gateway.region
        self._world = gateway.world

    async def search(self, request: SearchRequest) -> SearchResult:
        pinned, number = self._pin(request)
        deadline = Deadline.after(request.timeout_s, self._region.clock)
        await self._take_a_while()
        deadline.check("the shards were searched")
        return SearchResult(
            results=((Hit(id=self._hits(number), score=1.0, text="", metadata={}),),),
            provenance=pinned.provenance(region=self._region.name, trace_id=request.trace_id),
            took_ms=0.0,
            timings_ms={SERVING: float(number)},
        )

    async def embedded(self, request: SearchRequest) -> SearchRequest:
        return request

    async def answer_events(self, request: AnswerRequest) -> AsyncGenerator[AnswerEvent, None]:
        pinned, number = self._pin(request)
        deadline = Deadline.after(request.timeout_s, self._region.clock)
        await self._take_a_while()
        deadline.check("the shards were searched")
        yield Token(text="what")
        await self._take_a_while()
        deadline.check("the answer was written")
        yield AnswerResult(
            answer=str(number),
            citations=(Citation(id=self._hits(number), text="", score=1.0),),
            provenance=pinned.provenance(region=self._region.name, trace_id=request.trace_id),
            usage=Usage(prompt_tokens=0, completion_tokens=1),
            finish_reason="stop",
            model="a model",
            took_ms=0.0,
        )

    def _pin(self, request: Asked) -> tuple[PinnedRelease, int]:
        """What serves the request, and which one of the history's servings that is."""
        known, now_ms = self._gateway.views.knowledge, self._region.clock.wall_ms()
        pinned = known.pin(
            request.release,
            now_ms,
            user=request.user,
            lot=self._gateway.rng.random(),
            not_before=request.not_before,
        )
        release = pinned.release.number
        in_force = known.view.in_force(now_ms, request.not_before)
        query_id = int(request.trace_id.split("/")[0])
        level = self._world.levels[query_id]
        agreed_on = level == "quorum" and isinstance(request, AnswerRequest)
        servings = self._world.history.servings
        servings.append(
            Serving(
                at_s=self._world.scheduler.now_s,
                query_id=query_id,
                region=self._region.name,
                release=release,
                position=position_of(pinned.session),
                staleness_ms=pinned.staleness_ms,
                hits=self._world.hits(self._region, release),
                level="release" if agreed_on else level,
                canary=in_force is None or in_force.release != release,
                is_held=release in self._region.held,
            )
        )
        return pinned, len(servings) - 1

    def _hits(self, number: int) -> str:
        return self._world.history.servings[number].hits

    async def _take_a_while(self) -> None:
        await asyncio.sleep(self._gateway.rng.uniform(0.001, 0.02))


class Peers:
    """The other regions, over the network."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._world = gateway.world
        self._own = gateway.region.name

    def preferred(self, request: Asked) -> str:
        return self._world.preferred(self._own, request.user)

    def candidates(self, request: Asked) -> tuple[str, ...]:
        return self._world.network.nearest(self._own, tuple(self._world.regions))

    def holders(self, request: SearchRequest) -> tuple[str, ...]:
        return (self._own, *self.candidates(request))

    async def search(self, region: str, request: SearchRequest, deadline: Deadline) -> SearchResult:
        found = await self._asked(region, request, deadline)
        assert isinstance(found, SearchResult)
        return found

    async def answer_events(
        self, region: str, request: AnswerRequest, deadline: Deadline
    ) -> AsyncGenerator[AnswerEvent, None]:
        answer = await self._asked(region, request, deadline)
        assert isinstance(answer, AnswerResult)
        yield answer

    async def _asked(
        self, region: str, request: Asked, deadline: Deadline
    ) -> SearchResult | AnswerResult:
        remaining_s = deadline.remaining_s()
        sent = replace(
            request,
            forwarded_by=self._own,
            timeout_s=remaining_s,
            trace_id=f"{request.trace_id}/{self._own}",
        )
        came: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._world.ask_region(self._own, region, sent, lambda o: came.done() or came.set_result(o))
        try:
            async with asyncio.timeout(remaining_s):
                outcome = await came
        except TimeoutError as error:
            raise DeadlineExceeded(f"{region} did not answer in time") from error
        if isinstance(outcome, RaygionError):
            raise outcome
        return outcome


@functools.lru_cache(maxsize=1024)
def position_of(session: str) -> int:
    return SessionToken.decode(session).position if session else 0
