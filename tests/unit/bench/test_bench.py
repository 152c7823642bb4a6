"""The parts of the benchmark that could quietly measure something else. Nothing here is timed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.data import XQUAD_SMALL, paragraph_of, read_xquad
from bench.load.client import Load, LoadFailed, http_request, quantile_of, response_length, run_load
from bench.load.streams import StreamLoad, has_text, run_streams
from bench.regions import report as regions_report
from bench.reports import Spread
from bench.tables import BEGIN, DOCS, END, with_tables

EVENTS = (
    b'event: retrieved\ndata: {"citations": []}\n\n',
    b'event: token\ndata: {"text": "Ul',
    b'an"}\n\nevent: done\ndata: {"usage": {"prompt_tokens": 7, "completion_tokens": 2}}\n\n',
)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    connections = 0

    def setup(self) -> None:
        super().setup()
        _Handler.connections += 1

    def do_GET(self) -> None:
        body = b'{"status":"ok"}'
        self.send_response(503 if self.path == "/bad" else 200)
        self.send_header("Content-Length", str(len(body)))
        if self.path == "/last":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in (*EVENTS[: None if self.path == "/good" else 2], b""):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def log_message(self, format: str, *args: object) -> None:
        """Tests are quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients leave with requests under way; that is how a run ends."""


@pytest.fixture
def port() -> Iterator[int]:
    server = _Server(("127.0.0.1", 0), _Handler)
    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(server.serve_forever, 0.01)
        yield server.server_port
        server.shutdown()
        serving.result()
    server.server_close()


def load(port: int, path: str) -> Load:
    return Load(
        host="127.0.0.1",
        port=port,
        requests=[http_request("GET", path)],
        clients=2,
        warm_up_s=0.01,
        window_s=0.2,
    )


def test_load_counts_answers(port: int) -> None:
    report = run_load(load(port, "/good"))
    assert report.latencies_s == sorted(report.latencies_s)
    assert len(report.latencies_s) > 0


def test_a_connection_that_the_server_ends_as_it_said_is_made_anew(port: int) -> None:
    _Handler.connections = 0
    report = run_load(load(port, "/last"))
    # Each answer was the last one of its connection.
    assert 2 < len(report.latencies_s) <= _Handler.connections


def test_a_refused_request_ends_the_run(port: int) -> None:
    with pytest.raises(LoadFailed, match="503"):
        run_load(load(port, "/bad"))


def test_streams_know_first_token_and_usage(port: int) -> None:
    streams = StreamLoad(host="127.0.0.1", port=port, path="/good", bodies=[[b"{}", b"{}"]])
    report = run_streams(streams)
    assert [(a.prompt_tokens, a.answer_tokens) for a in report.answers] == [(7, 2), (7, 2)]


def test_a_stream_that_breaks_off_fails(port: int) -> None:
    streams = StreamLoad(host="127.0.0.1", port=port, path="/cut", bodies=[[b"{}"]])
    with pytest.raises(ExceptionGroup) as raised:
        run_streams(streams)
    assert raised.group_contains(LoadFailed)


@pytest.mark.parametrize(
    ("received", "length"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", None),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n12", 43),
        (b"HTTP/1.1 200 OK\r\nX: 1\r\nCONTENT-LENGTH:0\r\n\r\n", 43),
    ],
)
def test_response_length(received: bytes, length: int | None) -> None:
    assert response_length(received) == length


def test_a_response_without_length_is_not_guessed_at() -> None:
    with pytest.raises(LoadFailed):
        response_length(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"text": "a"}, True),
        ({"citations": []}, False),
        ({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, False),
        ({"choices": [{"delta": {"content": "a"}}]}, True),
        ({"choices": [], "usage": {}}, False),
    ],
)
def test_which_events_bring_a_token(event: dict[str, object], expected: bool) -> None:
    assert has_text(event) is expected


def test_quantiles_and_spread() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [quantile_of(values, q) for q in (0.0, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]
    assert quantile_of([7.0], 0.99) == 7.0
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(median=2.0, least=1.0, most=3.0)
    assert Spread.of([4.0, 1.0]).median == 2.5


def test_both_forms_of_xquad_are_read_alike(tmp_path: Path) -> None:
    small = read_xquad(XQUAD_SMALL)
    known = {document["id"] for document in small.documents}
    assert {question.paragraph for question in small.questions} <= known
    paragraph = {"context": "Ulan Bator is a city.", "qas": [{"question": "What is it?"}]}
    published = {"data": [{"title": "Mongolia", "paragraphs": [paragraph]}]}
    path = tmp_path / "xquad.json"
    path.write_text(json.dumps(published))
    nested = read_xquad(path)
    assert nested.documents[0].keys() == small.documents[0].keys()
    assert nested.questions[0].paragraph == nested.documents[0]["id"] == "Mongolia/0"
    assert paragraph_of("Mongolia/0#1") == "Mongolia/0"


def test_tables_replace_what_stood_between_the_markers() -> None:
    page = f"text\n{BEGIN}\nold\n{END}\nmore\n"
    once = with_tables(page, "| a |")
    assert once == f"text\n{BEGIN}\n\n| a |\n\n{END}\nmore\n"
    assert with_tables(once, "| a |") == once
    with pytest.raises(ValueError, match="markers"):
        with_tables("no markers", "| a |")
    other = with_tables(f"{page}<a>\nold\n<b>\n", "| c |", "<a>", "<b>")
    assert other == f"{page}<a>\n\n| c |\n\n<b>\n"


def test_the_page_has_its_markers() -> None:
    with_tables(DOCS.read_text(), "")
    with_tables(DOCS.read_text(), "", regions_report.BEGIN, regions_report.END)
