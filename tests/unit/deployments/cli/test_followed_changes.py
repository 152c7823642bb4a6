"""`raygion changes` against an endpoint that sends a stream of events."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli.main import app

CHANGE = b'event: change\ndata: {"id": "%s", "version": "1.0.a", "text": "..."}\n\n'
CURRENT = b'id: a:1\nevent: current\ndata: {"after": "a:1"}\n\n'
ERROR = b'event: error\ndata: {"error": {"code": "invalid_argument", "message": "no more"}}\n\n'


class Endpoint(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(CHANGE % b"T-1" + CURRENT + CHANGE % b"T-2" + ERROR)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with HTTPServer(("127.0.0.1", 0), Endpoint) as server:
        settings = f"regions: {{a: {{http: {{port: {server.server_port}}}}}}}\n"
        (tmp_path / "regions.yaml").write_text(settings)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


def test_what_arrives_together_with_an_error_is_told_before_it() -> None:
    done = CliRunner().invoke(app, ["changes", "tickets"])
    assert "no more" in str(done.exception)
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["T-1", "T-2"]
    assert "Next: --after a:1" in done.stderr


def test_exit_ends_once_all_present_changes_are_told() -> None:
    done = CliRunner().invoke(app, ["changes", "tickets", "--exit"])
    assert done.exit_code == 0
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["T-1"]
    assert "Next: --after a:1" in done.stderr
