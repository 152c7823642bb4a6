"""The state of a region, as its coordinator last published it to callers."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace

from actors.coordinator.loading.loaded_release import LoadedRelease
from actors.coordinator.region_summary import pulse_of, view_of
from cluster.clock import Clock
from cluster.releases.driver import RolloutDriver
from cluster.serving.view import Pulse, RegionView


class PublishedState:
    """Values that callers read without waiting for the thread that drives the rollout. Each of
    them is replaced by a new one, and never changed. Thread-safe.
    """

    def __init__(
        self,
        driver: RolloutDriver,
        loaded: Callable[[], Mapping[int, LoadedRelease]],
        clock: Clock,
    ) -> None:
        """`loaded`: the releases that are wholly loaded, by number."""
        rollout = driver.rollout
        self.state = rollout.state
        """State of the release log."""
        self.view = RegionView(region=rollout.region, revision=uuid.uuid4().hex)
        self.pulse = Pulse()
        self.prepared_in: Mapping[int, frozenset[str]] = {}
        """Regions that have prepared each resident release."""
        self.store_id = ""
        """Id of the store that the pulse tells; empty until it was read."""
        self._driver = driver
        self._loaded = loaded
        self._clock = clock
        self._changed = threading.Condition()

    def publish(self) -> None:
        """Replaces the values by those that hold now."""
        rollout = self._driver.rollout
        with self._driver.deciding, self._changed:
            state, now_ms = rollout.state, self._clock.wall_ms()
            view = view_of(rollout, self._loaded(), now_ms, self.view.revision)
            self.state = state
            self.pulse = pulse_of(rollout, self._driver.freshness, self.store_id)
            resident = state.resident(now_ms)
            self.prepared_in = {n: rollout.regions_prepared(n) for n in resident}
            if view != self.view:
                self.view = replace(view, revision=uuid.uuid4().hex)
                self._changed.notify_all()

    def wait_for_view(self, known_revision: str | None, wait_s: float) -> RegionView:
        """The view, as soon as it is another than the known one, or after `wait_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self.view.revision != known_revision, wait_s)
            return self.view
