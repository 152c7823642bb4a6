"""The Chroma server, asked by raw HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import orjson

from bench.load.client import HttpWire, LoadGenerator, Wire, json_request
from bench.peers.children import PEERS_PYTHON, check_alive, child
from bench.peers.contract import NotMeasured, System
from bench.peers.servers.served import (
    LOOPBACK,
    ServedSystem,
    Server,
    body_of,
    free_port,
    http_call,
    is_listening,
    wait_for,
)
from bench.peers.vector_sets import EF_CONSTRUCTION, HNSW_M, TOP_K, VectorSet
from cluster.arrays import Float32Array

_COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"
_START_TIMEOUT_S = 60.0
_ROWS_EACH = 2000


@dataclass(frozen=True, slots=True)
class _Dialect:
    path: str

    def wire(self, ef_search: int) -> Wire:
        return HttpWire()

    def request(self, vectors: Float32Array, ef_search: int) -> bytes:
        asked = {"query_embeddings": vectors, "n_results": TOP_K, "include": ["distances"]}
        return json_request("POST", f"{self.path}/query", asked)

    def rows(self, reply: bytes, num_queries: int) -> list[list[int]]:
        return [[int(id) for id in ids] for ids in orjson.loads(body_of(reply))["ids"]]


class _Chroma:
    """A server that can be started anew on the same data."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.port = free_port()
        self._command: list[str | Path] = [program, "run", "--host", LOOPBACK]
        self._command += ["--port", str(self.port), "--path", folder / "data"]
        self._log = folder / "chroma.log"
        self._running = ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._running.close()

    def start(self) -> None:
        """Ends the one that runs."""
        self._running.close()
        env = {"ANONYMIZED_TELEMETRY": "False"}
        server = self._running.enter_context(child(self._command, log=self._log, env=env))
        self.pid = server.pid

        def is_ready() -> bool:
            check_alive(server, self._log)
            return is_listening(self.port)

        wait_for(is_ready, "Chroma", _START_TIMEOUT_S)


@contextmanager
def running(data: VectorSet, folder: Path, load: LoadGenerator) -> Iterator[System]:
    program = PEERS_PYTHON.with_name("chroma")
    if not program.exists():
        raise NotMeasured("it is not installed: make bench-peers")
    with _Chroma(program, folder) as chroma:
        started_s = time.perf_counter()
        path = _filled(chroma.port, data)

        def set_effort(ef_search: int) -> None:
            changed = {"new_configuration": {"hnsw": {"ef_search": ef_search}}}
            http_call(chroma.port, json_request("PUT", path, changed))
            # An index that is open goes on with what it was opened with.
            chroma.start()

        yield ServedSystem(
            Server(
                title="Chroma server",
                index=f"HNSW, max_neighbors {HNSW_M}, ef_construction {EF_CONSTRUCTION}",
                host=LOOPBACK,
                port=chroma.port,
                build_s=time.perf_counter() - started_s,
                is_tuned=True,
                dialects={"JSON": _Dialect(path)},
                pids=lambda: [chroma.pid],
                on_effort=set_effort,
            ),
            load,
        )


def _filled(port: int, data: VectorSet) -> str:
    """The path of a collection with all vectors."""
    hnsw = {"space": "ip", "max_neighbors": HNSW_M, "ef_construction": EF_CONSTRUCTION}
    collection = {"name": "vectors", "configuration": {"hnsw": hnsw}}
    made = orjson.loads(http_call(port, json_request("POST", _COLLECTIONS, collection)))
    path = f"{_COLLECTIONS}/{made['id']}"
    vectors = data.vectors
    for start in range(0, len(vectors), _ROWS_EACH):
        rows = np.ascontiguousarray(vectors[start : start + _ROWS_EACH])
        ids = [str(row) for row in range(start, start + len(rows))]
        added = {"ids": ids, "embeddings": rows, "documents": None, "metadatas": None}
        http_call(port, json_request("POST", f"{path}/add", added))
    # The first query puts into the index what was only written so far.
    http_call(port, _Dialect(path).request(data.queries[:1], TOP_K))
    return path
