"""What could quietly make the comparison of serving systems unfair or wrong. Nothing is timed."""

from __future__ import annotations

import io
import struct
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import orjson
import psutil
import pyarrow as pa
import pytest

from bench.load.client import LoadFailed, LoadGenerator, response_length
from bench.load.processes import cpu_s, pss_bytes, with_descendants
from bench.peers.children import child
from bench.peers.contract import NotMeasured
from bench.peers.libraries.library import library_system
from bench.peers.libraries.library_loop import Rows, Vectors, closed_loops
from bench.peers.raygion import Float32Dialect
from bench.peers.servers.json_dialect import JsonDialect
from bench.peers.servers.postgres_wire import (
    PostgresWire,
    binary_copy,
    execute_each,
    first_ints,
    vector_value,
)
from bench.peers.servers.served import ServedSystem, Server
from bench.peers.systems import NAMES, running
from bench.peers.vector_sets import EFFORTS, VectorSet, prepare, smallest_effort
from bench.plan import ServeChoice
from bench.reports import (
    ServeCost,
    ServeLeftOut,
    ServeReport,
    ServeSet,
    ServeSystem,
    Spread,
    environment_now,
)
from bench.run import plan_of
from bench.serve.tables import serve_tables

READY = b"Z\x00\x00\x00\x05I"


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", 4 + len(body)) + body


def data_row(id: int) -> bytes:
    return message(b"D", struct.pack("!hiiid", 2, 4, id, 8, 0.5))


class _Echo(BaseHTTPRequestHandler):
    """Finds the rows whose numbers are the numbers of the vector."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
        vectors = asked["vectors"] if "vectors" in asked else [asked["vector"]]
        results = [{"hits": [{"id": str(int(x)), "score": 1.0} for x in v]} for v in vectors]
        body = orjson.dumps({"results": results} if "vectors" in asked else results[0])
        self.send_response(200 if self.path == "/search" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Tests are quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True


@pytest.fixture
def port() -> Iterator[int]:
    server = _Server(("127.0.0.1", 0), _Echo)
    serving = threading.Thread(target=server.serve_forever, args=(0.01,))
    serving.start()
    yield server.server_port
    server.shutdown()
    serving.join()
    server.server_close()


def served(port: int, path: str) -> ServedSystem:
    server = Server(
        title="echo",
        index="none",
        host="127.0.0.1",
        port=port,
        build_s=0.0,
        is_tuned=False,
        dialects={"JSON": JsonDialect(path=path)},
        pids=lambda: [],
    )
    return ServedSystem(server, LoadGenerator())


def test_rows_come_back_for_every_query_of_every_batch(port: int) -> None:
    queries = np.arange(300, dtype=np.float32).reshape(100, 3)
    rows = served(port, "/search").rows("JSON", queries)
    assert rows.shape == (100, 10)
    assert (rows[:, :3] == queries).all()
    assert (rows[:, 3:] == -1).all()


def test_a_server_that_refuses_is_not_measured(port: int) -> None:
    with pytest.raises(LoadFailed, match="404"):
        served(port, "/elsewhere").rows("JSON", np.zeros((1, 2), dtype=np.float32))


@pytest.mark.parametrize(("needed", "expected"), [(0, 10), (10, 10), (11, 12), (500, 512)])
def test_the_least_effort_that_reaches_the_recall(needed: int, expected: int) -> None:
    asked: list[int] = []

    def recall_of(effort: int) -> float:
        asked.append(effort)
        return 0.96 if effort >= needed else 0.5

    assert smallest_effort(recall_of) == (expected, 0.96)
    assert len(asked) <= 6
    assert list(EFFORTS) == sorted(EFFORTS)


def test_a_recall_out_of_reach_takes_the_most_effort() -> None:
    assert smallest_effort(lambda _: 0.3) == (EFFORTS[-1], 0.3)


def test_recall_counts_the_right_rows_in_any_order(tmp_path: Path) -> None:
    np.save(tmp_path / "truth.npy", np.arange(20).reshape(2, 10))
    data = VectorSet(name="", folder=tmp_path)
    assert data.recall(np.arange(20).reshape(2, 10)[:, ::-1]) == 1.0
    assert data.recall(np.full((2, 10), -1)) == 0.0
    half = np.arange(20).reshape(2, 10)
    half[:, 5:] = -1
    assert data.recall(half) == 0.5


def test_a_postgres_reply_ends_with_ready() -> None:
    wire = PostgresWire(hello=())
    reply = bytearray(message(b"2", b"") + data_row(7) + message(b"C", b"SELECT 1\0"))
    assert wire.reply_length(reply) is None
    assert wire.reply_length(reply + READY) == len(reply) + len(READY)
    assert not wire.refuses(reply)
    assert wire.refuses(bytearray(message(b"E", b"SERROR\0\0") + READY))


def test_rows_of_several_statements_are_kept_apart() -> None:
    found = [b"".join(map(data_row, ids)) for ids in ([7, 1], [], [90_000])]
    reply = b"".join(message(b"2", b"") + rows + message(b"C", b"x\0") for rows in found)
    assert first_ints(reply + READY) == [[7, 1], [], [90_000]]


def test_vectors_are_written_as_pgvector_reads_them() -> None:
    vectors = np.array([[1.0, -2.5], [0.0, 3.0]], dtype=np.float32)
    one = struct.pack("!hhff", 2, 0, 1.0, -2.5)
    assert vector_value(vectors[0]) == one
    request = execute_each("s", vectors)
    assert request.count(one) == 1
    assert request.count(b"S\x00\x00\x00\x04") == 1
    copied = binary_copy(vectors)
    assert copied.startswith(b"PGCOPY\n\xff\r\n\0" + bytes(8))
    assert struct.pack("!hiii", 2, 4, 0, len(one)) + one in copied
    assert copied.endswith(b"\xff\xff")


def test_numbers_are_written_as_most_clients_write_them() -> None:
    vectors = np.array([[0.1, -2.5]], dtype=np.float32)
    request = JsonDialect(path="/search").request(vectors, 10)
    assert request.endswith(b'{"vector": [0.10000000149011612, -2.5]}')


def test_float32_there_and_arrow_back() -> None:
    dialect = Float32Dialect(effort_field=None)
    vectors = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
    request = dialect.request(vectors, 10)
    assert response_length(request) == len(request)
    assert request.endswith(struct.pack("<4f", 1, 2, 3, 4))
    columns = {"query": pa.array([0, 0, 1], pa.int32()), "id": ["5", "6", "7"]}
    table = pa.table({**columns, "score": pa.array([0.5, 0.4, 0.3], pa.float32())})
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    assert dialect.rows(b"HTTP/1.1 200 OK\r\n\r\n" + stream.getvalue(), 2) == [[5, 6], [7]]


class _Library:
    index, is_tuned, build_s = "", False, 0.0

    def __init__(self, calls_max: int) -> None:
        self._left = calls_max

    def search(self, vectors: Vectors, ef_search: int) -> Rows:
        self._left -= 1
        if self._left < 0:
            raise ValueError("broken")
        return np.full((len(vectors), 10), -1)


def test_loops_over_a_library_count_calls_and_fail_loudly() -> None:
    inputs = [np.zeros((1, 2), dtype=np.float32)]
    latencies, took_s = closed_loops(_Library(10**9), inputs, 1, clients=2, window_s=0.05)
    assert len(latencies) > 1
    assert took_s >= 0.05
    with pytest.raises(ValueError, match="broken"):
        closed_loops(_Library(1), inputs, 1, clients=2, window_s=5.0)


def test_a_library_that_is_missing_is_said(tmp_path: Path) -> None:
    np.save(tmp_path / "queries.npy", np.zeros((1, 2), dtype=np.float32))
    data = VectorSet(name="", folder=tmp_path)
    system = library_system("none", "no_such_library", data, tmp_path, in_peers_environment=False)
    with pytest.raises(NotMeasured, match="no_such_library"), system:
        pass


def test_children_end_with_all_that_they_started(tmp_path: Path) -> None:
    sleeper = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    log = tmp_path / "log"
    with child([sys.executable, "-c", sleeper], log=log, piped=True) as process:
        while len(pids := with_descendants([process.pid])) < 2:
            assert process.poll() is None
        assert pss_bytes(pids) > 0
        assert cpu_s(pids) >= 0
        running_ = [psutil.Process(pid) for pid in pids]
    assert not any(_runs(one) for one in running_)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("name", NAMES)
def test_every_system_has_its_module(name: str, tmp_path: Path) -> None:
    running(name, VectorSet(name="", folder=tmp_path), tmp_path, LoadGenerator())


def test_choices_are_checked(tmp_path: Path) -> None:
    plan = plan_of(["--systems", "fastapi,raygion-2x1", "--quick"])
    assert plan.serve.systems == ("fastapi", "raygion-2x1")
    assert plan.serve.sets == ("minilm",)
    assert plan_of([]).serve.systems == NAMES
    for wrong in (["--systems", "fastap"], ["--sets", "x"], ["--words", str(tmp_path / "x")]):
        with pytest.raises(SystemExit, match="there is no"):
            plan_of(wrong)


def test_a_set_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="no set"):
        prepare("other", ServeChoice(systems=()), Path())


def test_the_table_has_every_system_also_those_left_out() -> None:
    one = Spread.of([1.0])

    def cost(clients: int, batch: int) -> ServeCost:
        rate = Spread.of([1000.0 * clients + batch])
        return ServeCost(
            form="JSON",
            clients=clients,
            batch=batch,
            queries_per_s=rate,
            p50_ms=one,
            p99_ms=one,
            server_cpu_ms=one,
            client_cpu_ms=one,
            others_cores=one,
        )

    def system(name: str, costs: tuple[ServeCost, ...]) -> ServeSystem:
        return ServeSystem(
            name=name,
            title=name,
            index="HNSW",
            ef_search=16,
            recall={"JSON": 0.957},
            build_s=1.0,
            pss_mib=1.0,
            speed=one,
            costs=costs,
        )

    every = system("all", (cost(1, 1), cost(8, 1), cost(32, 1), cost(4, 64)))
    in_process = system("two threads", (cost(2, 1), cost(2, 64)))
    found = ServeSet(
        name="minilm",
        title="t",
        num_vectors=5,
        dimension=2,
        num_queries=3,
        systems=(every, in_process),
        left_out=(ServeLeftOut(name="lancedb", reason="no wheel"),),
    )
    environment = environment_now(quick=True, repetitions=3)
    report = ServeReport(environment=environment, top_k=10, recall_least=0.95, sets=(found,))
    page = serve_tables(report)
    assert "| all | JSON | 0.957 | 1,001 | 8,001 | 32,001 | 4,064 |" in page
    assert "| two threads | JSON | 0.957 | – | – | 2,001 | 2,064 |" in page
    assert "`lancedb` was not measured: no wheel" in page
