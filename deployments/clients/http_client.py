"""The command line's side of a region's HTTP interface, with the same typed errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from typing import Any, Self, TypeAlias

import httpx
import orjson

from cluster.errors import RaygionError, Unavailable
from cluster.regions.event_stream import EventParser
from cluster.regions.wire import parse_sent_error
from deployments.installation import Installation, NotRunning

_TIMEOUT_S = 660.0
_CONNECT_TIMEOUT_S = 5.0
Params: TypeAlias = Mapping[str, str]
NO_PARAMS: Params = {}


class HttpRegion:
    """A connection to a region's endpoint. Raises the errors of `cluster.errors` that the region
    answers with; NotRunning where none answers, Unavailable where something else does.
    """

    def __init__(
        self, url: str, api_key: str | None, *, connect_timeout_s: float = _CONNECT_TIMEOUT_S
    ) -> None:
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._url = url
        self._connect_timeout_s = connect_timeout_s
        self._client = httpx.Client(base_url=url, headers=headers, trust_env=False)

    @classmethod
    def of(cls, installation: Installation) -> Self:
        keys = installation.region_settings.http.api_keys
        return cls(installation.url, keys[0].get_secret_value() if keys else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def get(
        self, path: str, *, params: Params = NO_PARAMS, timeout_s: float = _TIMEOUT_S
    ) -> dict[str, Any]:
        return self._checked(self._sent("GET", path, None, timeout_s, params=params))

    def write_documents(
        self, body: Mapping[str, object], key: str, *, timeout_s: float = _TIMEOUT_S
    ) -> dict[str, Any]:
        """The reply to `PUT /v1/documents`, with the end of each document: also where none is
        written. `key`: the idempotency key of the request.
        """
        headers = {"Idempotency-Key": key}
        response = self._sent("PUT", "/v1/documents", body, timeout_s, headers=headers)
        with suppress(ValueError):
            reply: dict[str, Any] = orjson.loads(response.content)
            if "documents" in reply:
                return reply
        return self._checked(response)

    def post(
        self, path: str, body: Mapping[str, object], *, timeout_s: float = _TIMEOUT_S
    ) -> dict[str, Any]:
        """`timeout_s`: how long the region may say nothing."""
        return self._checked(self._sent("POST", path, body, timeout_s))

    def stream(
        self, path: str, body: Mapping[str, object], *, timeout_s: float = _TIMEOUT_S
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """The server-sent events as (event, data). Raises what an `error` event says."""
        asked = self._client.build_request("POST", path, content=orjson.dumps(body))
        for events in self._arriving(asked, timeout_s):
            yield from events

    def follow(
        self, path: str, *, params: Params, timeout_s: float
    ) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
        """The server-sent events of a `GET`, as they arrive together; none of them when the region
        only shows that it is there. Raises as `stream` does.
        """
        asked = self._client.build_request("GET", path, params=params)
        yield from self._arriving(asked, timeout_s)

    def _arriving(
        self, asked: httpx.Request, timeout_s: float
    ) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
        parser = EventParser()
        asked.extensions["timeout"] = self._timeout(timeout_s).as_dict()
        try:
            response = self._client.send(asked, stream=True)
            with closing(response):
                if response.status_code != 200:
                    response.read()
                    self._checked(response)
                for chunk in response.iter_bytes():
                    # One by one: what arrives together with an error still comes before it.
                    yield (_sent_event(*event) for event in parser.feed(chunk))
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def answers(self, *, timeout_s: float) -> bool:
        """True when a region answers there, be it with an error."""
        try:
            self._body_or_error(self._sent("GET", "/readyz", None, timeout_s))
        except Unavailable:
            return False
        return True

    def _sent(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        timeout_s: float,
        *,
        params: Params = NO_PARAMS,
        headers: Params = NO_PARAMS,
    ) -> httpx.Response:
        content = None if body is None else orjson.dumps(body)
        timeout = self._timeout(timeout_s)
        try:
            return self._client.request(
                method, path, content=content, params=params, headers=headers, timeout=timeout
            )
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _timeout(self, timeout_s: float) -> httpx.Timeout:
        return httpx.Timeout(timeout_s, connect=min(timeout_s, self._connect_timeout_s))

    def _checked(self, response: httpx.Response) -> dict[str, Any]:
        reply = self._body_or_error(response)
        if isinstance(reply, RaygionError):
            raise reply
        return reply

    def _body_or_error(self, response: httpx.Response) -> dict[str, Any] | RaygionError:
        """The reply, or the error that it tells. Raises Unavailable for what no region says."""
        try:
            if not response.is_success:
                return parse_sent_error(response.content, response.headers.get("retry-after"))
            parsed: dict[str, Any] = orjson.loads(response.content)
            return parsed
        except ValueError as error:
            raise Unavailable(
                f"{self._url} answered {response.status_code}, but not as a region does: "
                "is it starting, or another program?"
            ) from error

    def _unreachable(self, error: httpx.TransportError) -> Unavailable:
        if isinstance(error, httpx.ConnectError):
            return NotRunning(f"no region answers at {self._url}; start it with `raygion up`")
        return Unavailable(f"the region at {self._url} did not answer: {error}")


def _sent_event(event: str, data: bytes) -> tuple[str, dict[str, Any]]:
    if event == "error":
        raise parse_sent_error(data)
    return event, orjson.loads(data)
