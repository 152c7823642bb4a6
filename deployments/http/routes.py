"""The paths of a region's HTTP interface that more than one module must know."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Route

from cluster.regions import wire as region_wire

SEARCH = region_wire.SEARCH
ANSWER = "/v1/answer"
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
DOCUMENTS = "/v1/documents"
DOCUMENT = "/v1/documents/{id:path}"
CHANGES = "/v1/corpora/{corpus}/changes"
REGION_ROUTES = frozenset(
    {region_wire.ANSWER, region_wire.GENERATE, region_wire.NUDGE, region_wire.REACHED}
)
"""Routes that only regions ask of each other."""
ANSWER_ROUTES = frozenset({ANSWER, CHAT, COMPLETIONS, region_wire.ANSWER, region_wire.GENERATE})
"""Routes that keep the language models busy, and have a bound of their own."""


class KnownRoutes:
    """The routes of an application, by which its metrics tell requests apart."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        known = [route for route in routes if isinstance(route, Route)]
        self._fixed = frozenset(route.path for route in known if not route.param_convertors)
        self._others = [
            (route.path_regex, _without_convertors(route.path))
            for route in known
            if route.param_convertors
        ]

    def route_of(self, path: str) -> str | None:
        """The route of a path, with the names of what differs from request to request; None for one
        of no route.
        """
        if path in self._fixed:
            return path
        return next((route for regex, route in self._others if regex.match(path)), None)


def _without_convertors(path: str) -> str:
    return path.replace(":path}", "}")
