"""A cluster is not started where a region of another one answers already."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cluster.config import Settings
from cluster.errors import Conflict, InvalidArgument
from deployments.cli.options import opened
from deployments.hosting import region_host
from deployments.installation import Installation
from deployments.nodes.marked_processes import MARKER_VARIABLE
from deployments.nodes.ports import find_port_block

READY = (200, b'{"status":"ready"}')
NOT_READY = (503, b'{"error":{"code":"unavailable","message":"no release","retryable":true}}')
KEY_WANTED = (401, b'{"error":{"code":"unauthenticated","message":"no","retryable":false}}')
ANOTHER_PROGRAM = (404, b"<h1>Not found</h1>")


# A process that answers as a region would, as HAProxy does when it outlives its cluster.
ANSWERS_READY = """
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status":"ready"}')

    def log_message(self, *_): ...

with HTTPServer(("127.0.0.1", 0), Handler) as server:
    print(server.server_port, flush=True)
    server.serve_forever()
"""


class Answers(HTTPServer):
    def __init__(self, reply: tuple[int, bytes]) -> None:
        status, body = reply

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    with Answers(request.param) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def installation(folder: Path, port: int) -> Installation:
    settings = Settings.model_validate(
        {"regions": {"south": {"http": {"port": port}}}, "state_folder": folder}
    )
    return Installation(settings, "south")


@pytest.mark.parametrize("port", [READY, NOT_READY, KEY_WANTED], indirect=True)
def test_the_true_cause_is_named(tmp_path: Path, port: int) -> None:
    with pytest.raises(Conflict, match=r"region answers .* already.*regions.south.ray_address"):
        region_host.check_not_served(installation(tmp_path, port))


@pytest.mark.parametrize("port", [ANOTHER_PROGRAM], indirect=True)
def test_another_program_is_no_region_and_raises_nothing(tmp_path: Path, port: int) -> None:
    region_host.check_not_served(installation(tmp_path, port))


def test_where_nobody_listens_nothing_is_raised(tmp_path: Path) -> None:
    region_host.check_not_served(installation(tmp_path, find_port_block().http))


def test_what_a_dead_cluster_left_answering_is_ended_and_not_taken_for_another_region(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, started = secrets.token_hex(16), []
    with subprocess.Popen(
        [sys.executable, "-c", ANSWERS_READY],
        env={**os.environ, MARKER_VARIABLE: mark},
        stdout=subprocess.PIPE,
        text=True,
    ) as left:
        try:
            assert left.stdout is not None
            region = installation(tmp_path, int(left.stdout.readline()))
            record_of_dead_cluster(region, mark)
            with pytest.raises(Conflict):
                region_host.check_not_served(region)
            monkeypatch.setattr(
                region_host, "start_local_cluster", lambda **options: started.append(options)
            )
            region_host.start_cluster(region)
            assert left.wait(timeout=10) is not None
            assert len(started) == 1
        finally:
            left.kill()


def record_of_dead_cluster(region: Installation, mark: str) -> None:
    run_dir = region.run_folder
    run_dir.mkdir(parents=True)
    record = {
        "name": region.region,
        "run_dir": str(run_dir),
        "temp_dir": str(run_dir / "temp"),
        "port_base": 20_000,
        "http_port": region.region_settings.http.port,
        "marker": mark,
    }
    (run_dir / "cluster.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("url", "is_shared"),
    [(".raygion/store", False), ("s3://bucket/x", True), ("/mnt/drive", True), ("../x", True)],
)
def test_machines_need_a_store_that_is_one_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, is_shared: bool
) -> None:
    config, token = tmp_path / "checkout" / "regions.yaml", tmp_path / "auth_token"
    config.parent.mkdir()
    config.write_text(f"store: {{url: {url}}}")
    token.write_text("0" * 64)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    with nullcontext() if is_shared else pytest.raises(InvalidArgument, match=r"^store.url: "):
        region_host.node_starter(opened(config, None), ["ray", "start", "--head"])


def test_machines_need_a_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InvalidArgument, match=r"^config: "):
        region_host.node_starter(opened(None, None), ["ray", "start", "--head"])
