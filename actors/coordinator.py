"""The region coordinator: follows the release log and carries out what the rollout decides.

A named, detached actor that Ray restarts. It may be killed at any step: the next incarnation reads
the log and goes on, and serving never waits for it. One thread drives the rollout; the methods that
others call either read a published snapshot or leave a request for that thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from actors.release_loader import GeneratorDeployer, LoadedRelease, ReleaseLoader
from actors.replica_counts import ReplicaCounts
from cluster.answers import CanarySummary, CorpusSummary, RegionSummary, ReleaseSummary
from cluster.canary import CanaryBoard
from cluster.clock import SYSTEM_CLOCK, Clock
from cluster.config import Settings
from cluster.coordination import Decide, RolloutDriver
from cluster.errors import Fenced, NotFound, OutcomeUnknown, RaygionError, Unavailable
from cluster.numbered_object import NumberedLog
from cluster.object_store import ObjectStore
from cluster.outcomes import OutcomeReport
from cluster.region_view import RegionView
from cluster.releases import RELEASE_LOG, LogState, Release, ReleaseContents
from cluster.rollout import Rollout
from cluster.rollout_events import CanaryFaulted, Outcome, Prepared, PrepareFailed

log = logging.getLogger(__name__)

_TICK_S = 1.0
_HEARTBEAT_STEPS = 2
_MEND_TICKS = 2
_REQUEST_TIMEOUT_S = 60.0
_RETIRE_AFTER_S = 2.0
"""From the view that names a release no more to its unloading: for gateways to see that view, and
to end the searches that they began before.
"""
_SWITCHES_PUBLISHED = 16
"""Enough for the current release, the one before and what is due; a view stays small for ever."""


@dataclass(slots=True)
class _Request:
    """Something a person asked for: `decide` gives the entry to append, or raises."""

    decide: Decide
    done: Future[LogState]


class Coordinator:
    def __init__(
        self,
        settings: Settings,
        region: str,
        store: ObjectStore,
        cache_folder: Path,
        deployer: GeneratorDeployer,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._clock = clock
        self._rollout = Rollout(region=region)
        self._driver = RolloutDriver(
            rollout=self._rollout,
            store=store,
            log=NumberedLog(store, RELEASE_LOG),
            host=self,
            clock=clock,
            new_id=lambda: uuid.uuid4().hex,
        )
        self._counts = ReplicaCounts(settings, store, region)
        self._loader = ReleaseLoader(settings, store, cache_folder, deployer, self._counts)
        self._begun: dict[int, LoadedRelease] = {}
        """Releases of which parts may be loaded; only the thread that prepares uses it."""
        self._loaded: dict[int, LoadedRelease] = {}
        self._inbox: queue.Queue[_Request | Outcome] = queue.Queue(maxsize=256)
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._board: CanaryBoard | None = None
        self._judging = threading.Lock()
        """Held while a report on the canary is taken in."""
        self._holding = threading.Lock()
        """Held while a loaded release is replaced or dropped."""
        self._tending = threading.Lock()
        """Held while actors are ended or made anew, so that mending brings back nothing retired."""
        self._published = threading.Condition()
        self._view = RegionView(region=region, revision=uuid.uuid4().hex)
        self._state = self._rollout.state
        self._prepared_in: Mapping[int, frozenset[str]] = {}
        threading.Thread(target=self._run, name="rollout", daemon=True).start()
        threading.Thread(target=self._mend, name="mend", daemon=True).start()

    # What others call; each call runs in a thread of its own.

    def view(self, known_revision: str | None, wait_s: float) -> RegionView:
        """The region's view, as soon as it is another than the known one, or after `wait_s`."""
        with self._published:
            self._published.wait_for(lambda: self._view.revision != known_revision, wait_s)
            return self._view

    def log_state(self) -> LogState:
        return self._state

    def regions_prepared(self, number: int) -> frozenset[str]:
        """The regions that have prepared the release, as far as their heartbeats tell."""
        return self._prepared_in.get(number, frozenset())

    def propose(
        self, contents: ReleaseContents, targets: tuple[str, ...], auto_commit: bool
    ) -> int:
        """Appends a proposal and returns its release number. Raises Conflict."""
        state = self._ask(
            lambda rollout, now_ms, commit_id: rollout.propose(
                contents,
                targets=targets,
                auto_commit=auto_commit,
                now_ms=now_ms,
                commit_id=commit_id,
            )
        )
        return state.next_release - 1

    def canary(self, number: int, percent: int) -> LogState:
        """Gives a prepared release a share of the traffic; 0 ends that. Raises Conflict, NotFound,
        InvalidArgument.
        """
        return self._ask(lambda r, now, cid: r.share(number, percent, now_ms=now, commit_id=cid))

    def report(self, report: OutcomeReport) -> None:
        """Takes in what a gateway has counted, and stops the canary when that shows a fault."""
        canary = self._view.canary
        with self._judging:
            if canary is None or report.release != canary.release:
                self._board = None
                return
            if self._board is None or self._board.release != canary.release:
                self._board = CanaryBoard(canary.release)
            now_s = self._clock.monotonic_s()
            self._board.take(report, now_s)
            reason = self._board.fault(now_s)
        if reason is not None:
            log.error("ALERT: canary release %d is at fault: %s", report.release, reason)
            # When too much waits there, the next report shows the fault again.
            with contextlib.suppress(queue.Full):
                self._inbox.put_nowait(CanaryFaulted(release=report.release, reason=reason))

    def commit(self, number: int) -> LogState:
        """Raises Conflict when a target region is not prepared, NotFound."""
        return self._ask(lambda r, now, cid: r.commit(number, now_ms=now, commit_id=cid))

    def abort(self, number: int, reason: str) -> LogState:
        return self._ask(
            lambda r, now, cid: r.abort(number, reason=reason, now_ms=now, commit_id=cid)
        )

    def rollback(self, number: int | None) -> LogState:
        """Back to release `number`, or to the one before the current one (None)."""
        return self._ask(lambda r, now, cid: r.rollback(number, now_ms=now, commit_id=cid))

    def scale(self, corpus: str, replicas: int) -> None:
        """From now on at least so many replicas of each of the corpus's shards. Returns at once;
        they join the view as they come. Raises NotFound, InvalidArgument.
        """
        if not any(corpus in loaded.indexes for loaded in list(self._loaded.values())):
            raise NotFound(f"no release that is resident here has a corpus {corpus!r}")
        self._counts.ask_for(corpus, replicas)

    def status(self) -> RegionSummary:
        view, state = self._view, self._state
        resident = tuple(
            ReleaseSummary(
                release=number,
                corpora=tuple(
                    CorpusSummary(
                        corpus=corpus.corpus,
                        index_version=corpus.index_version,
                        num_passages=corpus.num_passages,
                        recall_at_10=corpus.recall_at_10,
                        shards=len(corpus.shards),
                        replicas=sum(len(shard) for shard in corpus.shards),
                        replicas_serving=self._loader.num_serving(corpus),
                    )
                    for corpus in release.corpora.values()
                ),
                model=None if release.generator is None else release.generator.model,
            )
            for number, release in sorted(view.releases.items())
        )
        corpora = [corpus for release in resident for corpus in release.corpora]
        current = state.current(self._clock.wall_ms())
        return RegionSummary(
            region=view.region,
            release=current,
            resident=resident,
            leader=state.leader,
            epoch=state.epoch,
            log_position=state.position,
            canary=None
            if view.canary is None
            else CanarySummary(release=view.canary.release, percent=view.canary.percent),
            healthy=current in view.releases
            and all(corpus.replicas_serving == corpus.replicas for corpus in corpora),
        )

    def _ask(self, decide: Decide) -> LogState:
        request = _Request(decide, Future())
        try:
            self._inbox.put_nowait(request)
        except queue.Full as error:
            raise Unavailable("the coordinator has too many requests waiting") from error
        try:
            return request.done.result(timeout=_REQUEST_TIMEOUT_S)
        except TimeoutError as error:
            raise OutcomeUnknown(
                "the coordinator did not finish in time; look with `raygion release list`"
            ) from error

    # The thread that drives the rollout.

    def _run(self) -> None:
        steps = 0
        while True:
            exchange = steps % _HEARTBEAT_STEPS == 0
            if self._attempt(partial(self._driver.step, exchange_heartbeats=exchange)):
                steps += 1
            try:
                item = self._inbox.get(timeout=_TICK_S)
            except queue.Empty:
                continue
            if isinstance(item, _Request):
                self._serve(item)
            else:
                self._attempt(partial(self._driver.observe, item))

    def _attempt(self, action: Callable[[], None]) -> bool:
        """Whether it went well; what failed is taken up again by the next step."""
        try:
            action()
        except Fenced as error:
            log.error("%s", error)
            # Ray starts the coordinator anew, unless this one is a leftover of a lost node.
            os._exit(1)
        except RaygionError as error:
            log.warning("the coordinator will try again: %s", error)
            return False
        except Exception:
            # This thread is the coordinator: a bug in one step must not end all steps.
            log.exception("a step of the coordinator failed")
            return False
        finally:
            self._publish()
        return True

    def _serve(self, request: _Request) -> None:
        try:
            state = self._driver.request(request.decide)
        except Exception as error:
            request.done.set_exception(error)
        else:
            self._publish()
            request.done.set_result(state)

    # What the rollout has the region do.

    def prepare(self, release: Release) -> None:
        """Starts to load the release beside those that serve."""
        log.info("preparing release %d", release.number)
        future = self._preparing.submit(self._load, release)
        future.add_done_callback(lambda f: self._prepared(release.number, f))

    def retire(self, number: int) -> None:
        """Unloads the release, once no view names it any more."""
        log.info("retiring release %d", number)
        with self._holding:
            self._loaded.pop(number, None)
        self._publish()
        # After what is being prepared, which may need parts of what goes.
        self._preparing.submit(self._unload, number)

    def _load(self, release: Release) -> LoadedRelease:
        planned = self._loader.plan(release)
        self._begun[release.number] = planned
        self._loader.load(planned)
        return planned

    def _unload(self, number: int) -> None:
        gone = self._begun.pop(number, None)
        if gone is None:
            return
        time.sleep(_RETIRE_AFTER_S)
        try:
            with self._tending:
                self._loader.retire(gone, list(self._begun.values()))
        except Exception:
            log.exception("release %d is not wholly unloaded", number)

    def _prepared(self, number: int, future: Future[LoadedRelease]) -> None:
        if (error := future.exception()) is None:
            self._loaded[number] = future.result()
            self._inbox.put(Prepared(release=number))
        else:
            log.error("release %d cannot be prepared", number, exc_info=error)
            reason = (
                str(error) if isinstance(error, RaygionError) else "an internal error; see the log"
            )
            self._inbox.put(PrepareFailed(release=number, reason=reason))

    def _publish(self) -> None:
        state = self._rollout.state
        prepared = self._rollout.prepared()
        resident = state.resident(self._clock.wall_ms())
        canary = self._rollout.canary(self._clock.wall_ms())
        view = RegionView(
            region=self._rollout.region,
            releases={n: x.view for n, x in sorted(self._loaded.items()) if n in prepared},
            switches=state.switches[-_SWITCHES_PUBLISHED:],
            canary=None if canary is None or canary.release not in prepared else canary,
            revision=self._view.revision,
        )
        with self._published:
            self._state = state
            self._prepared_in = {n: self._rollout.regions_prepared(n) for n in resident}
            if view != self._view:
                self._view = replace(view, revision=uuid.uuid4().hex)
                self._published.notify_all()

    # The thread that keeps what is loaded alive.

    def _mend(self) -> None:
        pause = threading.Event()
        while not pause.wait(_TICK_S * _MEND_TICKS):
            try:
                with self._tending:
                    self._loader.mend(list(self._loaded.values()))
                self._resize()
            except Exception:
                log.exception("mending failed; it is tried again")

    def _resize(self) -> None:
        """Brings the views in line with the replicas that there should be, and are."""
        for number, loaded in list(self._loaded.items()):
            resized = self._loader.resized(loaded)
            with self._holding:
                if number in self._loaded:
                    self._loaded[number] = resized
