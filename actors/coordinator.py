"""The region coordinator: follows the release log and carries out what the rollout decides.

A named, detached actor that Ray restarts. It may be killed at any step: the next incarnation reads
the log and goes on, and serving never waits for it. One thread owns the rollout; the methods that
others call either read a published snapshot or leave a request for that thread.
"""

from __future__ import annotations

import logging
import queue
import threading
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from actors.release_loader import GeneratorDeployer, LoadedRelease, ReleaseLoader
from cluster.answers import CorpusSummary, RegionSummary, ReleaseSummary
from cluster.clock import SYSTEM_CLOCK, Clock, Deadline
from cluster.config import Settings
from cluster.errors import Conflict, NotFound, OutcomeUnknown, RaygionError, Unavailable
from cluster.numbered_object import NumberedLog
from cluster.object_store import ObjectStore
from cluster.region_view import RegionView
from cluster.releases import RELEASE_LOG, LogEntry, LogState, ReleaseContents, parse_entry
from cluster.rollout import (
    Append,
    EntryRead,
    Event,
    HeartbeatsRead,
    Instruction,
    LogCaughtUp,
    Prepare,
    Prepared,
    PrepareFailed,
    RegionStatus,
    Retire,
    Rollout,
    Ticked,
)

log = logging.getLogger(__name__)

_TICK_S = 1.0
_HEARTBEAT_TICKS = 2
_MEND_TICKS = 2
_APPEND_TIMEOUT_S = 20.0
_REQUEST_TIMEOUT_S = 60.0
_REQUEST_ATTEMPTS = 5
_SWITCHES_PUBLISHED = 16
"""Enough for the current release, the one before and what is due; a view stays small for ever."""


@dataclass(slots=True)
class _Request:
    """Something a person asked for: `decide` gives the entry to append, or raises."""

    decide: Callable[[Rollout, int, str], Append]
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
        self._store = store
        self._log = NumberedLog(store, RELEASE_LOG)
        self._rollout = Rollout(region=region)
        self._loader = ReleaseLoader(settings, store, cache_folder, deployer)
        self._loaded: dict[int, LoadedRelease] = {}
        self._inbox: queue.Queue[_Request | Event] = queue.Queue(maxsize=256)
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._published = threading.Condition()
        self._view = RegionView(region=region, revision=uuid.uuid4().hex)
        self._state = self._rollout.state
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
        return self._rollout.regions_prepared(number)

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
            healthy=current in view.releases
            and all(corpus.replicas_serving == corpus.replicas for corpus in corpora),
        )

    def _ask(self, decide: Callable[[Rollout, int, str], Append]) -> LogState:
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

    # The thread that owns the rollout.

    def _run(self) -> None:
        ticks = 0
        while True:
            try:
                self._process(self._read_log())
                if ticks % _HEARTBEAT_TICKS == 0:
                    self._process([self._exchange_heartbeats()])
                self._process([LogCaughtUp(), Ticked()])
            except RaygionError as error:
                log.warning("the coordinator will try again: %s", error)
            except Exception:
                # This thread is the coordinator: a bug in one step must not end all steps.
                log.exception("a step of the coordinator failed")
            self._wait_for_inbox()
            ticks += 1

    def _wait_for_inbox(self) -> None:
        try:
            item = self._inbox.get(timeout=_TICK_S)
        except queue.Empty:
            return
        if isinstance(item, _Request):
            self._serve(item)
        else:
            self._process([item])

    def _serve(self, request: _Request) -> None:
        """Appends what a person asked for; decides again when another writer came first."""
        try:
            for _ in range(_REQUEST_ATTEMPTS):
                self._process(self._read_log())
                now_ms, commit_id = self._clock.wall_ms(), uuid.uuid4().hex
                append = request.decide(self._rollout, now_ms, commit_id)
                if self._append(append):
                    self._process(self._read_log())
                    request.done.set_result(self._rollout.state)
                    return
            raise Conflict("other writers kept coming first; try again")
        except Exception as error:
            request.done.set_exception(error)

    def _process(self, events: list[Event]) -> None:
        pending = deque(events)
        while pending:
            now_ms = self._clock.wall_ms()
            event = pending.popleft()
            instructions = self._rollout.handle(event, now_ms=now_ms, commit_id=uuid.uuid4().hex)
            for instruction in instructions:
                pending.extend(self._execute(instruction))
        self._publish()

    def _execute(self, instruction: Instruction) -> list[Event]:
        match instruction:
            case Append():
                self._append(instruction)
                return self._read_log()
            case Prepare(release=release):
                log.info("preparing release %d", release.number)
                future = self._preparing.submit(self._loader.prepare, release)
                future.add_done_callback(lambda f: self._prepared(release.number, f))
            case Retire(release=number):
                gone = self._loaded.pop(number, None)
                if gone is not None:
                    log.info("retiring release %d", number)
                    self._publish()
                    self._loader.retire(gone, self._loaded.values())
        return []

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

    def _append(self, append: Append) -> bool:
        """Whether the entry landed; False when the place was taken by another writer."""
        entry: LogEntry = append.entry

        def is_mine(data: bytes) -> bool:
            return parse_entry(data, position=append.position).commit_id == entry.commit_id

        try:
            self._log.append_at(
                append.position,
                entry.to_bytes(),
                is_mine=is_mine,
                deadline=Deadline.after(_APPEND_TIMEOUT_S, self._clock),
            )
        except Conflict:
            return False
        return True

    def _read_log(self) -> list[Event]:
        entries = self._log.read_after(self._rollout.state.position)
        return [EntryRead(entry=parse_entry(data, position=n)) for n, data in entries]

    def _exchange_heartbeats(self) -> HeartbeatsRead:
        own = self._rollout.heartbeat(self._clock.wall_ms())
        self._store.put(_heartbeat_path(own.region), own.to_bytes())
        statuses = {own.region: own}
        for region in self._store.list_folders("regions"):
            if region != own.region:
                try:
                    path = _heartbeat_path(region)
                    statuses[region] = RegionStatus.from_bytes(self._store.get(path), source=path)
                except NotFound:
                    continue
        return HeartbeatsRead(statuses=statuses)

    def _publish(self) -> None:
        state = self._rollout.state
        prepared = self._rollout.prepared()
        view = RegionView(
            region=self._rollout.region,
            releases={n: x.view for n, x in sorted(self._loaded.items()) if n in prepared},
            switches=state.switches[-_SWITCHES_PUBLISHED:],
            revision=self._view.revision,
        )
        with self._published:
            self._state = state
            if view != self._view:
                self._view = replace(view, revision=uuid.uuid4().hex)
                self._published.notify_all()

    # The thread that keeps what is loaded alive.

    def _mend(self) -> None:
        pause = threading.Event()
        while not pause.wait(_TICK_S * _MEND_TICKS):
            try:
                self._loader.mend(list(self._loaded.values()))
            except Exception:
                log.exception("mending failed; it is tried again")


def _heartbeat_path(region: str) -> str:
    return f"regions/{region}/status.json"
