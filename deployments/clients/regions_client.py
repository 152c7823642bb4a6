"""Callers of several regions: the next region answers when one does not."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any, Self

from cluster.balance.verdicts import client_verdict
from cluster.clock import SYSTEM_CLOCK, Clock, Deadline, system_rng
from cluster.config import Settings
from cluster.errors import OWN_FAULTS, DeadlineExceeded, InvalidArgument, RaygionError, Unavailable
from cluster.query.caller import Caller, Location
from cluster.query.session import SessionToken
from cluster.regions.routing import RegionRouter
from deployments.clients.http_client import HttpRegion

_CONNECT_TIMEOUT_S = 1.0
_TIMEOUTS_MS = {"/v1/search": 5_000, "/v1/answer": 60_000}
"""Times that the interface grants to a request without `timeout_ms`."""
_PINNING = ("release", "consistency", "session", "max_staleness_ms")
"""Options that say which release may answer."""
_GRACE_S = 0.5
"""Time beyond a request's own that a region may take to say that the request's time is over."""


class RegionsClient:
    """Asks the regions of the settings in the order of their routing policy, each at most once and
    within the time of the request, until one answers. Not thread-safe.

    Answers never go back: the session token of each goes along with the next request, unless that
    says itself what may answer. Raises the error of the last region that was asked.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        location: Location | None = None,
        rng: random.Random | None = None,
        clock: Clock = SYSTEM_CLOCK,
        connect_timeout_s: float = _CONNECT_TIMEOUT_S,
    ) -> None:
        self._location = location
        self._connect_timeout_s = connect_timeout_s
        self._clock = clock
        self._router = RegionRouter(
            settings.region_map(), now_s=clock.monotonic_s, rng=rng or system_rng()
        )
        self._regions: dict[str, HttpRegion] = {}
        self.session = ""
        """The token of what was seen last; empty before the first answer."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for region in self._regions.values():
            region.close()

    def post(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """The reply of the first region that answers."""
        last_error: RaygionError | None = None
        for name, share in self._attempts(path, body):
            asked = self._asked(body, share)
            try:
                with self._router.watched(name, client_verdict):
                    reply = self._region(name).post(
                        path, asked, timeout_s=share.remaining_s() + _GRACE_S
                    )
            except RaygionError as error:
                last_error = _unless_final(error)
            else:
                self._saw(reply)
                return reply
        raise last_error or _too_late()

    def stream(self, path: str, body: Mapping[str, object]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The events of the first region that sends one. What breaks off after that is an error:
        the beginning has been read.
        """
        last_error: RaygionError | None = None
        for name, share in self._attempts(path, body):
            asked, begun = self._asked(body, share), False
            try:
                with self._router.watched(name, client_verdict):
                    timeout_s = share.remaining_s() + _GRACE_S
                    for event, data in self._region(name).stream(path, asked, timeout_s=timeout_s):
                        begun = True
                        self._saw(data)
                        yield event, data
                if begun:
                    return
                last_error = Unavailable(f"region {name!r} sent nothing")
            except RaygionError as error:
                if begun:
                    raise
                last_error = _unless_final(error)
        raise last_error or _too_late()

    def order(self, body: Mapping[str, object]) -> tuple[str, ...]:
        """The regions in the order in which a request with this body asks them now."""
        corpus, user = body.get("corpus"), body.get("user")
        return self._router.order(
            asked=None,
            caller=Caller(location=self._location, user=user if isinstance(user, str) else ""),
            corpus=self._router.residency.meant(corpus if isinstance(corpus, str) else None),
        )

    def _region(self, name: str) -> HttpRegion:
        """Connected at the first use: most callers never need a second region."""
        if name not in self._regions:
            endpoint = self._router.endpoints[name]
            self._regions[name] = HttpRegion(
                endpoint.url, endpoint.api_key, connect_timeout_s=self._connect_timeout_s
            )
        return self._regions[name]

    def _attempts(self, path: str, body: Mapping[str, object]) -> Iterator[tuple[str, Deadline]]:
        """The regions to ask, each with its share of the time that is left."""
        given_ms = body.get("timeout_ms")
        timeout_ms = given_ms if isinstance(given_ms, int) else _TIMEOUTS_MS[path]
        deadline = Deadline.after(timeout_ms / 1000.0, self._clock)
        order = self.order(body)
        for left, name in zip(range(len(order), 0, -1), order, strict=True):
            remaining_s = deadline.remaining_s()
            if remaining_s <= 0.0:
                return
            # One that hangs leaves the others their chance.
            share = remaining_s if left == 1 else remaining_s / 2
            yield name, Deadline.after(share, self._clock)

    def _asked(self, body: Mapping[str, object], share: Deadline) -> dict[str, object]:
        asked = {**body, "timeout_ms": max(1, int(share.remaining_s() * 1000))}
        if self.session and not any(key in body for key in _PINNING):
            asked["session"] = self.session
        return asked

    def _saw(self, reply: Mapping[str, Any]) -> None:
        self.session = _later(self.session, reply.get("session") or "")


def _unless_final(error: RaygionError) -> RaygionError:
    """The error, if another region may do better; else it is raised."""
    if error.retryable or error.code in OWN_FAULTS:
        return error
    raise error


def _later(kept: str, token: str) -> str:
    """The token of whoever has seen both: a region that lags behind may have answered."""
    try:
        earlier, new = SessionToken.decode(kept), SessionToken.decode(token)
    except InvalidArgument:
        return token or kept
    if earlier.store_id != new.store_id:
        return token
    later = earlier if new.position < earlier.position else new
    return later.joined(earlier.documents).joined(new.documents).encode()


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("time ran out before a region was asked")
