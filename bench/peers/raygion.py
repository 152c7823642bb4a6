"""Raygion: a region of the benchmark's own, with one corpus."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa

from bench.load.client import HttpWire, LoadFailed, LoadGenerator, Wire, http_request
from bench.peers.contract import System
from bench.peers.servers.json_dialect import JsonDialect
from bench.peers.servers.served import (
    Dialect,
    ServedSystem,
    Server,
    body_of,
    http_call,
    wait_until_settled,
)
from bench.peers.vector_sets import EF_CONSTRUCTION, HNSW_M, TOP_K, VectorSet
from bench.region import BenchRegion, StoredVectors, running_region
from cluster.arrays import Float32Array
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.shards.index_parameters import IndexKind, NamedIndex

_CORPUS = "vectors"
_GATEWAYS = 2
_PATH = "/v1/search"
_EFFORT_FIELD = "ef_search"
_FLOAT32 = "application/vnd.raygion.float32"
_ARROW = "application/vnd.apache.arrow.stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Float32Dialect:
    """Raw little-endian float32 there, an Arrow stream of (query, id, score) back."""

    effort_field: str | None

    def wire(self, ef_search: int) -> Wire:
        return HttpWire()

    def request(self, vectors: Float32Array, ef_search: int) -> bytes:
        path = f"{_PATH}?corpus={_CORPUS}&top_k={TOP_K}"
        if self.effort_field is not None:
            path += f"&{self.effort_field}={ef_search}"
        body = vectors.astype("<f4").tobytes()
        return http_request("POST", path, body, f"Content-Type: {_FLOAT32}", f"Accept: {_ARROW}")

    def rows(self, reply: bytes, num_queries: int) -> list[list[int]]:
        table = pa.ipc.open_stream(io.BytesIO(body_of(reply))).read_all()
        found: list[list[int]] = [[] for _ in range(num_queries)]
        for hit in table.to_pylist():
            found[hit["query"]].append(int(hit["id"]))
        return found


@contextmanager
def running(
    data: VectorSet,
    folder: Path,
    load: LoadGenerator,
    *,
    shards: int,
    replicas: int,
    kind: IndexKind = IndexKind.HNSW_SQ,
) -> Iterator[System]:
    """Needs a process of its own: what Ray Serve reads from the environment, it reads once."""
    index = NamedIndex(
        kind=kind,
        hnsw_m=HNSW_M,
        ef_construction=EF_CONSTRUCTION,
        ef_search=data.facts.ef_search,
    )
    settings = {_CORPUS: CorpusSettings(shards=shards, replicas=replicas, index=index)}
    with running_region(settings, gateways=_GATEWAYS) as region:
        vectors = np.ascontiguousarray(data.vectors)
        ids = [str(row) for row in range(len(vectors))]
        started_s = time.perf_counter()
        region.add_vectors(_CORPUS, StoredVectors(ids=ids, texts=ids, vectors=vectors))
        build_s = time.perf_counter() - started_s
        region.serve()
        query = data.queries[:1]
        wait_until_settled(region.port, _json(None).request(query, 0))
        takes_effort = _is_answered(region, _json(_EFFORT_FIELD), query)
        effort_field = _EFFORT_FIELD if takes_effort else None
        dialects: dict[str, Dialect] = {"JSON": _json(effort_field)}
        # What the replies of the other servers hold.
        dialects["JSON, ids and scores"] = _json(effort_field, include=[])
        binary = Float32Dialect(effort_field=effort_field)
        if _is_answered(region, binary, query):
            dialects["float32"] = binary
        yield ServedSystem(
            Server(
                title=f"raygion, {shards} shard{'s' if shards > 1 else ''} x {replicas}, {kind}",
                index=f"Faiss {kind}" + ("" if takes_effort else f", efSearch {index.ef_search}"),
                host=region.host,
                port=region.port,
                build_s=build_s,
                is_tuned=takes_effort,
                dialects=dialects,
                pids=region.pids,
            ),
            load,
        )


one_shard = partial(running, shards=1, replicas=1)
two_shards = partial(running, shards=2, replicas=1)
two_shards_float32 = partial(running, shards=2, replicas=1, kind=IndexKind.HNSW)
two_shards_twice = partial(running, shards=2, replicas=2)


def _json(effort_field: str | None, **options: object) -> JsonDialect:
    fields = {"corpus": _CORPUS, "top_k": TOP_K, **options}
    return JsonDialect(path=_PATH, fields=fields, effort_field=effort_field)


def _is_answered(region: BenchRegion, dialect: Dialect, query: Float32Array) -> bool:
    """True when this region can read such a request."""
    try:
        reply = http_call(region.port, dialect.request(query, TOP_K))
        dialect.rows(b"\r\n\r\n" + reply, 1)
    except (LoadFailed, pa.ArrowInvalid, orjson.JSONDecodeError):
        return False
    return True
