"""The region coordinator: follows the release log and carries out what the rollout decides.

A named, detached actor that Ray restarts. It may be killed at any step: the next incarnation reads
the log and goes on, and serving never waits for it. One thread drives the rollout, and waits for
the store; the methods that others call read a published snapshot, tell of what was observed, or
leave a request for that thread.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import assert_never

from actors.coordinator.canary_judge import CanaryJudge
from actors.coordinator.gateway_spread import GatewayOrder, GatewaySpread
from actors.coordinator.loading.generator_deployer import GeneratorDeployer
from actors.coordinator.loading.loader import ReleaseLoader
from actors.coordinator.loading.region_releases import RegionReleases
from actors.coordinator.loading.replica_counts import ReplicaCounts
from actors.coordinator.log_readings import LogReadings
from actors.coordinator.nudges import HttpNudges, RegionNudges
from actors.coordinator.process_loads import ProcessLoads
from actors.coordinator.region_summary import is_healthy, pulse_of, summary_of, view_of
from cluster.canary.outcomes import OutcomeReport
from cluster.catalog.catalog import Catalog
from cluster.clock import SYSTEM_CLOCK, Clock
from cluster.config import Settings
from cluster.errors import Fenced, NotFound, OutcomeUnknown, RaygionError, Unavailable
from cluster.logs.events import EventLog
from cluster.regions.overview import overview
from cluster.regions.status import RegionSummary
from cluster.releases.contents import claim_release, read_manifests
from cluster.releases.driver import RolloutDriver, Vitals
from cluster.releases.entries import LogState, Proposal, Release
from cluster.releases.events import CanaryFaulted, Outcome
from cluster.releases.release_log import ReleaseLog
from cluster.releases.requests import (
    AbortRelease,
    CommitRelease,
    ProposeRelease,
    ReleaseRequest,
    RollBackTo,
    SetShare,
    release_of,
)
from cluster.releases.rollout import Rollout
from cluster.serving.view import Pulse, RegionView
from cluster.store.identity import store_identity
from cluster.store.object_store import ObjectStore

log = EventLog(__name__)

_TICK_S = 0.5
_MEND_S = 2.0
_REQUEST_TIMEOUT_S = 60.0
_REFRESH_TIMEOUT_S = 2.0


@dataclass(slots=True)
class _Request:
    """Something that a person asked for."""

    wanted: ReleaseRequest
    done: Future[LogState]


class Coordinator:
    def __init__(
        self,
        settings: Settings,
        region: str,
        store: ObjectStore,
        cache_folder: Path,
        deployer: GeneratorDeployer,
        cluster_id: str,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`cluster_id`: of the Ray cluster in which it runs."""
        self._settings = settings
        self._store = store
        self._catalog = Catalog(store)
        self._store_id = ""
        self._clock = clock
        self._counts = ReplicaCounts(settings, store, region)
        self._loads = ProcessLoads(clock, self._counts.load)
        self._rollout = Rollout(region=region, policy=settings.rollout)
        self._driver = RolloutDriver(
            rollout=self._rollout,
            store=store,
            log=ReleaseLog(store),
            host=self,
            clock=clock,
            new_id=lambda: uuid.uuid4().hex,
            cluster_id=cluster_id,
            vitals=self._vitals,
            appended=RegionNudges(HttpNudges(settings, region)),
        )
        self._loader = ReleaseLoader(settings, region, store, cache_folder, deployer, self._counts)
        self._inbox: queue.Queue[_Request | None] = queue.Queue(maxsize=256)
        """None only wakes the thread up."""
        self._releases = RegionReleases(self._loader, clock, self._observe)
        self._woken = threading.Event()
        """Whether the next reading of the log is not to wait for its time."""
        self._readings = LogReadings()
        self._exchanged_s = float("-inf")
        self._has_news = threading.Event()
        """Whether the next heartbeat is not to wait for its time: the leader waits for it."""
        self._trouble = ""
        """Error of the last step; empty if it succeeded."""
        self._judge = CanaryJudge(clock)
        self._gateways = GatewaySpread(clock)
        self._ending = threading.Event()
        self._published = threading.Condition()
        self._view = RegionView(region=region, revision=uuid.uuid4().hex)
        self._state = self._rollout.state
        self._pulse = Pulse()
        self._prepared_in: Mapping[int, frozenset[str]] = {}
        threading.Thread(target=self._run, name="rollout", daemon=True).start()
        threading.Thread(target=self._mend, name="mend", daemon=True).start()

    # Methods for callers; each call runs in a thread of its own.

    def ping(self) -> None:
        """Returns, which shows that this coordinator takes calls."""

    def view(self, known_revision: str | None, wait_s: float) -> RegionView:
        """The region's view, as soon as it is another than the known one, or after `wait_s`."""
        with self._published:
            self._published.wait_for(lambda: self._view.revision != known_revision, wait_s)
            return self._view

    def pulse(self, process: str, busy_share: float, releases: frozenset[int]) -> Pulse:
        """The pulse as known now. Takes in the load of the caller's process, and the releases that
        the process uses.
        """
        self._loads.tell(process, busy_share)
        self._releases.tell(process, releases)
        return self._pulse

    def refresh(self) -> Pulse:
        """The pulse after a complete reading of the log that began after this call arrived.

        Callers share readings. Raises Unavailable when the store does not answer in time.
        """
        number = self._readings.next()
        self.nudge()
        self._readings.wait(number, _REFRESH_TIMEOUT_S)
        return self._pulse

    def nudge(self) -> None:
        """The log may have grown: it is read at once instead of at its time."""
        if not self._woken.is_set():
            self._woken.set()
            # When much waits there, the log is read soon anyway: before each of it.
            with contextlib.suppress(queue.Full):
                self._inbox.put_nowait(None)

    def log_state(self) -> LogState:
        """All of it, which may be much: not for those who ask again and again."""
        return self._state

    def leader(self) -> str | None:
        """The region that leads, as far as the log was read."""
        return self._state.leader

    def proposal(self, number: int) -> Proposal | None:
        """The log's proposal of one release; None when the log was not read so far."""
        return self._state.proposals.get(number)

    def regions_prepared(self, number: int) -> frozenset[str]:
        """The regions that have prepared the release, as far as their heartbeats tell."""
        return self._prepared_in.get(number, frozenset())

    def failures(self, number: int) -> dict[str, str]:
        """The error of each region's last attempt to prepare the release, as far as the heartbeats
        tell.
        """
        heartbeats = self._pulse.regions.items()
        return {region: s.failed[number] for region, s in heartbeats if number in s.failed}

    def request(self, request: ReleaseRequest) -> int:
        """Appends what a person asks for. Returns the number of the release that it is about: of a
        proposal the new one, of a roll-back the one that is current from the switch on.

        Raises what `Rollout.decide` raises; NotFound, Corrupt or Unavailable for contents that the
        store does not hold as they were published, or is giving up. Then nothing is appended.
        """
        self._keep_contents(request)
        return release_of(request, self._ask(request))

    def _keep_contents(self, request: ReleaseRequest) -> None:
        """Makes sure that the store holds what the request leads to, and goes on to hold it."""
        match request:
            case ProposeRelease(contents=contents, targets=targets):
                for target in targets:
                    self._settings.region_name(target)
                manifests = read_manifests(self._catalog, contents, contents.indexes)
                manifests.check_embedder()
                claim_release(self._store, contents, manifests)
            case RollBackTo(release=number):
                proposal = self._state.proposals.get(number or 0)
                resident = self._state.resident(self._clock.wall_ms())
                if proposal is not None and number not in resident:
                    contents = proposal.release.contents
                    manifests = read_manifests(self._catalog, contents, contents.indexes)
                    claim_release(self._store, contents, manifests)
            case SetShare() | CommitRelease() | AbortRelease():
                pass
            case _:
                assert_never(request)

    def report(self, report: OutcomeReport) -> None:
        """Takes in what a gateway has counted, and stops the canary when that shows a fault."""
        canary = self._view.canary
        reason = self._judge.take(report, None if canary is None else canary.release)
        if reason is not None:
            self._observe(CanaryFaulted(release=report.release, reason=reason))

    def scale(self, corpus: str, replicas: int) -> None:
        """From now on at least so many replicas of each of the corpus's shards. Returns at once;
        they join the view as they come. Raises NotFound, InvalidArgument.
        """
        if not any(corpus in loaded.indexes for loaded in self._releases.loaded.values()):
            raise NotFound(f"no release that is resident here has a corpus {corpus!r}")
        self._counts.ask_for(corpus, replicas)

    def status(self) -> RegionSummary:
        now_ms = self._clock.wall_ms()
        regions = overview(self._state, self._pulse.regions, self._settings.regions, now_ms)
        told = summary_of(self._view, self._state, regions, now_ms, self._loader.num_serving)
        unreadable = self._driver.unreadable
        return replace(
            told,
            machines=self._loader.machines(self._gateways.places()),
            log_trouble=None if unreadable is None else str(unreadable),
        )

    def gateway(self, process: str, node: str) -> GatewayOrder:
        """A gateway runs on that node; what it is to do about that. Gateways ask every second."""
        return self._gateways.tell(process, node)

    def stop(self) -> None:
        """Ends its threads soon; what is loaded stays."""
        self._ending.set()

    def _ask(self, wanted: ReleaseRequest) -> LogState:
        request = _Request(wanted, Future())
        try:
            self._inbox.put_nowait(request)
        except queue.Full as error:
            raise Unavailable(
                "too many requests wait for the coordinator; try again shortly"
            ) from error
        try:
            return request.done.result(timeout=_REQUEST_TIMEOUT_S)
        except TimeoutError as error:
            if request.done.cancel():
                raise Unavailable(
                    "the coordinator was busy and made no change; try again"
                ) from error
            raise OutcomeUnknown(
                "the coordinator did not finish in time; look with `raygion release list`"
            ) from error

    def _observe(self, outcome: Outcome) -> None:
        """Records an outcome in the thread that found it, so that it counts at once, however slow
        the store is.
        """
        self._driver.observe(outcome)
        self._publish()
        self._has_news.set()
        self.nudge()

    # The thread that drives the rollout.

    def _run(self) -> None:
        while not self._ending.is_set():
            self._look()
            try:
                item = self._inbox.get(timeout=_TICK_S)
            except queue.Empty:
                continue
            if item is not None:
                self._serve(item)

    def _look(self) -> None:
        """Reads the log, lets those go on who wait for that, and does what follows from it."""
        self._woken.clear()
        self._readings.begin()
        read = self._attempt(self._driver.read)
        self._readings.end(complete=read, reason=self._trouble)
        if not read and self._driver.unreadable is None:
            return
        now_s = self._clock.monotonic_s()
        exchange = self._has_news.is_set() or now_s - self._exchanged_s >= _TICK_S / 2
        self._has_news.clear()
        if not self._attempt(partial(self._driver.decide, exchange_heartbeats=exchange)):
            return
        if exchange:
            self._exchanged_s = now_s
        # Not before this cluster may write under the region's name.
        if (self._store_id or self._attempt(self._read_store_id)) and read:
            self._trouble = ""

    def _read_store_id(self) -> None:
        self._store_id = store_identity(self._store)

    def _attempt(self, action: Callable[[], None]) -> bool:
        """True when the action succeeded. The next step tries an action that failed again."""
        try:
            action()
        except Fenced as error:
            log.error("coordinator.fenced", "{error}", error=error)
            # Ray starts the coordinator anew, unless this one is a leftover of a lost node.
            os._exit(1)
        except RaygionError as error:
            # Once: the next steps, twice a second, may well fail in the same way.
            if str(error) != self._trouble:
                log.warning(
                    "coordinator.tries_again",
                    "the coordinator will try again: {error}",
                    error=error,
                )
            self._trouble = str(error)
            return False
        except Exception as error:
            # This thread is the coordinator: a bug in one step must not end all steps.
            log.error(
                "coordinator.step_failed",
                "a step of the coordinator failed: {error}",
                error=error,
                traceback_of=error,
            )
            return False
        finally:
            self._publish()
        return True

    def _vitals(self) -> Vitals:
        current, serving = self._state.current(self._clock.wall_ms()), self._loader.num_serving
        return Vitals(healthy=is_healthy(self._view, current, serving), load=self._loads.load())

    def _serve(self, request: _Request) -> None:
        if not request.done.set_running_or_notify_cancel():
            return
        try:
            state = self._driver.request(request.wanted)
        except Exception as error:
            request.done.set_exception(error)
        else:
            self._publish()
            request.done.set_result(state)

    # Instructions of the rollout to the region.

    def prepare(self, release: Release) -> None:
        self._releases.prepare(release)

    def retire(self, number: int) -> None:
        self._releases.retire(number)
        self._publish()

    def _publish(self) -> None:
        with self._driver.deciding, self._published:
            state, now_ms = self._rollout.state, self._clock.wall_ms()
            view = view_of(self._rollout, self._releases.loaded, now_ms, self._view.revision)
            self._state = state
            self._pulse = pulse_of(self._rollout, self._driver.freshness, self._store_id)
            resident = state.resident(now_ms)
            self._prepared_in = {n: self._rollout.regions_prepared(n) for n in resident}
            if view != self._view:
                self._view = replace(view, revision=uuid.uuid4().hex)
                self._published.notify_all()

    # The thread that keeps what is loaded alive.

    def _mend(self) -> None:
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
