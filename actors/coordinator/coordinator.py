"""The region coordinator: follows the release log and carries out what the rollout decides.

A named, detached actor that Ray restarts. It may be killed at any step: the next incarnation reads
the log and goes on, and serving never waits for it.

    Coordinator      the methods that others call
    RolloutThread    reads the log, decides, carries out, and serves requests in between
    PublishedState   what that thread has published last, which others read without waiting for it
    RegionReleases   loads and unloads what the rollout wants (`loading`)
    Mender           keeps what is loaded alive
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace

from actors.coordinator.canary_judge import CanaryJudge
from actors.coordinator.gateway_spread import GatewayOrder, GatewaySpread
from actors.coordinator.loading.generator_deployer import GeneratorDeployer
from actors.coordinator.loading.loader import ReleaseLoader
from actors.coordinator.loading.region_releases import RegionReleases
from actors.coordinator.loading.replica_counts import ReplicaCounts
from actors.coordinator.mender import Mender
from actors.coordinator.nudges import HttpNudges, RegionNudges
from actors.coordinator.process_loads import ProcessLoads
from actors.coordinator.published_state import PublishedState
from actors.coordinator.region_summary import is_healthy, summary_of
from actors.coordinator.rollout_thread import RolloutThread
from cluster.artifacts.cache import ArtifactCache
from cluster.canary.counts import OutcomeReport
from cluster.catalog.catalog import Catalog
from cluster.clock import SYSTEM_CLOCK, Clock
from cluster.config import Settings
from cluster.errors import NotFound
from cluster.regions.overview import overview
from cluster.regions.status import RegionSummary
from cluster.releases.contents import keep_contents
from cluster.releases.driver import RolloutDriver, Vitals
from cluster.releases.entries import LogState, Proposal
from cluster.releases.events import CanaryFaulted, DocumentsStatus, ReleaseOutcome
from cluster.releases.release_log import ReleaseLog
from cluster.releases.requests import ProposeRelease, ReleaseRequest, release_of
from cluster.releases.rollout import Rollout
from cluster.serving.view import Pulse, RegionView
from cluster.store.object_store import ObjectStore

_REQUEST_TIMEOUT_S = 60.0


class Coordinator:
    """The methods that other processes call; each call runs in a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        region: str,
        store: ObjectStore,
        cache: ArtifactCache,
        deployer: GeneratorDeployer,
        cluster_id: str,
        clock: Clock = SYSTEM_CLOCK,
        refresh_timeout_s: float = 2.0,
    ) -> None:
        """`cluster_id`: of the Ray cluster in which it runs. `refresh_timeout_s`: time that a store
        has to answer a refresh.
        """
        self._settings = settings
        self._store = store
        self._clock = clock
        self._refresh_timeout_s = refresh_timeout_s
        self._counts = ReplicaCounts(settings, store, region)
        self._documents: Mapping[str, DocumentsStatus] = {}
        self._loads = ProcessLoads(clock, self._counts.load)
        self._loader = ReleaseLoader(
            settings, region, Catalog(store), cache, deployer, self._counts
        )
        self._releases = RegionReleases(self._loader, clock, self._observe, self._publish)
        driver = RolloutDriver(
            rollout=Rollout(region=region, policy=settings.rollout),
            store=store,
            log=ReleaseLog(store),
            host=self._releases,
            clock=clock,
            new_id=lambda: uuid.uuid4().hex,
            cluster_id=cluster_id,
            vitals=self._vitals,
            appended=RegionNudges(HttpNudges(settings, region)),
        )
        self._published = PublishedState(driver, lambda: self._releases.loaded, clock)
        self._rollout = RolloutThread(driver, self._published, store, clock)
        self._judge = CanaryJudge(clock)
        self._gateways = GatewaySpread(clock)
        self._mender = Mender(self._releases, self._loader, self._gateways)
        self._rollout.start()
        self._mender.start()

    def ping(self) -> None:
        """Returns, which shows that this coordinator takes calls."""

    def view(self, known_revision: str | None, wait_s: float) -> RegionView:
        """The region's view, as soon as it is another than the known one, or after `wait_s`."""
        return self._published.wait_for_view(known_revision, wait_s)

    def pulse(self, process: str, busy_share: float, releases: frozenset[int]) -> Pulse:
        """The pulse as known now. Takes in the load of the caller's process, and the releases that
        the process uses.
        """
        self._loads.report(process, busy_share)
        self._releases.report(process, releases)
        return self._published.pulse

    def refresh(self) -> Pulse:
        """The pulse after a complete reading of the log that began after this call arrived.

        Callers share readings. Raises Unavailable when the store does not answer in time.
        """
        self._rollout.refresh(self._refresh_timeout_s)
        return self._published.pulse

    def nudge(self) -> None:
        """The log may have grown: it is read at once instead of at its time."""
        self._rollout.nudge()

    def log_state(self) -> LogState:
        """All of it, which may be much: not for those who ask again and again."""
        return self._published.state

    def leader(self) -> str | None:
        """The region that leads, as far as the log was read."""
        return self._published.state.leader

    def proposal(self, number: int) -> Proposal | None:
        """The log's proposal of one release; None when the log was not read so far."""
        return self._published.state.proposals.get(number)

    def regions_prepared(self, number: int) -> frozenset[str]:
        """The regions that have prepared the release, as far as their heartbeats tell."""
        return self._published.prepared_in.get(number, frozenset())

    def failures(self, number: int) -> dict[str, str]:
        """The error of each region's last attempt to prepare the release, as far as the heartbeats
        tell.
        """
        heartbeats = self._published.pulse.regions.items()
        return {region: s.failed[number] for region, s in heartbeats if number in s.failed}

    def request(self, request: ReleaseRequest) -> int:
        """Appends what a person asks for. Returns the number of the release that it is about: of a
        proposal the new one, of a roll-back the one that is current from the switch on.

        Raises what `Rollout.decide` raises; NotFound, Corrupt or Unavailable for contents that the
        store does not hold as they were published, or is giving up. Then nothing is appended.
        """
        if isinstance(request, ProposeRelease):
            for target in request.targets:
                self._settings.region_name(target)
        state, now_ms = self._published.state, self._clock.wall_ms()
        keep_contents(self._store, request, state, now_ms)
        return release_of(request, self._rollout.request(request, _REQUEST_TIMEOUT_S))

    def report(self, report: OutcomeReport) -> None:
        """Takes in what a gateway has counted, and stops the canary when that shows a fault."""
        canary = self._published.view.canary
        reason = self._judge.take(report, None if canary is None else canary.release)
        if reason is not None:
            self._observe(CanaryFaulted(release=report.release, reason=reason))

    def documents(self, status: Mapping[str, DocumentsStatus]) -> None:
        """How far the region's documents are, by corpus, for its heartbeats."""
        self._documents = status

    def scale(self, corpus: str, replicas: int) -> None:
        """From now on at least so many replicas of each of the corpus's shards. Returns at once;
        they join the view as they come. Raises NotFound, InvalidArgument.
        """
        if not any(corpus in loaded.indexes for loaded in self._releases.loaded.values()):
            raise NotFound(f"no release that is resident here has a corpus {corpus!r}")
        self._counts.ask_for(corpus, replicas)

    def status(self) -> RegionSummary:
        now_ms, published = self._clock.wall_ms(), self._published
        state, view = published.state, published.view
        regions = overview(state, published.pulse.regions, self._settings.regions, now_ms)
        summary = summary_of(view, state, regions, now_ms, self._loader.num_serving)
        unreadable = self._rollout.unreadable
        return replace(
            summary,
            machines=self._loader.machines(self._gateways.placements()),
            log_trouble=None if unreadable is None else str(unreadable),
        )

    def gateway(self, process: str, node: str) -> GatewayOrder:
        """A gateway runs on that node; what it is to do about that. Gateways ask every second."""
        return self._gateways.report(process, node)

    def stop(self) -> None:
        """Ends its threads soon; what is loaded stays."""
        self._rollout.stop()
        self._mender.stop()

    # What the parts tell each other.

    def _observe(self, outcome: ReleaseOutcome) -> None:
        self._rollout.observe(outcome)

    def _publish(self) -> None:
        self._published.publish()

    def _vitals(self) -> Vitals:
        published, serving = self._published, self._loader.num_serving
        current = published.state.current(self._clock.wall_ms())
        return Vitals(
            healthy=is_healthy(published.view, current, serving),
            load=self._loads.load(),
            documents=self._documents,
        )
