"""The command line's side of a region's HTTP interface, with the same typed errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import httpx
import orjson

from cluster.errors import RaygionError, Unavailable
from cluster.regions.event_stream import EventParser
from cluster.regions.wire import parse_sent_error
from deployments.installation import Installation, NotRunning

_TIMEOUT_S = 660.0
_CONNECT_TIMEOUT_S = 5.0


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

    def get(self, path: str, *, timeout_s: float = _TIMEOUT_S) -> dict[str, Any]:
        return self._checked(self._sent("GET", path, None, timeout_s))

    def post(
        self, path: str, body: Mapping[str, object], *, timeout_s: float = _TIMEOUT_S
    ) -> dict[str, Any]:
        """`timeout_s`: how long the region may say nothing."""
        return self._checked(self._sent("POST", path, body, timeout_s))

    def stream(
        self, path: str, body: Mapping[str, object], *, timeout_s: float = _TIMEOUT_S
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """The server-sent events as (event, data). Raises what an `error` event says."""
        parser, timeout = EventParser(), self._timeout(timeout_s)
        try:
            with self._client.stream(
                "POST", path, content=orjson.dumps(body), timeout=timeout
            ) as response:
                if response.status_code != 200:
                    response.read()
                    self._checked(response)
                for chunk in response.iter_bytes():
                    for event, data in parser.feed(chunk):
                        if event == "error":
                            raise parse_sent_error(data)
                        yield event, orjson.loads(data)
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
        self, method: str, path: str, body: Mapping[str, object] | None, timeout_s: float
    ) -> httpx.Response:
        content = None if body is None else orjson.dumps(body)
        timeout = self._timeout(timeout_s)
        try:
            return self._client.request(method, path, content=content, timeout=timeout)
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
                return parse_sent_error(response.content)
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
