"""The thread that keeps alive what a region has loaded."""

from __future__ import annotations

import threading

from actors.coordinator.gateway_spread import GatewaySpread
from actors.coordinator.loading.loader import ReleaseLoader
from actors.coordinator.loading.region_releases import RegionReleases
from cluster.logs.events import EventLog

log = EventLog(__name__)

_MEND_S = 2.0


class Mender:
    """Makes anew the actors that were lost, and spreads actors and gateways over the machines."""

    def __init__(
        self, releases: RegionReleases, loader: ReleaseLoader, gateways: GatewaySpread
    ) -> None:
        self._releases = releases
        self._loader = loader
        self._gateways = gateways
        self._ending = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="mend", daemon=True).start()

    def stop(self) -> None:
        """Ends the thread soon; what is loaded stays."""
        self._ending.set()

    def _run(self) -> None:
        while not self._ending.wait(_MEND_S):
            try:
                self._releases.tend()
                self._gateways.look(self._loader.nodes, self._loader.settled_nodes)
            except Exception as error:
                log.error(
                    "coordinator.mending_failed",
                    "mending failed; it is tried again: {error}",
                    error=error,
                    traceback_of=error,
                )
