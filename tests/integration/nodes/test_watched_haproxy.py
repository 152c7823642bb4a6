"""HAProxy as Serve starts it in Raygion's clusters, with Serve's own configuration as Raygion
changes it, in front of a small server: killed, reloaded, and taken over while it is asked.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.serve.config import HTTPOptions

from deployments.nodes.haproxy import GatewaySlots
from deployments.nodes.marked_processes import MARKER_VARIABLE
from deployments.nodes.ray_starter import write_haproxy_wrapper
from deployments.serve.serve_private import haproxy
from deployments.serve.watched_haproxy import WatchedHAProxy, WatchedHAProxyManager

pytestmark = pytest.mark.integration

CLIENTS = 4
NOTICED_S = 10.0
"""For what takes a moment; far less than what Serve itself needs."""


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        return int(probe.getsockname()[1])


class World:
    """The files of one node, and the server that stands for a gateway."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.gateway_port = 0
        self.made: list[WatchedHAProxy] = []

    @property
    def config_file(self) -> Path:
        return self.folder / "haproxy.cfg"

    @property
    def socket(self) -> Path:
        return self.folder / "admin.sock"

    def routes(self) -> dict[str, haproxy.BackendConfig]:
        gateway = haproxy.ServerConfig(name="gateway", host="127.0.0.1", port=self.gateway_port)
        return {
            "http-gateway": haproxy.BackendConfig(
                name="http-gateway", path_prefix="/", app_name="gateway", servers=[gateway]
            )
        }

    def proxy(self) -> WatchedHAProxy:
        """As a new process of Serve's would have it: it knows of no route."""
        config = haproxy.HAProxyConfig(
            socket_path=str(self.socket),
            server_state_base=str(self.folder),
            server_state_file=str(self.folder / "server-state"),
            stats_port=free_port(),
            metrics_port=free_port(),
            http_options=HTTPOptions(host="127.0.0.1", port=self.port),
            is_head=True,
        )
        made = WatchedHAProxy(config, config_file_path=str(self.config_file))
        self.made.append(made)
        return made

    async def proxy_with_routes(self) -> WatchedHAProxy:
        made = self.proxy()
        await made.start()
        made.set_backend_configs(self.routes())
        await made.reload()
        return made

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}", timeout=10, trust_env=False
        )

    async def get(self, path: str) -> httpx.Response:
        async with self.client() as client:
            return await client.get(path)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    made = World(tmp_path)
    write_haproxy_wrapper(tmp_path, GatewaySlots(), made.port)
    monkeypatch.setattr(haproxy, "get_haproxy_binary", lambda: str(tmp_path / "haproxy"))
    monkeypatch.chdir(tmp_path)
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    made.gateway_port = server.sockets[0].getsockname()[1]
    yield made
    for proxy in made.made:
        await proxy.stop()
    server.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    writer.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(NOTICED_S):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


class Load:
    """What clients got that ask without a pause."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.broken = 0

    @property
    def answered(self) -> int:
        return sum(self.statuses.values())

    async def go_on(self, answers: int = 50) -> None:
        wanted = self.answered + answers
        await until(lambda: self.answered >= wanted)


@asynccontextmanager
async def asked(world: World) -> AsyncIterator[Load]:
    load = Load()

    async def ask() -> None:
        async with world.client() as client:
            while True:
                try:
                    load.statuses[(await client.get("/v1/x")).status_code] += 1
                except httpx.TransportError:
                    load.broken += 1
                await asyncio.sleep(0.005)

    tasks = [asyncio.create_task(ask()) for _ in range(CLIENTS)]
    try:
        await load.go_on()
        yield load
        await load.go_on()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def kill(proxy: WatchedHAProxy) -> None:
    """Kills HAProxy; returns when another one is known to run."""
    process = proxy._proc
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    await until(lambda: proxy._proc is not process)


async def test_what_is_killed_comes_back_with_its_routes_each_time(world: World) -> None:
    proxy = await world.proxy_with_routes()
    async with asked(world) as load:
        for _ in range(5):
            await kill(proxy)
            broken = load.broken
            await load.go_on()
            # From then on nothing breaks.
            assert load.broken == broken
    assert set(load.statuses) == {200}


async def test_it_can_be_reloaded_and_stopped_after_it_was_killed(world: World) -> None:
    proxy = await world.proxy_with_routes()
    await kill(proxy)
    async with asked(world) as load:
        await proxy.reload()
    assert (set(load.statuses), load.broken) == ({200}, 0)
    await proxy.stop()
    await asyncio.sleep(0.5)
    with pytest.raises(httpx.ConnectError):
        await world.get("/v1/x")


async def test_one_that_dies_while_it_takes_over_leaves_nobody_without(world: World) -> None:
    proxy = await world.proxy_with_routes()
    # A client that keeps its connection, so that the old one has something to wait for.
    async with world.client() as client:
        await client.get("/v1/x")
        reload = asyncio.create_task(proxy.reload())
        assert proxy._proc is not None
        new = old = proxy._proc.pid
        while new == old:
            new = await proxy._get_running_pid() or old
        os.kill(new, signal.SIGKILL)
        with suppress(RuntimeError):
            await reload
        async with asked(world) as load:
            pass
    assert set(load.statuses) == {200}


@pytest.mark.parametrize("marked", [True, False])
async def test_where_it_is_ended_by_its_mark_it_is_apart_from_the_process_that_started_it(
    world: World, monkeypatch: pytest.MonkeyPatch, marked: bool
) -> None:
    """Else it would outlive the node for good."""
    monkeypatch.setenv(MARKER_VARIABLE, "a-mark" if marked else "")
    process = (await world.proxy_with_routes())._proc
    assert process is not None
    assert (os.getsid(process.pid) != os.getsid(0)) is marked
    assert (os.getpgid(process.pid) == process.pid) is marked


async def test_a_new_manager_takes_over_what_runs(world: World) -> None:
    first = await world.proxy_with_routes()
    assert first._proc is not None
    # The process that started it is gone, and with it the watch.
    for watch in first._watches:
        watch.cancel()
    async with asked(world) as load:
        second = world.proxy()
        await second.start()
        await load.go_on()
        async with asyncio.timeout(NOTICED_S):
            assert await first._proc.wait() == 0
        second.set_backend_configs(world.routes())
        await second.reload()
    assert (set(load.statuses), load.broken) == ({200}, 0)
    await kill(second)
    assert (await world.get("/v1/x")).status_code == 200


async def test_a_new_manager_starts_with_the_last_routes_where_nothing_runs(world: World) -> None:
    first = await world.proxy_with_routes()
    await first.stop()
    await world.proxy().start()
    assert (await world.get("/v1/x")).status_code == 200


async def test_a_configuration_that_was_cut_off_is_written_anew(world: World) -> None:
    world.config_file.write_text("global\n    maxc")
    proxy = await world.proxy_with_routes()
    assert proxy._is_running()
    assert (await world.get("/v1/x")).status_code == 200


async def test_what_is_not_known_yet_is_unavailable_and_not_missing(world: World) -> None:
    await world.proxy().start()
    reply = await world.get("/v1/search")
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) >= 1
    assert_error(reply, "unavailable", retryable=True)


async def test_where_no_gateway_answers_it_says_so_in_the_words_of_the_interface(
    world: World,
) -> None:
    world.gateway_port = free_port()
    await world.proxy_with_routes()
    reply = await world.get("/v1/search")
    assert reply.status_code == 503
    assert_error(reply, "unavailable", retryable=True)


async def test_nobody_is_told_serves_routes(world: World) -> None:
    await world.proxy_with_routes()
    for path in ("/-/routes", "/-/ROUTES"):
        reply = await world.get(path)
        assert reply.status_code == 404
        assert_error(reply, "not_found", retryable=False)
    assert (await world.get("/-/healthz")).status_code == 200


async def test_only_the_user_reaches_its_socket(world: World) -> None:
    await world.proxy_with_routes()
    assert stat.S_IMODE(world.socket.stat().st_mode) == 0o600


async def test_routes_are_not_touched_before_the_controller_has_named_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    updates: list[None] = []

    async def update(_: Any) -> None:
        updates.append(None)

    serves = WatchedHAProxyManager.__mro__[1]
    monkeypatch.setattr(serves, "_update_haproxy_backends", update)
    manager = object.__new__(WatchedHAProxyManager)
    for named in (False, True):
        manager._received_target_groups_broadcast = named
        await manager._update_haproxy_backends()
        assert bool(updates) is named


def assert_error(reply: httpx.Response, code: str, *, retryable: bool) -> None:
    error = reply.json()["error"]
    assert (error["code"], error["retryable"]) == (code, retryable)
    assert len(error["trace_id"]) == 32
    assert reply.headers["x-trace-id"] == error["trace_id"]
