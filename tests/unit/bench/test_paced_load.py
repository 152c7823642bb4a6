"""The open-loop client against a server of the test's own."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator

import pytest

from bench.load.client import LoadFailed, http_request
from bench.load.paced import Pace, PacedLoad, run_paced

_REPLY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
_HELD = 20


class _Server(socketserver.ThreadingTCPServer):
    """Refuses requests to /refused, and holds those to /held back until so many have come."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked = 0
        self.are_all_held = threading.Barrier(_HELD)


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        while request := self.rfile.readline():
            while self.rfile.readline().strip():
                pass
            self.server.asked += 1
            if b"/held" in request:
                self.server.are_all_held.wait(timeout=30)
            is_refused = b"/refused" in request
            self.wfile.write(_REPLY.replace(b"200 OK", b"503 No") if is_refused else _REPLY)


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _load(server: _Server, **paces: Pace) -> PacedLoad:
    port = server.server_address[1]
    return PacedLoad(host="127.0.0.1", port=port, paces=paces, warm_up_s=0.0, window_s=0.5)


def test_each_kind_is_asked_as_often_as_it_should_be(server: _Server) -> None:
    often = Pace(requests=[http_request("GET", "/often")], per_s=100)
    seldom = Pace(requests=[http_request("GET", "/seldom")], per_s=10)
    reports = run_paced(_load(server, often=often, seldom=seldom))
    assert len(reports["often"].latencies_s) == 50
    assert len(reports["seldom"].latencies_s) == 5
    assert server.asked == 55


def test_requests_leave_though_none_before_them_is_answered(server: _Server) -> None:
    pace = Pace(requests=[http_request("GET", "/held")], per_s=2 * _HELD)
    (report,) = run_paced(_load(server, only=pace)).values()
    # The first one waited for all the others, and the wait counts.
    assert len(report.latencies_s) == _HELD
    assert report.latencies_s[-1] > report.latencies_s[0]


def test_a_refusal_ends_the_run(server: _Server) -> None:
    pace = Pace(requests=[http_request("GET", "/refused")], per_s=100)
    with pytest.raises(LoadFailed, match="503"):
        run_paced(_load(server, only=pace))
