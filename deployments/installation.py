"""The things that the settings stand for on this machine: the store, the folders, the region's
cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.catalog import Catalog
from cluster.config import Settings
from cluster.errors import Unavailable
from cluster.regions.endpoint import RegionEndpoint
from cluster.regions.settings import RegionSettings
from cluster.releases.entries import LogState
from cluster.releases.release_log import read_release_log
from cluster.store.object_store import ObjectStore, open_store
from deployments.nodes.haproxy import GatewaySlots
from deployments.nodes.machine import Machine


class NotRunning(Unavailable):
    """The region does not run where it was looked for; `raygion up` starts it."""


@dataclass(frozen=True)
class Installation:
    """One region of the settings, as this machine knows it."""

    settings: Settings
    region: str
    config: Path | None = None
    """The settings file; None where there is none."""
    machine: Machine | None = None
    """Record of this machine, if it is one of the region's that `ray up` started."""

    @property
    def ray_address(self) -> str | None:
        """The address of the region's Ray cluster, if it is not one that is started here."""
        if self.region_settings.ray_address is not None:
            return self.region_settings.ray_address
        if self.machine is not None and self.machine.is_alive():
            return self.machine.ray_address
        return None

    @property
    def region_settings(self) -> RegionSettings:
        return self.settings.regions[self.region]

    @cached_property
    def store(self) -> ObjectStore:
        """The store, opened at the first use. Raises InvalidArgument for an unusable store."""
        return open_store(self.settings.store.url, self.settings.store.options)

    @cached_property
    def catalog(self) -> Catalog:
        return Catalog(self.store)

    @property
    def run_folder(self) -> Path:
        """The folder of the Ray cluster that is started here: its record, its secret, its logs."""
        return self.settings.state_folder / "regions" / self.region

    @cached_property
    def cache(self) -> ArtifactCache:
        """The node's copies of artifacts, in a folder of the same name on every node."""
        return ArtifactCache(Artifacts(self.store), self.settings.state_folder / "cache")

    @property
    def scratch_folder(self) -> Path:
        """The folder for models that are converted or downloaded on their way into the store."""
        return self.settings.state_folder / "scratch"

    @property
    def gateway_slots(self) -> GatewaySlots:
        return GatewaySlots(
            requests=self.region_settings.http.in_flight_max,
            answers=self.settings.answer_slots(self.region),
        )

    @property
    def url(self) -> str:
        """The base URL of the region's HTTP endpoint."""
        return RegionEndpoint.of(self.region, self.region_settings).url

    def read_release_log(self) -> LogState:
        """The state of all releases, straight from the store: no cluster needs to run."""
        return read_release_log(self.store)
