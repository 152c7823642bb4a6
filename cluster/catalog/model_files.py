"""The files of a model on their way into the store: whole, or as differences from an earlier
version.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from cluster.artifacts.artifacts import checked_files
from cluster.artifacts.cache import ArtifactCache
from cluster.artifacts.files import ArtifactFile, Blob, FileDelta, sha256_of
from cluster.artifacts.weight_delta import apply_delta, write_delta
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import ModelKind, ModelManifest
from cluster.errors import Corrupt, NotFound, RaygionError
from cluster.logs.events import EventLog
from cluster.progress import Note

log = EventLog(__name__)

_CONFIG = "config.json"
_WEIGHTS = ".safetensors"
_WORTH_AT_MOST = 0.75
"""Largest share of the full file that a delta may have. With a larger one, every new region would
fetch more for little.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """A file that is stored whole, and the model version that it is of."""

    file: ArtifactFile
    version: str


def delta_note(files: Sequence[ArtifactFile]) -> str | None:
    """A note for the user on what was saved; None when the files are stored whole."""
    deltas = [file.delta for file in files if file.delta is not None]
    if not deltas:
        return None
    full_bytes = sum(file.size_bytes for file in files if file.delta is not None)
    delta_bytes = sum(delta.delta.size_bytes for delta in deltas)
    versions = ", ".join(sorted({delta.base_version[:8] for delta in deltas}))
    return f"delta of {versions}, {delta_bytes} of {full_bytes} bytes"


class ModelFiles:
    """Stores models. Weights become a delta against the newest earlier version of the same kind and
    architecture, where that pays.

    The base of a delta is always stored whole: a delta of a delta's model is made against the base
    of both. To compare, the base comes into the cache of this machine.
    """

    def __init__(self, catalog: Catalog, cache: ArtifactCache, scratch: Path) -> None:
        """`scratch`: a local folder for deltas until they are stored."""
        self._catalog = catalog
        self._artifacts = cache.artifacts
        self._cache = cache
        self._scratch = scratch

    def put(
        self,
        kind: ModelKind,
        folder: Path,
        files: Sequence[ArtifactFile],
        note: Note,
    ) -> tuple[ArtifactFile, ...]:
        """Stores these files below `folder`; gives them as the manifest is to name them.

        Raises what `Artifacts.put_file` does, and Corrupt for a file that has changed.
        """
        bases = self._bases(kind, folder)
        stored: list[ArtifactFile] = []
        for number, file in enumerate(checked_files(files), 1):
            note(f"storing {file.path} ({number} of {len(files)})")
            base = bases.get(file.path)
            if base is not None:
                file = self._as_delta(file, folder / file.path, base, note)
                if file.delta is not None:
                    note(f"{file.path}: {delta_note([file])}")
            if (
                file.delta is None
                and self._artifacts.put_file(folder / file.path)[0] != file.sha256
            ):
                raise Corrupt(f"{file.path} changed while it was being stored")
            stored.append(file)
        return tuple(stored)

    def _as_delta(self, file: ArtifactFile, path: Path, base: _Base, note: Note) -> ArtifactFile:
        """The file as a delta that is in the store now, or as it was where that does not pay."""
        if self._artifacts.is_stored(file):
            return file

        def report(done: int, total: int) -> None:
            note(f"fetching {base.file.path} to compare: {done // 10**6} of {total // 10**6} MB")

        try:
            old = self._cache.folder_for([base.file], report) / base.file.path
        except (NotFound, Corrupt) as error:
            log.warning(
                "model.stored_whole",
                "{path} is stored whole: its base {base}: {error}",
                path=file.path,
                base=base.version,
                error=error,
            )
            return file
        try:
            with tempfile.TemporaryDirectory(dir=self._scratch) as scratch:
                target, rebuilt = Path(scratch) / "delta", Path(scratch) / "rebuilt"
                if write_delta(old, path, target) > _WORTH_AT_MOST * file.size_bytes:
                    return file
                apply_delta(old, target, rebuilt)
                if sha256_of(rebuilt) != file.sha256:
                    raise Corrupt(f"{file.path} changed while it was being stored")
                sha256, size_bytes = self._artifacts.put_file(target)
        finally:
            self._cache.unpin([base.file])
        delta = FileDelta(
            base=Blob(sha256=base.file.sha256, size_bytes=base.file.size_bytes),
            base_version=base.version,
            delta=Blob(sha256=sha256, size_bytes=size_bytes),
        )
        return file.model_copy(update={"delta": delta})

    def _bases(self, kind: ModelKind, folder: Path) -> dict[str, _Base]:
        """Weights to compare with, by their path."""
        config = folder / _CONFIG
        newest = self._newest(
            kind, _architecture(config.read_bytes()) if config.is_file() else None
        )
        if newest is None:
            return {}
        bases: dict[str, _Base] = {}
        for file in newest.files:
            if file.path.endswith(_WEIGHTS):
                whole, version = file.model_copy(update={"delta": None}), newest.version
                if file.delta is not None:
                    whole, version = file.blobs[0], file.delta.base_version
                    whole = whole.model_copy(update={"path": file.path})
                bases[file.path] = _Base(file=whole, version=version)
        return bases

    def _newest(self, kind: ModelKind, architecture: object) -> ModelManifest | None:
        if architecture is None:
            return None
        for model in self._catalog.newest_models():
            if model.kind is not kind:
                continue
            config = next((f for f in model.files if f.path == _CONFIG), None)
            try:
                if config and _architecture(self._artifacts.read_bytes(config)) == architecture:
                    return model
            except RaygionError as error:
                log.warning(
                    "model.no_base",
                    "model {model} is no base: {error}",
                    model=model.version,
                    error=error,
                )
        return None


def _architecture(config: bytes) -> object:
    """Equal for models whose tensors have the same names, as far as that can be told."""
    try:
        values = orjson.loads(config)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(values, dict):
        return None
    return [values.get("model_type"), values.get("architectures")]
