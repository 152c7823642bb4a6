"""Vectors as JSON numbers: how Raygion, FastAPI and Ray Serve are asked here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from bench.load.client import HttpWire, Wire, json_request
from bench.peers.servers.served import body_of
from cluster.arrays import Float32Array


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonDialect:
    """One query is `vector`, several are `vectors`; the reply has `hits` or `results`."""

    path: str
    fields: Mapping[str, object] = field(default_factory=dict)
    effort_field: str | None = None

    def wire(self, ef_search: int) -> Wire:
        return HttpWire()

    def request(self, vectors: Float32Array, ef_search: int) -> bytes:
        asked: dict[str, object] = dict(self.fields)
        if len(vectors) == 1:
            asked["vector"] = vectors[0]
        else:
            asked["vectors"] = vectors
        if self.effort_field is not None:
            asked[self.effort_field] = ef_search
        return json_request("POST", self.path, asked)

    def rows(self, reply: bytes, num_queries: int) -> list[list[int]]:
        answer = orjson.loads(body_of(reply))
        results = answer.get("results", [answer])
        return [[int(hit["id"]) for hit in result["hits"]] for result in results]
