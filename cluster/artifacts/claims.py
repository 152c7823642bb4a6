"""The protocol that keeps writers, which reference stored objects, and the garbage collector, which
removes unreferenced ones, from racing each other.

    a writer          writes a claim, looks for sweeps, looks for the objects, writes the manifest
    the collector     writes a sweep, looks for claims and manifests, removes, removes the sweep

Whichever comes first, one of the two sees the other. A claim holds for the collector's grace
period, so the manifest has to follow within minutes. A sweep ends within half of the time for which
writers heed it, so that the sweep of a killed collector hinders no writer for long.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import uuid4

from cluster.artifacts.fetch import blob_path, check_content
from cluster.artifacts.files import ArtifactFile
from cluster.clock import SYSTEM_CLOCK, Backoff, Clock, Deadline
from cluster.errors import NotFound, Unavailable
from cluster.records import Record
from cluster.store.numbered_log import put_or_get, read_each
from cluster.store.object_store import ObjectStore

CLAIMS = "gc/claims"
SWEEPS = "gc/sweeps"
SWEEP_HEEDED_MS = 3600 * 1000
GRACE_MIN_S = 600.0
"""Shortest grace period: much more than the time from a claim to the manifest."""
_TIMEOUT_S = 30.0


class Claim(Record):
    """Paths of objects that a manifest is going to name. It holds from the moment it was stored."""

    paths: tuple[str, ...]


class Sweep(Record):
    """Paths that may be removed at any moment now."""

    at_ms: int
    paths: tuple[str, ...]


def store_object(store: ObjectStore, path: str, data: bytes) -> None:
    """Stores an object under a path that nobody else writes. Failures as `put_or_get` says."""
    put_or_get(store, path, data, deadline=Deadline.after(_TIMEOUT_S), backoff=Backoff())


def claim(store: ObjectStore, paths: Iterable[str]) -> None:
    """Keeps these objects from being collected, as far as they are there, until a manifest names
    them.
    """
    record = Claim(paths=tuple(sorted(set(paths))))
    if record.paths:
        store_object(store, f"{CLAIMS}/{uuid4().hex}.json", record.to_bytes())


def claim_all(
    store: ObjectStore,
    files: Iterable[ArtifactFile],
    manifests: Iterable[str] = (),
    *,
    clock: Clock = SYSTEM_CLOCK,
) -> None:
    """Makes sure that these blobs and manifests are in the store and stay, for as long as it takes
    to name them in another one.

    Raises NotFound for what is not there (any more): store it again. Raises Unavailable while a
    collector is at work on some of it: try again in a minute. Raises Corrupt for a blob of another
    size.
    """
    blobs = {file.sha256: file for file in files}
    paths = {blob_path(sha256) for sha256 in blobs}.union(manifests)
    claim(store, paths)
    for path in _swept(store, clock.wall_ms()):
        if path in paths:
            raise Unavailable(f"{path} is just being collected as garbage; try again in a minute")

    def check(file: ArtifactFile) -> None:
        try:
            check_content(file, file.sha256, store.size(blob_path(file.sha256)))
        except NotFound as error:
            raise _not_there(blob_path(file.sha256), file.path) from error

    read_each(check, list(blobs.values()))
    for path in manifests:
        if not store.exists(path):
            raise _not_there(path, "a manifest")


def _swept(store: ObjectStore, now_ms: int) -> set[str]:
    """The objects that running sweeps may remove."""
    paths: set[str] = set()
    for name in store.list_names(SWEEPS):
        path = f"{SWEEPS}/{name}"
        try:
            sweep = Sweep.from_bytes(store.get(path), source=path)
        except NotFound:
            continue  # it is over
        if now_ms - sweep.at_ms < SWEEP_HEEDED_MS:
            paths.update(sweep.paths)
    return paths


def _not_there(path: str, what: str) -> NotFound:
    return NotFound(
        f"{path} ({what}) is not in the store (any more): it may have been collected as garbage "
        "before anything named it; store it again"
    )
