"""Nudges: in the background, bounded, to the gateways of the other regions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from actors.coordinator.nudges import HttpNudges, RegionNudges
from cluster.config import Settings

WAIT_S = 30.0


def test_one_round_is_under_way_and_one_waits() -> None:
    begun, go_on, rounds = threading.Semaphore(0), threading.Semaphore(0), []

    def nudge_others() -> None:
        rounds.append(len(rounds))
        begun.release()
        assert go_on.acquire(timeout=WAIT_S)

    nudges = RegionNudges(nudge_others)
    nudges()
    assert begun.acquire(timeout=WAIT_S)
    for _ in range(100):
        nudges()
    go_on.release(2)
    assert begun.acquire(timeout=WAIT_S)
    assert rounds == [0, 1]


def test_a_round_that_fails_is_forgotten() -> None:
    done = threading.Semaphore(0)

    def nudge_others() -> None:
        done.release()
        raise RuntimeError("no network")

    nudges = RegionNudges(nudge_others)
    for _ in range(2):
        nudges()
        assert done.acquire(timeout=WAIT_S)


class Gateway(ThreadingHTTPServer):
    """Notes who is nudged, and with which key."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Noting)
        self.seen: list[tuple[str, str | None]] = []
        self.arrived = threading.Semaphore(0)


class _Noting(BaseHTTPRequestHandler):
    server: Gateway

    def do_POST(self) -> None:
        self.server.seen.append((self.path, self.headers["Authorization"]))
        self.send_response(204)
        self.end_headers()
        self.server.arrived.release()

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    server = Gateway()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_others_are_told_with_their_key_and_a_dead_one_does_no_harm(gateway: Gateway) -> None:
    port = gateway.server_address[1]
    regions = {
        "a": {"url": f"http://127.0.0.1:{port}/never"},
        "b": {"url": f"http://127.0.0.1:{port}/", "http": {"api_keys": ["one", "two"]}},
        "c": {"http": {"port": port}},
        "dead": {"url": "http://127.0.0.1:1"},
    }
    HttpNudges(Settings.model_validate({"regions": regions}), "a")()
    for _ in range(2):
        assert gateway.arrived.acquire(timeout=WAIT_S)
    route = "/v1/regions/nudge"
    assert set(gateway.seen) == {(route, "Bearer one"), (route, None)}


def test_the_key_of_the_regions_goes_before_that_of_callers(gateway: Gateway) -> None:
    port = gateway.server_address[1]
    regions = {"a": {}, "b": {"http": {"port": port, "api_keys": ["one"]}}}
    given = {"regions": regions, "region_keys": ["ours", "next"]}
    HttpNudges(Settings.model_validate(given), "a")()
    assert gateway.arrived.acquire(timeout=WAIT_S)
    assert gateway.seen == [("/v1/regions/nudge", "Bearer ours")]


def test_a_region_alone_raises_nothing_for_want_of_others() -> None:
    HttpNudges(Settings(), "local")()
