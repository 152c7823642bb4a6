"""The work for every request before and after its route: trace id, key, admission, metrics, and an
answer for whatever the route raises. Plain ASGI, around the FastAPI application.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.clock import Clock
from cluster.errors import NotFound, Unauthenticated
from cluster.logs.context import log_scope
from deployments.http.body import header_value, header_values
from deployments.http.errors import NO_ROUTE, ClientGone, error_response, log_failure
from deployments.http.routes import ANSWER_ROUTES, REGION_ROUTES, KnownRoutes
from deployments.http.settings import HttpSettings
from deployments.http.slots import Slots
from deployments.http.streams.reply_flow import PacedReply, ReplyRoom, UnreadLimits
from deployments.metering.metrics import HttpMetrics

OPEN_ROUTES = frozenset({"/healthz", "/readyz"})
"""Answered without a key."""
EXEMPT_ROUTES = OPEN_ROUTES | {"/metrics"}
"""Answered even when all slots are taken: then they matter most."""
UNKNOWN_ROUTE = "unknown"
CLIENT_GONE_STATUS = 499
TRACE_HEADER = b"x-trace-id"
REQUEST_HEADER = b"x-request-id"
"""The name under which OpenAI's clients look for the trace id, and say an id of their own."""

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_REQUEST_ID = re.compile(
    rb"[0-9a-f]{32}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE
)


def trace_id_of(traceparent: bytes, request_id: bytes = b"") -> str:
    """The trace id of a valid W3C `traceparent` header; otherwise the request id, if it is a UUID;
    otherwise a new one: 32 hex digits.
    """
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if found:
        version, trace_id, parent_id, rest = found.groups()
        known_form = version != b"ff" and not (version == b"00" and rest)
        if known_form and trace_id.strip(b"0") and parent_id.strip(b"0"):
            return trace_id.decode()
    if request_id and _REQUEST_ID.fullmatch(request_id):
        digits = request_id.decode().replace("-", "").lower()
        if digits.strip("0"):
            return digits
    return os.urandom(16).hex()


class BearerKeys:
    """Compares presented keys in constant time; holds digests, not keys."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    def check(self, authorization: list[bytes]) -> None:
        """Takes all Authorization headers of a request; raises Unauthenticated."""
        if not self._digests:
            return
        scheme, _, key = authorization[0].partition(b" ") if authorization else (b"", b"", b"")
        presented = hashlib.sha256(key.strip()).digest()
        known = False
        for digest in self._digests:
            # No early exit: the time must not tell which key it was, or how near a guess came.
            known |= hmac.compare_digest(digest, presented)
        if not known or scheme.lower() != b"bearer" or len(authorization) != 1:
            raise Unauthenticated("send a valid key in the header `Authorization: Bearer <key>`")


class HttpEdge:
    """Guarantees for every request: at most `in_flight_max` at once, until their replies have left;
    one typed answer, `x-trace-id` on it, and one count in the metrics. An exception after the first
    byte is raised on, so that the server breaks the connection instead of ending it as if all were
    well.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: HttpSettings,
        answer_slots: Slots,
        metrics: HttpMetrics,
        clock: Clock,
        known_routes: KnownRoutes,
        direct: Mapping[tuple[str, str], ASGIApp],
    ) -> None:
        """`answer_slots`: what routes that answer take, one for each request. `direct`: what
        answers a method and route in place of `app`, for want of time.
        """
        self._app = app
        self._direct = direct
        keys, region_keys = settings.api_keys, settings.region_keys
        self._keys = BearerKeys(keys + region_keys if keys else ())
        self._region_keys = BearerKeys(region_keys or keys)
        self._slots = Slots(settings.in_flight_max, "this gateway is full")
        self._answer_slots = answer_slots
        self._unread = UnreadLimits(
            room=ReplyRoom(settings.replies_bytes_max), timeout_s=settings.unread_timeout_s
        )
        metrics.in_flight.set_function(lambda: self.in_flight)
        self._metrics = metrics
        self._clock = clock
        self._known_routes = known_routes

    @property
    def in_flight(self) -> int:
        """Requests that are worked on, without those of the exempt routes."""
        return self._slots.taken

    @property
    def unread_bytes(self) -> int:
        """Bytes of the long replies whose clients have not read them to the end."""
        return self._unread.room.taken_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = self._clock.monotonic_s()
        trace_id = trace_id_of(
            header_value(scope, b"traceparent"), header_value(scope, REQUEST_HEADER)
        )
        # A copy: what a server puts there may be shared by all requests.
        state = {**scope.get("state", {}), "trace_id": trace_id, "started_s": started_s}
        # A server sends no body in reply to HEAD, whatever it is given.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        scope = {**scope, "state": state, "method": method}
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        route = self._known_routes.route_of(path) or UNKNOWN_ROUTE
        status: int | None = None

        async def send_traced(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                value = trace_id.encode()
                headers = [(TRACE_HEADER, value), (REQUEST_HEADER, value)]
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        reply = PacedReply(send_traced, scope, self._unread)
        with log_scope(trace_id=trace_id):
            try:
                await self._answer(route, scope, receive, reply)
            except ClientGone:
                if status is None:
                    await Response(status_code=CLIENT_GONE_STATUS)(scope, receive, send_traced)
            except Exception as error:
                log_failure(error)
                if status is not None:
                    raise
                await error_response(error, trace_id)(scope, receive, send_traced)
            finally:
                reply.close()
                took_s = self._clock.monotonic_s() - started_s
                self._metrics.request_finished(route, status or CLIENT_GONE_STATUS, took_s)

    async def _answer(self, route: str, scope: Scope, receive: Receive, send: Send) -> None:
        if route not in OPEN_ROUTES:
            keys = self._region_keys if route in REGION_ROUTES else self._keys
            keys.check(header_values(scope, b"authorization"))
        if scope["path"].endswith("\n"):
            # The router reads it as the path without the line break, and so would let it in to a
            # route that has keys and slots of its own.
            raise NotFound(NO_ROUTE)
        if route in EXEMPT_ROUTES:
            await self._app(scope, receive, send)
            return
        app = self._direct.get((scope["method"], route), self._app)
        with self._slots.hold():
            if route in ANSWER_ROUTES:
                with self._answer_slots.hold():
                    await app(scope, receive, send)
            else:
                await app(scope, receive, send)
