"""The paths of a region's HTTP interface that more than one module must know."""

from __future__ import annotations

from cluster.regions import wire as region_wire

SEARCH = region_wire.SEARCH
ANSWER = "/v1/answer"
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
REGION_ROUTES = frozenset(
    {region_wire.ANSWER, region_wire.GENERATE, region_wire.NUDGE, region_wire.REACHED}
)
"""Routes that only regions ask of each other."""
ANSWER_ROUTES = frozenset({ANSWER, CHAT, COMPLETIONS, region_wire.ANSWER, region_wire.GENERATE})
"""Routes that keep the language models busy, and have a bound of their own."""
