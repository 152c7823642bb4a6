"""A network of its own for each of three regions, on one machine.

    region ---- users (a bridge) ---- this process, the other regions
       `------- store            ---- an S3 server in this process

A region's processes are in a network namespace, so that a link of theirs can be cut as it is in a
real network: what was sent over it is not answered any more, not even refused.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import fsspec
from pydantic import SecretStr
from werkzeug.serving import make_server

from cluster.config import Settings
from cluster.progress import Note
from cluster.regions.settings import StoreSettings
from cluster.store.object_store import open_store
from deployments.hosting.region_driver import RegionDriver
from deployments.installation import Installation
from tests.support.regions.regions_fixture import REGIONS, ThreeRegions, regions_settings, running
from tests.support.store_fixtures import S3Endpoint, _SilentHandler

_CLONE_NEWNET = 0x40000000
_PORT = 8000


class NoNamespaces(Exception):
    """This machine lets nobody make networks of his own."""


def ip(*arguments: str) -> str:
    """What it prints. Raises OSError with what it complains of, also where it is not installed."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class StoreCable:
    """The link between a region and the store."""

    device: str

    def open(self) -> None:
        ip("link", "set", self.device, "up")

    def close(self) -> None:
        ip("link", "set", self.device, "down")


@dataclass(frozen=True, slots=True)
class Run:
    """What the networks of one run are called, so that several runs do not meet.

    A device's name has at most 15 characters; a process id, 7. The addresses are some of those that
    are reserved for tests of networks: 256 of them for each run.
    """

    pid: int

    @property
    def bridge(self) -> str:
        return f"rgb{self.pid}"

    def address(self, host: int) -> str:
        number = self.pid % 512
        return f"198.{18 + number // 256}.{number % 256}.{host}"


@dataclass(frozen=True, slots=True)
class RegionNetwork:
    """The network of region number `number` (from 1 on)."""

    run: Run
    number: int

    @property
    def name(self) -> str:
        return f"rgn{self.run.pid}-{self.number}"

    @property
    def address(self) -> str:
        return self.run.address(self.number)

    @property
    def store_host(self) -> str:
        return self.run.address(128 + 4 * self.number + 1)

    @property
    def cable(self) -> StoreCable:
        return StoreCable(f"rgs{self.run.pid}-{self.number}")

    def connect(self) -> None:
        users, store = f"rgu{self.run.pid}-{self.number}", self.cable.device
        for device, inside in ((users, "users"), (store, "store")):
            ip("link", "add", device, "type", "veth", "peer", "name", inside, "netns", self.name)
        ip("link", "set", users, "master", self.run.bridge, "up")
        ip("addr", "add", f"{self.store_host}/30", "dev", store)
        ip("link", "set", store, "up")
        for device, address in (
            ("users", f"{self.address}/25"),
            ("store", f"{self.run.address(128 + 4 * self.number + 2)}/30"),
        ):
            ip("-n", self.name, "addr", "add", address, "dev", device)
            ip("-n", self.name, "link", "set", device, "up")
        ip("-n", self.name, "link", "set", "lo", "up")


@contextmanager
def networks(run: Run) -> Iterator[dict[str, RegionNetwork]]:
    """Raises NoNamespaces where they cannot be made, OSError for all that goes wrong after that.

    Removes what it made, and nothing else.
    """
    made = {region: RegionNetwork(run, number) for number, region in enumerate(REGIONS, 1)}
    with ExitStack() as stack:
        for number, network in enumerate(made.values()):
            try:
                ip("netns", "add", network.name)
            except OSError as error:
                if number:
                    raise
                raise NoNamespaces(str(error)) from error
            # The ends of its cables go with it.
            stack.callback(ip, "netns", "del", network.name)
        ip("link", "add", run.bridge, "type", "bridge")
        stack.callback(ip, "link", "del", run.bridge)
        ip("addr", "add", f"{run.address(126)}/25", "dev", run.bridge)
        ip("link", "set", run.bridge, "up")
        for network in made.values():
            network.connect()
        yield made


@contextmanager
def s3_for_all() -> Iterator[int]:
    """An S3 server that listens on every network; its port."""
    server = make_server("0.0.0.0", 0, S3Endpoint(), threaded=True, request_handler=_SilentHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def three_networked_regions(folder: Path, contents: tuple[str, ...]) -> Iterator[ThreeRegions]:
    """Three regions, each in a network of its own, whose store is an S3 server."""
    with networks(Run(os.getpid())) as made, s3_for_all() as port:
        bucket = f"regions-{uuid4().hex}"
        ours = _options("127.0.0.1", port)
        fsspec.filesystem("s3", **ours).mkdir(bucket)
        url = f"s3://{bucket}/store"
        settings = _networked(regions_settings(folder, dict.fromkeys(REGIONS, url)), made, port)
        cables = {region: network.cable for region, network in made.items()}

        def enter(driver: RegionDriver) -> None:
            driver.run(_enter_network, made[driver.region].name)

        store = open_store(url, ours)
        with running(folder, settings, cables, store, contents, enter) as regions:
            yield regions


def _networked(
    settings: Mapping[str, Settings], made: Mapping[str, RegionNetwork], port: int
) -> dict[str, Settings]:
    named = {
        region: known.model_copy(
            update={
                "url": f"http://{made[region].address}:{_PORT}",
                # HAProxy looks for its gateways on 127.0.0.1, others for it on the bridge.
                "http": known.http.model_copy(
                    update={"host": "0.0.0.0", "port": _PORT, "api_keys": (SecretStr("a-key"),)}
                ),
            }
        )
        for region, known in settings[REGIONS[0]].regions.items()
    }
    return {
        region: own.model_copy(
            update={
                "regions": named,
                "store": StoreSettings(
                    url=own.store.url, options=_options(made[region].store_host, port)
                ),
            }
        )
        for region, own in settings.items()
    }


def _options(host: str, port: int) -> dict[str, object]:
    return {
        "endpoint_url": f"http://{host}:{port}",
        "key": "test",
        "secret": "test",
        "client_kwargs": {"region_name": "eu-west-1"},
    }


def _enter_network(installation: Installation, note: Note, name: str) -> None:
    """Runs in a driver's process: what it starts is in that network, too."""
    libc = ctypes.CDLL(None, use_errno=True)
    namespace = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        if libc.setns(namespace, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter network {name}")
    finally:
        os.close(namespace)
