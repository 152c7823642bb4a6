"""Several regions on one machine, acted on from outside of their clusters: what the tests of them
and their benchmark have in common.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from actors.documents.source_files import find_source_files
from cluster.catalog.manifests import ManifestRef
from cluster.errors import DeadlineExceeded, RaygionError
from cluster.progress import Note
from cluster.query.caller import Location
from cluster.regions.settings import EndpointSettings, RegionSettings
from cluster.releases.entries import LogState
from cluster.releases.requests import ReleaseRequest
from cluster.shards.index_parameters import NamedIndex
from deployments.clients.http_client import HttpRegion
from deployments.hosting.region_driver import RegionDriver, join_new_cluster, start_services
from deployments.installation import Installation
from deployments.nodes.ports import find_port_block

COORDINATOR = "ray::Coordinator"
_TIMEOUT_S = 120.0
_POLL_S = 0.05


def _nothing(_: RegionDriver) -> None:
    """Most drivers start their cluster as they are."""


@dataclass(kw_only=True)
class DrivenRegions:
    drivers: dict[str, RegionDriver]
    before: Callable[[RegionDriver], object] = _nothing
    """Done with each driver before it starts its cluster."""

    @property
    def log(self) -> LogState:
        return next(iter(self.drivers.values())).installation.read_release_log()

    def at_leader(self, method: str, *args: object) -> Any:
        """Calls the coordinator that leads; asks again until one does."""
        deadline_s = time.monotonic() + _TIMEOUT_S
        while True:
            leader = self.log.leader or next(iter(self.drivers))
            try:
                return self.drivers[leader].coordinator(method, *args)
            except RaygionError as error:
                if not error.retryable or time.monotonic() > deadline_s:
                    raise
                time.sleep(_POLL_S)

    def request(self, request: ReleaseRequest) -> int:
        """The number of the release that the request is about."""
        number: int = self.at_leader("request", request)
        return number

    def http(self, region: str) -> HttpRegion:
        return HttpRegion.of(self.drivers[region].installation)

    def status(self, region: str) -> dict[str, Any]:
        """The reply to `/v1/status`; empty while there is none."""
        try:
            with self.http(region) as http:
                return http.get("/v1/status")
        except RaygionError:
            return {}

    def wait_until_serving(
        self, number: int, *regions: str, timeout_s: float = _TIMEOUT_S
    ) -> float:
        """The seconds until the release is current in these regions (by default all), all of it.

        Raises DeadlineExceeded. Asked over HTTP, since a coordinator may be gone at the moment.
        """
        started_s = time.monotonic()
        names = regions or tuple(self.drivers)
        while missing := [name for name in names if not self._serves(name, number)]:
            if time.monotonic() > started_s + timeout_s:
                raise DeadlineExceeded(f"release {number} is not served in {', '.join(missing)}")
            time.sleep(_POLL_S)
        return time.monotonic() - started_s

    def _serves(self, region: str, number: int) -> bool:
        status = self.status(region)
        return bool(status.get("release") == number and status["healthy"])

    def kill_coordinator(self, region: str) -> None:
        (pid,) = self.drivers[region].pids(COORDINATOR)
        os.kill(pid, signal.SIGKILL)

    def start_again(self, region: str) -> None:
        """Brings up a region whose processes were killed."""
        installation = self.drivers[region].installation
        self.stop(region)
        self.drivers[region] = RegionDriver(installation)
        self.before(self.drivers[region])
        self.drivers[region].run(join_new_cluster)
        self.drivers[region].run(start_services)

    def stop(self, region: str) -> None:
        """Ends the region's cluster and its driver, whichever it has by then."""
        self.drivers[region].stop()


def free_port(avoid: Collection[int]) -> int:
    return find_port_block(avoid=avoid).http


def regions_at(
    locations: Mapping[str, Location], port: Callable[[Collection[int]], int] = free_port
) -> dict[str, RegionSettings]:
    """Regions on this machine, with ports of their own. The first one may use all cores, to build;
    the others get one. `port`: gives a free port that is none of those.
    """
    regions: dict[str, RegionSettings] = {}
    ports: list[int] = []
    for name, location in locations.items():
        ports.append(port(ports))
        regions[name] = RegionSettings(
            http=EndpointSettings(port=ports[-1], gateways_max=1),
            location=location,
            cpus=1 if regions else None,
        )
    return regions


def build_each(
    installation: Installation,
    note: Note,
    corpus: str,
    source: str,
    indexes: Mapping[str, NamedIndex],
) -> dict[str, ManifestRef]:
    """The documents of the source become the corpus, with each of these indexes. Runs in a driver's
    process.
    """
    from deployments.hosting import pipeline

    listing = find_source_files([source])
    pipeline.ingest_documents(installation, corpus, listing, replace=True)
    refs = {}
    for name, index in indexes.items():
        asked = installation.settings.corpus(corpus).model_copy(update={"index": index})
        settings = installation.settings.model_copy(update={"corpora": {corpus: asked}})
        refs[name] = pipeline.build(Installation(settings, installation.region), corpus, None).ref
    return refs
