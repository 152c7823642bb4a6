"""A store to collect garbage in: corpora, indexes, models, releases, and what nobody needs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.fetch import blob_path
from cluster.artifacts.files import ArtifactFile
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import (
    CorpusManifest,
    ManifestRef,
    ModelKind,
    ModelManifest,
    ShardArtifact,
)
from cluster.clock import SYSTEM_CLOCK, Clock, Deadline
from cluster.errors import Conflict, NotFound
from cluster.releases.entries import (
    RELEASE_LOG,
    Abort,
    Commit,
    Elect,
    EntryBase,
    Propose,
    Release,
    ReleaseContents,
    Rollback,
)
from cluster.store.numbered_log import NumberedLog
from cluster.store.object_store import ObjectStore
from cluster.store.stored_object import StoredObject
from tests.support.values.manifests import index_manifest

HOUR_MS = 3600 * 1000
CORPUS = "docs"


class ShiftedClock:
    """The system's clock, so many hours on."""

    def __init__(self) -> None:
        self.hours = 0.0

    def monotonic_s(self) -> float:
        return SYSTEM_CLOCK.monotonic_s()

    def wall_ms(self) -> int:
        return SYSTEM_CLOCK.wall_ms() + int(self.hours * HOUR_MS)


class TimedStore:
    """A store in memory whose objects are dated by a clock of its own."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.content: dict[str, tuple[bytes, int]] = {}

    def get(self, path: str) -> bytes:
        try:
            return self.content[path][0]
        except KeyError:
            raise NotFound(f"{path} is not in the store") from None

    def read_range(self, path: str, start: int, length: int) -> bytes:
        return self.get(path)[start : start + length]

    def put_if_absent(self, path: str, data: bytes) -> None:
        if self.content.setdefault(path, value := (data, self._clock.wall_ms())) is not value:
            raise Conflict(f"{path} exists already")

    def upload_if_absent(self, path: str, source: Path, sha256: str) -> None:
        self.put_if_absent(path, source.read_bytes())

    def put(self, path: str, data: bytes) -> None:
        self.content[path] = (data, self._clock.wall_ms())

    def exists(self, path: str) -> bool:
        return path in self.content

    def size(self, path: str) -> int:
        return len(self.get(path))

    def _below(self, folder: str) -> list[str]:
        prefix = f"{folder}/"
        return sorted(p.removeprefix(prefix) for p in list(self.content) if p.startswith(prefix))

    def list_names(self, folder: str, start_after: str | None = None) -> list[str]:
        names = [name for name in self._below(folder) if "/" not in name]
        return [name for name in names if start_after is None or name > start_after]

    def list_objects(self, folder: str) -> list[StoredObject]:
        found = ((name, self.content.get(f"{folder}/{name}")) for name in self.list_names(folder))
        return [
            StoredObject(name=name, size_bytes=len(value[0]), modified_ms=value[1])
            for name, value in found
            if value is not None
        ]

    def list_folders(self, folder: str) -> list[str]:
        return sorted({name.split("/")[0] for name in self._below(folder) if "/" in name})

    def remove(self, path: str) -> None:
        self.content.pop(path, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Something in the store, with the paths of all that it needs."""

    ref: ManifestRef
    paths: frozenset[str]


def _version(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


class World:
    def __init__(self, store: ObjectStore, clock: Clock = SYSTEM_CLOCK) -> None:
        self.store = store
        self.catalog = Catalog(store, clock)
        self.artifacts = Artifacts(store)
        self.log = NumberedLog(store, RELEASE_LOG)

    def blob(self, content: str) -> ArtifactFile:
        sha256, size_bytes = self.artifacts.put_bytes(content.encode())
        return ArtifactFile(path="file", sha256=sha256, size_bytes=size_bytes)

    def holds(self, paths: frozenset[str]) -> bool:
        """All of them, or none; some are a fault."""
        held = {path for path in paths if self.store.exists(path)}
        assert held in (set(), set(paths)), f"only {held} of {paths}"
        return bool(held)

    def corpus(self, position: int, parts: Sequence[str]) -> frozenset[str]:
        """A position of the corpus; the paths of its parts."""
        files = tuple(self.blob(part) for part in parts)
        self.catalog.append_corpus(
            CorpusManifest(
                corpus=CORPUS,
                position=position,
                parts=files,
                num_documents=position,
                num_passages=position,
                metadata_schema={},
                vector_dimension=None,
                sources=(),
                created_at_ms=0,
            )
        )
        return frozenset(blob_path(file.sha256) for file in files)

    def index(
        self,
        name: str,
        contents: Sequence[str],
        position: int = 1,
        embedder: str | None = None,
        upload: bool = True,
    ) -> Made:
        files = tuple(
            ArtifactFile(
                path=f"{number}.faiss", sha256=_version(content), size_bytes=len(content.encode())
            )
            for number, content in enumerate(contents)
        )
        for content in contents if upload else ():
            self.blob(content)
        manifest = index_manifest(
            corpus=CORPUS,
            version=_version(name)[:16],
            corpus_position=position,
            embedder_fingerprint=None if embedder is None else _version(embedder),
            shards=(ShardArtifact(shard=0, num_rows=1, files=files, recall_at_10=1.0),),
            built_at_ms=position,
        )
        ref = self.catalog.publish_index(manifest).ref
        own = f"indexes/{CORPUS}/{ref.version}.json"
        return Made(ref=ref, paths=frozenset({own, *(blob_path(f.sha256) for f in files)}))

    def model(
        self, name: str, files: Sequence[ArtifactFile], kind: ModelKind = ModelKind.GENERATOR
    ) -> Made:
        manifest = ModelManifest(
            kind=kind,
            name=kind,
            version=_version(name)[:16],
            fingerprint=_version(name),
            files=tuple(files),
        )
        ref = self.catalog.publish_model(manifest).ref
        parts = {blob_path(part.sha256) for file in files for part in file.blobs}
        return Made(ref=ref, paths=frozenset({f"models/{ref.version}.json", *parts}))

    def append(self, entry: EntryBase) -> None:
        data = entry.to_bytes()
        self.log.append_at(
            self.log.latest() + 1,
            data,
            is_mine=lambda found: found == data,
            deadline=Deadline.after(20.0),
        )

    def elect(self) -> None:
        self.append(Elect(epoch=1, commit_id="elect", at_ms=0, leader="here"))

    def propose(self, number: int, index: Made, generator: Made | None = None) -> None:
        contents = ReleaseContents(
            indexes={CORPUS: index.ref}, generator=None if generator is None else generator.ref
        )
        self.append(
            Propose(
                epoch=1,
                commit_id=f"propose {number}",
                at_ms=0,
                release=Release(number=number, contents=contents),
                targets=("here",),
                prepare_by_ms=0,
            )
        )

    def commit(self, number: int) -> None:
        commit_id = f"commit {number}"
        self.append(
            Commit(epoch=1, commit_id=commit_id, at_ms=0, release=number, switch_at_ms=number)
        )

    def rollback(self, number: int) -> None:
        self.append(
            Rollback(epoch=1, commit_id="rollback", at_ms=0, release=number, switch_at_ms=9)
        )

    def abort(self, number: int) -> None:
        self.append(Abort(epoch=1, commit_id="abort", at_ms=0, release=number, reason="no good"))
