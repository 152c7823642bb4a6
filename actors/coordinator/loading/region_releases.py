"""The releases of a region as they are loaded, kept alive, and unloaded."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from actors.coordinator.loading.departures import Departures
from actors.coordinator.loading.loaded_release import LoadedRelease
from actors.coordinator.loading.loader import ReleaseLoader
from cluster.clock import Clock
from cluster.errors import Corrupt, InvalidArgument, NotFound, RaygionError, Unavailable
from cluster.logs.context import bind, log_scope
from cluster.logs.events import EventLog
from cluster.releases.entries import Release
from cluster.releases.events import Prepared, PrepareFailed

log = EventLog(__name__)

_FOR_GOOD = (Corrupt, InvalidArgument, NotFound, AttributeError, ImportError, NameError, TypeError)
"""Errors of the store, the settings or the program that no further attempt puts right."""

_REASON_CHARS_MAX = 500

_STARTING_MAX = 16
"""Language models that are waited for at once, which a region has three of or so: for the current
release, the one before, and one that is open."""


class RegionReleases:
    """Carries out what the rollout wants of the region's releases. Thread-safe.

    Releases are prepared one after the other, up to the start of their language models. These are
    waited for beside the next release, since one that finds no place may never start. A release
    that is retired while it is being prepared is given up at once, and one that requests still use
    is unloaded when these are over (`actors.coordinator.loading.departures`).
    """

    def __init__(
        self,
        loader: ReleaseLoader,
        clock: Clock,
        prepared: Callable[[Prepared | PrepareFailed], None],
        retired: Callable[[], None],
    ) -> None:
        """`prepared` is told how the preparing of a release ended, if it was not given up.
        `retired` is called when a release is not to be served any more: from then on no view may
        name it.
        """
        self._loader = loader
        self._prepared = prepared
        self._retired = retired
        self._departures = Departures(clock)
        self._loaded: dict[int, LoadedRelease] = {}
        self._begun: dict[int, LoadedRelease] = {}
        """Releases of which parts may be loaded."""
        self._preparing: dict[int, threading.Event] = {}
        """Releases that are being prepared or wait for it; the event says to give up."""
        self._lock = threading.Lock()
        """Held while these change."""
        self._tending = threading.Lock()
        """Held while actors are ended or made anew, so that mending brings back nothing that was
        unloaded, and unloading ends nothing that another release has begun to count on."""
        self._may_have_strays = True
        """True when an earlier coordinator may have died before it had unloaded a release."""
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._starting = ThreadPoolExecutor(_STARTING_MAX, thread_name_prefix="start")

    @property
    def loaded(self) -> Mapping[int, LoadedRelease]:
        """The releases that are wholly loaded, by number."""
        with self._lock:
            return dict(self._loaded)

    def prepare(self, release: Release) -> None:
        """Starts to load the release beside those that serve."""
        log.info("release.preparing", "preparing release {release}", release=release.number)
        give_up = threading.Event()
        with self._lock:
            self._preparing[release.number] = give_up
        self._departures.end(release.number)
        self._loading.submit(self._load, release, give_up)

    def retire(self, number: int) -> None:
        """Has the release unloaded once nobody uses it."""
        log.info("release.retiring", "retiring release {release}", release=number)
        with self._lock:
            self._loaded.pop(number, None)
            if number in self._preparing:
                self._preparing[number].set()
        self._departures.begin(number)
        self._retired()

    def report(self, process: str, releases: frozenset[int]) -> None:
        """Records the releases that a gateway or the front uses; see `Departures.report`."""
        self._departures.report(process, releases)

    def tend(self) -> None:
        """Makes anew what was lost, brings the releases in line with the replicas that there should
        be, and unloads what is needed no more. Call it every few seconds, from one thread.
        """
        with self._tending:
            self._loader.mend(list(self.loaded.values()))
        for number, release in self.loaded.items():
            resized = self._loader.resized(release)
            with self._lock:
                if number in self._loaded:
                    self._loaded[number] = resized
        if self._may_have_strays:
            self._end_strays()
        for number in self._departures.due():
            with log_scope(release=number):
                try:
                    self._unload(number)
                except Exception as error:
                    log.error(
                        "release.not_unloaded",
                        "release {release} is not wholly unloaded; it is tried again",
                        release=number,
                        traceback_of=error,
                    )

    def _load(self, release: Release, give_up: threading.Event) -> None:
        bind(release=release.number)
        try:
            if give_up.is_set():
                raise Unavailable("nobody wants the release any more")
            planned = self._loader.plan(release)
            with self._tending:
                self._begun[release.number] = planned
            loaded = self._loader.load(planned, give_up)
        except Exception as error:
            self._ended(release.number, give_up, error)
        else:
            self._starting.submit(self._wait, loaded, give_up)

    def _wait(self, loaded: LoadedRelease, give_up: threading.Event) -> None:
        number = loaded.view.number
        bind(release=number)
        try:
            self._loader.wait_for_generator(loaded, give_up)
        except Exception as error:
            self._ended(number, give_up, error)
            return
        with self._lock:
            if not give_up.is_set():
                self._loaded[number] = loaded
        self._ended(number, give_up, None)

    def _ended(self, number: int, give_up: threading.Event, error: Exception | None) -> None:
        with self._lock:
            if self._preparing.get(number) is give_up:
                del self._preparing[number]
        if give_up.is_set():
            log.info(
                "release.given_up",
                "the preparing of release {release} was given up",
                release=number,
            )
        elif error is None:
            self._prepared(Prepared(release=number))
        else:
            log.error(
                "release.not_prepared",
                "release {release} cannot be prepared: {error}",
                release=number,
                error=error,
                traceback_of=error,
            )
            retryable = not isinstance(error, _FOR_GOOD)
            self._prepared(
                PrepareFailed(release=number, reason=_reason(error), retryable=retryable)
            )

    def _end_strays(self) -> None:
        """Once this coordinator has loaded what it wants, and no request uses anything else."""
        with self._tending:
            if self._loaded and not self._preparing and self._departures.only_uses(self._begun):
                self._loader.retire_strays(self._begun.values())
                self._may_have_strays = False

    def _unload(self, number: int) -> None:
        with self._tending:
            if number in self._preparing:
                return
            gone = self._begun.get(number)
            if gone is not None:
                kept = [begun for other, begun in self._begun.items() if other != number]
                self._loader.retire(gone, kept)
                del self._begun[number]
                log.info("release.unloaded", "release {release} is unloaded", release=number)
        self._departures.end(number)


def _reason(error: Exception) -> str:
    """The reason why a release cannot be prepared, in the words for people and the release log."""
    if isinstance(error, RaygionError):
        return str(error)
    reason = textwrap.shorten(f"{type(error).__name__}: {error}", _REASON_CHARS_MAX)
    return f"{reason} (the coordinator's log says where)"
