"""The command line's side of a region's HTTP interface, with the same typed errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import httpx
import orjson

from cluster.errors import RaygionError, Unavailable
from deployments.installation import Installation, NotRunning

_TIMEOUT = httpx.Timeout(660.0, connect=5.0)


class RemoteError(RaygionError):
    """An error that a region answered with; code and retryable are the region's own."""

    def __init__(self, message: str, code: str, retryable: bool) -> None:
        super().__init__(message)
        self.args = (message, code, retryable)
        # Class attributes elsewhere in the tree; here they are what the wire said.
        self.code = code  # type: ignore[misc]
        self.retryable = retryable  # type: ignore[misc]


class HttpRegion:
    """A connection to a region's endpoint. Raises RemoteError, NotRunning, Unavailable."""

    def __init__(self, url: str, api_key: str | None) -> None:
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._url = url
        self._client = httpx.Client(
            base_url=url, headers=headers, timeout=_TIMEOUT, trust_env=False
        )

    @classmethod
    def of(cls, installation: Installation) -> Self:
        keys = installation.region_settings.http.api_keys
        return cls(installation.url, keys[0].get_secret_value() if keys else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str) -> dict[str, Any]:
        return self._checked(self._sent("GET", path, None))

    def post(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        return self._checked(self._sent("POST", path, body))

    def stream(self, path: str, body: Mapping[str, object]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The server-sent events as (event, data). Raises what an `error` event says."""
        try:
            with self._client.stream("POST", path, content=orjson.dumps(body)) as response:
                if response.status_code != 200:
                    response.read()
                    self._checked(response)
                event = ""
                for line in response.iter_lines():
                    if line.startswith("event: "):
                        event = line.removeprefix("event: ")
                    elif line.startswith("data: "):
                        data = orjson.loads(line.removeprefix("data: "))
                        if event == "error":
                            raise _remote(data["error"])
                        yield event, data
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _sent(self, method: str, path: str, body: Mapping[str, object] | None) -> httpx.Response:
        content = None if body is None else orjson.dumps(body)
        try:
            return self._client.request(method, path, content=content)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _checked(self, response: httpx.Response) -> dict[str, Any]:
        try:
            parsed: dict[str, Any] = orjson.loads(response.content)
            if response.is_success:
                return parsed
            raise _remote(parsed["error"])
        except (orjson.JSONDecodeError, TypeError, KeyError) as error:
            raise Unavailable(
                f"{self._url} answered {response.status_code}, but not as a region does: "
                "is it starting, or another program?"
            ) from error

    def _unreachable(self, error: httpx.TransportError) -> Unavailable:
        if isinstance(error, httpx.ConnectError):
            return NotRunning(f"no region answers at {self._url}; start it with `raygion up`")
        return Unavailable(f"the region at {self._url} did not answer: {error}")


def _remote(error: Mapping[str, Any]) -> RemoteError:
    # The message names the field already.
    return RemoteError(error["message"], error["code"], error["retryable"])
