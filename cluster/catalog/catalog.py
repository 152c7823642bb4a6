"""Corpora, index versions and model versions: the domain's thin layer over objects and logs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from cluster.artifacts.claims import claim_all
from cluster.catalog.manifests import (
    CorpusManifest,
    IndexManifest,
    ManifestRef,
    ModelManifest,
    blobs_of,
)
from cluster.clock import SYSTEM_CLOCK, Backoff, Clock, Deadline
from cluster.errors import Conflict, Corrupt, InvalidArgument, NotFound
from cluster.store.numbered_log import NumberedLog, put_or_get
from cluster.store.object_store import ObjectStore

PUBLISH_TIMEOUT_S = 60.0
CHANGES_MAX = 8
"""Attempts at one change of a corpus that others change at the same time."""
_SUFFIX = ".json"
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")

R = TypeVar("R", IndexManifest, ModelManifest)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Published(Generic[R]):
    """An index or model version that is in the store now."""

    manifest: R
    ref: ManifestRef
    reused: bool
    """True when it was there before."""


class Catalog:
    """Manifests by name. A manifest that lacks the hash of its reference raises Corrupt.

    Publishing is first come, first served: an index or model version that exists is never replaced,
    and the caller gets what is there. All blobs that a manifest names are in the store when it is
    published, or NotFound says which one is not: store it again. Other failures: InvalidArgument
    for a malformed name, and those of the store.
    """

    def __init__(self, store: ObjectStore, clock: Clock = SYSTEM_CLOCK) -> None:
        """`clock`: the one by which sweeps of the garbage collector are heeded."""
        self._store = store
        self._clock = clock
        self._logs: dict[str, NumberedLog] = {}

    def __reduce__(self) -> tuple[type[Catalog], tuple[ObjectStore, Clock]]:
        # To an actor of Ray goes the store; each process reads the logs by itself.
        return Catalog, (self._store, self._clock)

    def read_index(self, corpus: str, ref: ManifestRef) -> IndexManifest:
        """The index version that a release names. NotFound when it is not in the store."""
        return self._read(index_path(corpus, ref.version), ref, IndexManifest)

    def find_index(self, corpus: str, version: str) -> tuple[IndexManifest, ManifestRef] | None:
        """An index version and the reference that names it, None when it was not published."""
        return self._find(index_path(corpus, version), version, IndexManifest)

    def list_indexes(self, corpus: str) -> tuple[tuple[IndexManifest, ManifestRef], ...]:
        """All index versions of a corpus, by version."""
        folder = f"indexes/{_checked(corpus, 'corpus')}"
        found = (self.find_index(corpus, version) for version in self._versions(folder))
        return tuple(entry for entry in found if entry is not None)

    def publish_index(self, manifest: IndexManifest) -> Published[IndexManifest]:
        """Stores the manifest unless its version exists; returns what the store holds."""
        return self._publish(index_path(manifest.corpus, manifest.version), manifest)

    def claim_index(self, manifest: IndexManifest) -> None:
        """Keeps a published index version, which may be old and needed by nothing else, from the
        garbage collector until a release names it. Raises what `claim_all` does.
        """
        path = index_path(manifest.corpus, manifest.version)
        claim_all(self._store, blobs_of(manifest), [path], clock=self._clock)

    def read_model(self, ref: ManifestRef) -> ModelManifest:
        """The model version that a release names. NotFound when it is not in the store."""
        return self._read(model_path(ref.version), ref, ModelManifest)

    def find_model(self, version: str) -> tuple[ModelManifest, ManifestRef] | None:
        """A model version and the reference that names it, None when it was not published."""
        return self._find(model_path(version), version, ModelManifest)

    def list_models(self) -> tuple[tuple[ModelManifest, ManifestRef], ...]:
        """All model versions, by version."""
        found = (self.find_model(version) for version in self._versions("models"))
        return tuple(entry for entry in found if entry is not None)

    def newest_models(self) -> Iterator[ModelManifest]:
        """All model versions, the one that was stored last first; each is read when it is asked
        for.
        """
        entries = self._store.list_objects("models")
        for entry in sorted(entries, key=lambda o: (o.modified_ms, o.name), reverse=True):
            found = self.find_model(entry.name.removesuffix(_SUFFIX))
            if found is not None:
                yield found[0]

    def publish_model(self, manifest: ModelManifest) -> Published[ModelManifest]:
        """Stores the manifest unless its version exists; returns what the store holds."""
        return self._publish(model_path(manifest.version), manifest)

    def list_corpora(self) -> tuple[str, ...]:
        """Names of the corpora that have a position, sorted."""
        return tuple(self._store.list_folders("corpora"))

    def latest_corpus(self, corpus: str) -> CorpusManifest | None:
        """The newest position of a corpus, None when there is no such corpus."""
        position = self._log(corpus).latest()
        return self.corpus_at(corpus, position) if position else None

    def existing_corpus(self, corpus: str) -> CorpusManifest:
        """The newest position of a corpus. NotFound when there is none, or it was dropped."""
        return existing(corpus, self.latest_corpus(corpus))

    def corpus_at(self, corpus: str, position: int) -> CorpusManifest:
        """One position of a corpus. NotFound when it does not reach so far."""
        log = self._log(corpus)
        path = log.path(position)
        manifest = CorpusManifest.from_bytes(log.read(position), source=path)
        if (manifest.corpus, manifest.position) != (corpus, position):
            raise Corrupt(f"{path} holds position {manifest.position} of {manifest.corpus}")
        return manifest

    def change_corpus(
        self, corpus: str, change: Callable[[CorpusManifest | None], tuple[CorpusManifest, T]]
    ) -> tuple[CorpusManifest, T]:
        """Takes a corpus from its latest position, None when it has none yet, to the next one.

        `change` decides on the next position, and on whatever else the caller wants to know of the
        change; this returns what it decided last. Where it returns the latest position, nothing is
        added. When others changed the corpus meanwhile, it is asked again about what the corpus is
        now. Raises what `change` does, and Conflict when others keep changing the corpus.
        """
        for _ in range(CHANGES_MAX):
            latest = self.latest_corpus(corpus)
            manifest, outcome = change(latest)
            if manifest == latest:
                return manifest, outcome
            try:
                self.append_corpus(manifest)
            except Conflict:
                continue
            return manifest, outcome
        raise Conflict(f"others keep changing the corpus {corpus!r}; try again later")

    def append_corpus(self, manifest: CorpusManifest) -> None:
        """Adds a corpus's next position, which the manifest carries.

        Raises Conflict when somebody else took the position; `change_corpus` decides again then.
        """
        data = manifest.to_bytes()
        claim_all(self._store, blobs_of(manifest), clock=self._clock)
        self._log(manifest.corpus).append_at(
            manifest.position,
            data,
            # A corpus manifest names all of its content, so an equal one is as good as one's own.
            is_mine=lambda found: found == data,
            deadline=Deadline.after(PUBLISH_TIMEOUT_S),
        )

    def _log(self, corpus: str) -> NumberedLog:
        if corpus not in self._logs:
            self._logs[corpus] = NumberedLog(
                self._store, f"corpora/{_checked(corpus, 'corpus')}", _SUFFIX
            )
        return self._logs[corpus]

    def _versions(self, folder: str) -> list[str]:
        names = self._store.list_names(folder)
        return [name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)]

    def _read(self, path: str, ref: ManifestRef, kind: type[R]) -> R:
        data = self._store.get(path)
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            raise Corrupt(f"{path} does not hold the bytes that were published")
        return kind.from_bytes(data, source=path)

    def _find(self, path: str, version: str, kind: type[R]) -> tuple[R, ManifestRef] | None:
        try:
            data = self._store.get(path)
        except NotFound:
            return None
        manifest = kind.from_bytes(data, source=path)
        if manifest.version != version:
            raise Corrupt(f"{path} holds version {manifest.version}")
        return manifest, _ref(version, data)

    def _publish(self, path: str, manifest: R) -> Published[R]:
        claim_all(self._store, blobs_of(manifest), clock=self._clock)
        own = manifest.to_bytes()
        data = put_or_get(
            self._store,
            path,
            own,
            deadline=Deadline.after(PUBLISH_TIMEOUT_S),
            backoff=Backoff(),
        )
        stored = type(manifest).from_bytes(data, source=path)
        # Equal bytes are as good as one's own, and may be these, when a reply was lost.
        return Published(stored, _ref(manifest.version, data), reused=data != own)


def _ref(version: str, data: bytes) -> ManifestRef:
    return ManifestRef(version=version, sha256=hashlib.sha256(data).hexdigest())


def existing(corpus: str, latest: CorpusManifest | None) -> CorpusManifest:
    """The latest position of a corpus. Raises NotFound when there is none, or it was dropped."""
    if latest is None or latest.is_dropped:
        raise NotFound(f"there is no corpus {corpus!r}; add documents with `raygion ingest`")
    return latest


def index_path(corpus: str, version: str) -> str:
    """Path in the store of an index version's manifest."""
    return f"indexes/{_checked(corpus, 'corpus')}/{_checked(version, 'version')}{_SUFFIX}"


def model_path(version: str) -> str:
    """Path in the store of a model version's manifest."""
    return f"models/{_checked(version, 'version')}{_SUFFIX}"


def _checked(name: str, field: str) -> str:
    if _SAFE_NAME.fullmatch(name) is None:
        raise InvalidArgument(f"{name!r} is not a name", field=field)
    return name
