"""A server that does nothing: what the load generator can at most ask on this machine."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import uvloop

from bench.load.client import LoadGenerator, response_length
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
from bench.peers.vector_sets import TOP_K, VectorSet
from cluster.arrays import Float32Array, Int64Array

_START_TIMEOUT_S = 30.0
_BODY = b'{"hits":[%s]}' % b",".join(b'{"id":"12345","score":0.123456}' for _ in range(TOP_K))
_REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


class TrivialSystem(ServedSystem):
    """Its answers are the same whatever is asked, so they have no recall."""

    def rows(self, form: str, queries: Float32Array) -> Int64Array:
        return np.full((len(queries), TOP_K), -1)


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        length = response_length(self._received)
        if length is not None and len(self._received) >= length:
            self._received.clear()
            self._transport.write(_REPLY)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, LOOPBACK, port)
    await server.serve_forever()


@contextmanager
def running(data: VectorSet, folder: Path, load: LoadGenerator) -> Iterator[System]:
    port, log = free_port(), folder / "trivial.log"
    with child([sys.executable, "-m", "bench.peers.trivial", str(port)], log=log) as server:

        def is_ready() -> bool:
            check_alive(server, log)
            return is_listening(port)

        wait_for(is_ready, "the trivial server", _START_TIMEOUT_S)
        yield TrivialSystem(
            Server(
                title="a server that does nothing: the load generator's limit",
                index="none",
                host=LOOPBACK,
                port=port,
                build_s=0.0,
                is_tuned=False,
                dialects={"JSON": JsonDialect(path="/")},
                pids=lambda: [server.pid],
            ),
            load,
        )


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
