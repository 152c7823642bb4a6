"""Garbage collection of the store: what no kept release, no newest version and no writer needs.

    found unreferenced --(a mark says since when)--> unreferenced for the grace period --> removed

Two collections that lie at least the grace period apart have to find an object unreferenced, and
every one between. Collected are index manifests, model manifests and blobs; logs (of releases, of
corpora) never. See `cluster.artifacts.claims` for how a writer is kept from naming what is being
removed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import uuid4

from cluster.artifacts.claims import (
    CLAIMS,
    GRACE_MIN_S,
    SWEEP_HEEDED_MS,
    SWEEPS,
    Claim,
    Sweep,
    store_object,
)
from cluster.artifacts.fetch import blob_path
from cluster.catalog.catalog import Catalog, index_path, model_path
from cluster.catalog.index_versions import newest_index
from cluster.catalog.manifests import IndexManifest, ModelManifest, blobs_of
from cluster.clock import SYSTEM_CLOCK, Clock
from cluster.errors import Conflict, InvalidArgument, NotFound, RaygionError
from cluster.logs.events import EventLog
from cluster.records import Record
from cluster.releases.contents import manifest_paths
from cluster.releases.entries import LogState
from cluster.releases.events import REGIONS
from cluster.releases.region_name_watch import read_heartbeats
from cluster.releases.release_log import read_release_log
from cluster.store.numbered_log import read_each
from cluster.store.object_store import ObjectStore
from cluster.store.stored_object import StoredObject

log = EventLog(__name__)

MARKS = "gc/marks"
_BLOBS = "artifacts/sha256"
_BLOB_NAME = re.compile(r"[0-9a-f]{64}")
_MARK_NAME = re.compile(r"([0-9]{20})\.json")
_JSON = ".json"


class Mark(Record):
    """The objects that a collection found unreferenced, and since when collections have found them
    so.
    """

    since_ms: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The result of a collection; for a dry run, the result that it would have had."""

    kept_releases: tuple[int, ...]
    removed_objects: int
    removed_bytes: int
    waiting_objects: int
    """Unreferenced, but not yet for as long as the grace period."""
    waiting_bytes: int
    dry_run: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Survey:
    """The store at one moment."""

    kept_releases: tuple[int, ...]
    objects: Mapping[str, StoredObject]
    loose: frozenset[str]
    """Objects that nothing needs but, perhaps, a loose manifest."""
    named: Mapping[str, frozenset[str]]
    """Blobs of each loose manifest."""

    def doomed(self, since_ms: Mapping[str, int], cutoff_ms: int) -> frozenset[str]:
        """The objects that were unreferenced before the cutoff already, and still are."""
        old = {path for path in self.loose if since_ms.get(path, cutoff_ms) < cutoff_ms}
        young = (blobs for manifest, blobs in self.named.items() if manifest not in old)
        return frozenset(old.difference(*young))

    def size_bytes(self, paths: Iterable[str]) -> int:
        return sum(self.objects[path].size_bytes for path in paths)


def kept_releases(state: LogState, keep: int, now_ms: int) -> tuple[int, ...]:
    """The releases that were current last, `keep` of them, and all that a region keeps loaded."""
    last_first = dict.fromkeys(switch.release for switch in reversed(state.switches))
    return tuple(sorted({*list(last_first)[:keep], *state.resident(now_ms)}))


class StoreCollector:
    """Removes what nothing needs. May run beside writers, and beside other collectors."""

    def __init__(self, store: ObjectStore, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store = store
        self._clock = clock
        self._catalog = Catalog(store)

    def collect(self, *, keep: int, grace_s: float, dry_run: bool = False) -> Collected:
        """Keeps the last `keep` committed releases, the open one, those that regions said within
        the grace period to hold, and the newest versions.

        Raises InvalidArgument for a keep below 1 or a grace below ten minutes; Corrupt when
        something cannot be read that may name objects (nothing is removed then); Conflict when
        another collection was faster; the errors of the store. An interrupted collection is resumed
        by the next one.
        """
        if keep < 1:
            raise InvalidArgument("at least the current release has to be kept", "keep")
        if not GRACE_MIN_S <= grace_s < math.inf:
            raise InvalidArgument(f"must be at least {GRACE_MIN_S / 60:.0f} minutes", "grace")
        now_ms = self._clock.wall_ms()
        cutoff_ms = now_ms - int(grace_s * 1000)
        number, marked = self._last_mark()
        survey = self._survey(keep, cutoff_ms)
        doomed = survey.doomed(marked, cutoff_ms)
        if not dry_run:
            since = {path: marked.get(path, now_ms) for path in survey.loose}
            self._write_mark(number + 1, Mark(since_ms=since))
            if doomed:
                doomed = self._sweep(doomed, marked, keep, cutoff_ms)
            self._tidy(now_ms, cutoff_ms - int(grace_s * 1000), number)
        waiting = survey.loose - doomed
        return Collected(
            kept_releases=survey.kept_releases,
            removed_objects=len(doomed),
            removed_bytes=survey.size_bytes(doomed),
            waiting_objects=len(waiting),
            waiting_bytes=survey.size_bytes(waiting),
            dry_run=dry_run,
        )

    def _sweep(
        self, doomed: frozenset[str], marked: Mapping[str, int], keep: int, cutoff_ms: int
    ) -> frozenset[str]:
        """Removes those that are still loose now that every writer is warned; gives them."""
        at_ms = self._clock.wall_ms()
        path = f"{SWEEPS}/{uuid4().hex}{_JSON}"
        store_object(self._store, path, Sweep(at_ms=at_ms, paths=tuple(sorted(doomed))).to_bytes())
        try:
            doomed &= self._survey(keep, cutoff_ms).doomed(marked, cutoff_ms)
            # Manifests first, so that none is ever left without its blobs.
            blobs = sorted(path for path in doomed if path.startswith(_BLOBS))
            removed = self._remove(sorted(doomed.difference(blobs)), at_ms)
            if len(removed) + len(blobs) == len(doomed):
                removed += self._remove(blobs, at_ms)
            return frozenset(removed)
        finally:
            self._forget(path)

    def _remove(self, paths: list[str], swept_at_ms: int) -> list[str]:
        """Gives those that it came to before writers would heed the sweep no more."""

        def remove(path: str) -> bool:
            if abs(self._clock.wall_ms() - swept_at_ms) > SWEEP_HEEDED_MS // 2:
                return False
            self._store.remove(path)
            return True

        done = read_each(remove, paths)
        return [path for path, was_removed in zip(paths, done, strict=True) if was_removed]

    def _survey(self, keep: int, cutoff_ms: int) -> _Survey:
        # Before the listing: what is stored after it is young.
        claimed = self._claimed(cutoff_ms)
        objects = self._objects()
        manifests = self._manifests(objects)
        releases, needed = self._needed(keep, objects, manifests, cutoff_ms)
        young = {path for path, stored in objects.items() if stored.modified_ms >= cutoff_ms}
        stays = needed | claimed | young
        for path in stays & manifests.keys():
            stays |= _companions(manifests[path])
        named = {
            path: frozenset(blob_path(blob.sha256) for blob in blobs_of(manifest))
            for path, manifest in manifests.items()
        }
        held = stays.union(*(named[path] for path in stays & manifests.keys()))
        return _Survey(
            kept_releases=releases,
            objects=objects,
            loose=frozenset(objects.keys() - held),
            named={path: blobs for path, blobs in named.items() if path not in stays},
        )

    def _needed(
        self,
        keep: int,
        objects: Mapping[str, StoredObject],
        manifests: Mapping[str, IndexManifest | ModelManifest],
        cutoff_ms: int,
    ) -> tuple[tuple[int, ...], set[str]]:
        """The kept releases, and the objects that they and what is newest begin with."""
        held = self._held(cutoff_ms)
        state = read_release_log(self._store)
        held &= state.proposals.keys()
        releases = tuple(sorted(held.union(kept_releases(state, keep, self._clock.wall_ms()))))
        contents = (state.proposals[number].release.contents for number in releases)
        needed = {path for of_release in contents for path in manifest_paths(of_release)}
        for corpus in self._catalog.list_corpora():
            latest = self._catalog.latest_corpus(corpus)
            if latest is None:
                continue
            needed.update(blob_path(blob.sha256) for blob in blobs_of(latest))
            if latest.is_dropped:
                continue
            newest = newest_index(self._catalog, corpus)
            if newest is not None:
                needed.add(index_path(corpus, newest[1].version))
        return releases, needed | _newest_models(objects, manifests)

    def _held(self, cutoff_ms: int) -> set[int]:
        """The releases that regions said to hold: one that cannot load newer ones goes on serving
        what it has, and may have to load that once more.
        """
        statuses = read_heartbeats(self._store, self._store.list_folders(REGIONS)).values()
        return {
            number for status in statuses if status.at_ms >= cutoff_ms for number in status.prepared
        }

    def _claimed(self, cutoff_ms: int) -> set[str]:
        def read(path: str) -> tuple[str, ...]:
            try:
                return Claim.from_bytes(self._store.get(path), source=path).paths
            except NotFound:
                return ()  # it was too old for another collector

        claims = self._store.list_objects(CLAIMS)
        young = [f"{CLAIMS}/{stored.name}" for stored in claims if stored.modified_ms >= cutoff_ms]
        return {path for paths in read_each(read, young) for path in paths}

    def _objects(self) -> dict[str, StoredObject]:
        """Everything that can be collected, by path."""
        shelves = [f"{_BLOBS}/{name}" for name in self._store.list_folders(_BLOBS)]
        corpora = [f"indexes/{name}" for name in self._store.list_folders("indexes")]
        folders = [*shelves, *corpora, "models"]
        found = read_each(self._store.list_objects, folders)
        return {
            f"{folder}/{stored.name}": stored
            for folder, of_folder in zip(folders, found, strict=True)
            for stored in of_folder
            if (_BLOB_NAME.fullmatch(stored.name) if folder in shelves else _is_json(stored))
        }

    def _manifests(
        self, objects: Mapping[str, StoredObject]
    ) -> dict[str, IndexManifest | ModelManifest]:
        def read(path: str) -> IndexManifest | ModelManifest | None:
            kind = IndexManifest if path.startswith("indexes/") else ModelManifest
            try:
                return kind.from_bytes(self._store.get(path), source=path)
            except NotFound:
                return None  # another collector took it

        paths = [path for path in objects if not path.startswith(_BLOBS)]
        found = zip(paths, read_each(read, paths), strict=True)
        return {path: manifest for path, manifest in found if manifest is not None}

    def _last_mark(self) -> tuple[int, Mapping[str, int]]:
        """The number of the last mark, 0 when there is none, and its content."""
        numbers = [
            int(m[1]) for n in self._store.list_names(MARKS) if (m := _MARK_NAME.fullmatch(n))
        ]
        if not numbers:
            return 0, {}
        path = _mark_path(max(numbers))
        try:
            return max(numbers), Mark.from_bytes(self._store.get(path), source=path).since_ms
        except NotFound as error:
            raise Conflict("another collection is at work; try again later") from error

    def _write_mark(self, number: int, mark: Mark) -> None:
        try:
            self._store.put_if_absent(_mark_path(number), mark.to_bytes())
        except Conflict as error:
            raise Conflict("another collection is at work; try again later") from error

    def _tidy(self, now_ms: int, claims_before_ms: int, last_mark: int) -> None:
        """Takes away what earlier collections and old claims left."""
        for stored in self._store.list_objects(CLAIMS):
            if stored.modified_ms < claims_before_ms:
                self._forget(f"{CLAIMS}/{stored.name}")
        for stored in self._store.list_objects(SWEEPS):
            if now_ms - stored.modified_ms > 2 * SWEEP_HEEDED_MS:
                self._forget(f"{SWEEPS}/{stored.name}")
        for name in self._store.list_names(MARKS):
            if name < f"{last_mark:020}":
                self._forget(f"{MARKS}/{name}")

    def _forget(self, path: str) -> None:
        try:
            self._store.remove(path)
        except RaygionError as error:
            log.warning(
                "store.garbage_stays",
                "{path} stays in the store until the next collection: {error}",
                path=path,
                error=error,
            )


def _newest_models(
    objects: Mapping[str, StoredObject], manifests: Mapping[str, IndexManifest | ModelManifest]
) -> set[str]:
    """The newest model of each kind and name; if several are equally new, all of them."""
    ages: dict[tuple[str, str], dict[str, int]] = {}
    for path, manifest in manifests.items():
        if isinstance(manifest, ModelManifest):
            of_name = ages.setdefault((manifest.kind, manifest.name), {})
            of_name[path] = objects[path].modified_ms
    return {
        path
        for of_name in ages.values()
        for path in of_name
        if of_name[path] == max(of_name.values())
    }


def _companions(manifest: IndexManifest | ModelManifest) -> set[str]:
    """Manifests that are of use only with, or to, this one."""
    if isinstance(manifest, ModelManifest):
        return set()
    companions = set()
    if manifest.base is not None:
        companions.add(index_path(manifest.corpus, manifest.base))
    if manifest.embedder_fingerprint is not None:
        companions.add(model_path(manifest.embedder_fingerprint[:16]))
    return companions


def _is_json(stored: StoredObject) -> bool:
    return stored.name.endswith(_JSON)


def _mark_path(number: int) -> str:
    return f"{MARKS}/{number:020}{_JSON}"
