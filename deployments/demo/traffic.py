"""Steady queries to several regions at once, and what their replies tell of a switch between
releases.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self

from cluster.clock import SYSTEM_CLOCK, Clock, wait_until
from cluster.errors import DeadlineExceeded, RaygionError
from deployments.clients.http_client import HttpRegion
from deployments.installation import Installation

Ask = Callable[[], dict[str, Any]]
"""One query to its end: the body of a success, or an error of `cluster.errors`."""

_WAIT_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The end of one query. Times are of this machine's clocks."""

    asked: str
    """Asker that sent the request."""
    asked_ms: float
    took_ms: float
    release: int = 0
    served_by: str = ""
    staleness_ms: float = 0.0
    ids: tuple[str, ...] = ()
    error: str = ""
    """Message of the error; empty when the query was answered."""

    @property
    def came_ms(self) -> float:
        return self.asked_ms + self.took_ms


class Traffic:
    """Asks from a thread for each asker, a moment's pause between two queries, until the block
    ends.
    """

    def __init__(
        self, asks: Mapping[str, Ask], *, pause_s: float = 0.05, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._clock = clock
        self._pause_s = pause_s
        self._over = threading.Event()
        self._replies: dict[str, list[Reply]] = {name: [] for name in asks}
        self._threads = [
            threading.Thread(target=self._ask, args=(name, ask), daemon=True)
            for name, ask in asks.items()
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def replies(self) -> list[Reply]:
        return [reply for replies in self._replies.values() for reply in list(replies)]

    @property
    def failed(self) -> list[Reply]:
        return [reply for reply in self.replies if reply.error]

    def of(self, name: str) -> list[Reply]:
        """The replies of one asker in order."""
        return list(self._replies[name])

    def latest(self, name: str) -> Reply:
        """The last success; before the first one, a reply of no release."""
        answered = (reply for reply in reversed(self._replies[name]) if not reply.error)
        return next(answered, Reply(asked=name, asked_ms=0.0, took_ms=0.0))

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
        """Raises DeadlineExceeded when the replies do not show it in time."""
        if not wait_until(condition, timeout_s, poll_s=_WAIT_S, clock=self._clock):
            raise DeadlineExceeded(f"waited {timeout_s:.0f} s for {what}")

    def wait_for_release(self, release: int, *names: str, timeout_s: float = 60.0) -> None:
        """Returns when the latest answer to each of these askers (by default all) is by it."""

        def has_come() -> bool:
            return all(self.latest(name).release == release for name in names or self._replies)

        self.wait_for(has_come, f"answers of release {release}", timeout_s)

    def wait_for_more(self, replies: int = 5, timeout_s: float = 60.0) -> None:
        """Returns when so many more replies have come to each asker."""
        wanted = {name: len(given) + replies for name, given in self._replies.items()}

        def has_come() -> bool:
            return all(len(self._replies[name]) >= number for name, number in wanted.items())

        self.wait_for(has_come, "replies", timeout_s)

    def switched_ms(self, name: str, release: int, since_ms: float) -> float | None:
        """Time of the asker's first reply by the release, of the requests sent since `since_ms`."""
        came = (r.came_ms for r in self.of(name) if r.release == release and r.asked_ms >= since_ms)
        return next(came, None)

    def _ask(self, name: str, ask: Ask) -> None:
        replies = self._replies[name]
        while not self._over.is_set():
            replies.append(self._one(name, ask))
            self._over.wait(self._pause_s)

    def _one(self, name: str, ask: Ask) -> Reply:
        asked_ms, started_s = float(self._clock.wall_ms()), self._clock.monotonic_s()

        def took_ms() -> float:
            return (self._clock.monotonic_s() - started_s) * 1000.0

        try:
            reply = ask()
        except RaygionError as error:
            return Reply(asked=name, asked_ms=asked_ms, took_ms=took_ms(), error=str(error))
        return Reply(
            asked=name,
            asked_ms=asked_ms,
            took_ms=took_ms(),
            release=reply["release"],
            served_by=reply["served_by"],
            staleness_ms=reply["staleness_ms"],
            ids=tuple(hit["id"] for hit in reply["hits"]),
        )


@contextmanager
def traffic_to(
    installations: Iterable[Installation],
    ask_of: Callable[[HttpRegion], Ask],
    *,
    pause_s: float = 0.05,
) -> Iterator[Traffic]:
    """Traffic to the endpoint of each of these regions, each asker under the region's name."""
    with ExitStack() as stack:
        asks = {i.region: ask_of(stack.enter_context(HttpRegion.of(i))) for i in installations}
        yield stack.enter_context(Traffic(asks, pause_s=pause_s))
