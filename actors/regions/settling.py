"""Brings a region so far that it can answer a request as demanded, or finds that it cannot.

`cluster.serving.consistency` decides; this module only carries the decisions out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Protocol, TypeVar, assert_never

from cluster.clock import Clock, Deadline
from cluster.errors import DeadlineExceeded, NotFound, NotYet, RaygionError, Unavailable
from cluster.query.read_consistency import ConsistencyLevel
from cluster.query.request import Request
from cluster.query.terms import BASE
from cluster.serving.consistency import RegionKnowledge, decide
from cluster.serving.decisions import RELEASE_LOG, Elsewhere, Log, Reading, Refresh, Serve, Wait
from cluster.serving.documents import DocumentsKnowledge, LiveDocuments

RequestT = TypeVar("RequestT", bound=Request)
Sleep = Callable[[float], Awaitable[None]]

_STEPS_MAX = 16
"""Steps of deciding about one request: it reads each log once, and each wait is for another switch.
"""


class KnowledgeSource(Protocol):
    """The knowledge of the region, which `actors.query.view_follower.ViewFollower` implements."""

    @property
    def knowledge(self) -> RegionKnowledge: ...

    async def refresh(self) -> None: ...


class DocumentsSource(Protocol):
    """The live documents that this process has."""

    @property
    def known(self) -> Mapping[str, DocumentsKnowledge]:
        """By corpus; a corpus without a log has none. What is known never goes back."""
        ...

    async def refresh(self, corpus: str) -> None:
        """Returns when `known` holds all that a reading of all regions' logs of the corpus found,
        which began after this call. Raises Unavailable when one of them cannot be read to its end
        within seconds, NotFound for a corpus that the region does not hold.
        """
        ...


class NotHere(Exception):
    """This region cannot; another one may. Never leaves the serving of requests."""

    def __init__(self, error: RaygionError) -> None:
        super().__init__(error)
        self.error = error


class Settling:
    """Settles what serves each request."""

    def __init__(
        self,
        *,
        views: KnowledgeSource,
        documents: DocumentsSource | None,
        clock: Clock,
        sleep: Sleep,
    ) -> None:
        """`documents` of None: there are none but those of the releases."""
        self._views = views
        self._documents = documents
        self._clock = clock
        self._sleep = sleep

    async def settled(
        self, request: RequestT, deadline: Deadline, *, live: bool = True
    ) -> RequestT:
        """The request as the engine can serve it here: what it demands is met. `live`: whether
        documents are searched for it. Raises NotHere.
        """
        if request.consistency.level is ConsistencyLevel.EVENTUAL and request.release is None:
            return _in_time(request, deadline)
        readings: dict[Log, Reading] = {}
        for _ in range(_STEPS_MAX):
            decision = decide(
                request.consistency,
                release=request.release,
                documents=self._live_documents(request) if live else None,
                knowledge=self._views.knowledge,
                readings=readings,
                now_ms=self._clock.wall_ms(),
            )
            match decision:
                case Serve():
                    return replace(
                        _in_time(request, deadline),
                        release=decision.release if decision.exactly else request.release,
                        not_before=decision.position,
                        documents_floor=decision.documents_floor,
                    )
                case Refresh():
                    found = await asyncio.gather(
                        *(self._read(log, deadline) for log in decision.logs)
                    )
                    readings.update(zip(decision.logs, found, strict=True))
                case Wait():
                    await self._wait(decision.until_ms, deadline)
                case Elsewhere():
                    raise NotHere(decision.error)
                case _:
                    assert_never(decision)
        raise NotYet("one release follows the other too quickly; try again")

    def _live_documents(self, request: Request) -> LiveDocuments | None:
        if self._documents is None or request.documents == BASE:
            return None
        return LiveDocuments(corpus=request.corpus, known=self._documents.known)

    async def _read(self, log: Log, deadline: Deadline) -> Reading:
        """Half of the time is left for another region, if this one cannot."""
        try:
            async with asyncio.timeout(deadline.remaining_s() / 2):
                if log is RELEASE_LOG:
                    await self._views.refresh()
                elif self._documents is not None:
                    await self._documents.refresh(log)
        except (TimeoutError, Unavailable, NotFound):
            return Reading.FAILED
        return Reading.DONE

    async def _wait(self, until_ms: int, deadline: Deadline) -> None:
        wait_s = max(1, until_ms - self._clock.wall_ms()) / 1000.0
        if wait_s >= deadline.remaining_s():
            raise DeadlineExceeded("time ran out while waiting for a release to become current")
        await self._sleep(wait_s)


def _in_time(request: RequestT, deadline: Deadline) -> RequestT:
    """The engine counts from now on."""
    remaining_s = deadline.remaining_s()
    if request.timeout_s - remaining_s < 0.001:
        return request
    deadline.check("the request was on its way to the engine")
    return replace(request, timeout_s=remaining_s)
