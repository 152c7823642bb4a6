"""One FastAPI process with Faiss in it, orjson, uvloop, httptools."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.load.client import LoadGenerator
from bench.peers.children import check_alive, child
from bench.peers.contract import System
from bench.peers.servers.json_dialect import JsonDialect
from bench.peers.servers.served import (
    LOOPBACK,
    ServedSystem,
    Server,
    free_port,
    is_listening,
    wait_for,
)
from bench.peers.vector_sets import VectorSet

_START_TIMEOUT_S = 60.0


@contextmanager
def running(data: VectorSet, folder: Path, load: LoadGenerator) -> Iterator[System]:
    port, log, facts = free_port(), folder / "fastapi.log", data.facts
    arguments = (str(port), str(data.folder / "index.faiss"), str(facts.ef_search))
    with child(
        [sys.executable, "-m", "bench.peers.servers.fastapi_server", *arguments], log=log
    ) as server:

        def is_ready() -> bool:
            check_alive(server, log)
            return is_listening(port)

        wait_for(is_ready, "FastAPI", _START_TIMEOUT_S)
        yield ServedSystem(
            Server(
                title="one FastAPI process with Faiss in it",
                index=f"Faiss HNSW, efSearch {facts.ef_search}",
                host=LOOPBACK,
                port=port,
                build_s=facts.build_s,
                is_tuned=False,
                dialects={"JSON": JsonDialect(path="/search")},
                pids=lambda: [server.pid],
            ),
            load,
        )
