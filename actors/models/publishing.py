"""Model versions: from wherever a model is into the store."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import fsspec

from actors.models.starter_models import (
    STARTER_EMBEDDER,
    STARTER_GENERATOR,
    starter_embedder_folder,
    starter_generator_folder,
)
from cluster.artifacts.artifacts import regular_files
from cluster.artifacts.cache import ArtifactCache
from cluster.artifacts.files import ArtifactFile, sha256_of
from cluster.catalog.catalog import Catalog, Published
from cluster.catalog.manifests import ModelKind, ModelManifest, Precision
from cluster.catalog.model_files import ModelFiles
from cluster.catalog.model_settings import STARTER
from cluster.errors import InvalidArgument, Unavailable
from cluster.progress import UNSEEN, Note
from cluster.records import Record

_UNUSED = (".onnx", ".msgpack", ".h5", ".ot", ".gguf", ".pth", ".tflite")
"""Weights in formats that neither torch nor vLLM reads here; they would only fill the store."""


class _Fingerprint(Record):
    files: tuple[tuple[str, str], ...]


class _PrecisionFingerprint(Record):
    """Apart from the other, so that what is computed in float32 keeps its versions."""

    files: _Fingerprint
    precision: Precision


class _NamedFiles(Record):
    kind: ModelKind
    name: str
    fingerprint: str


def publish_model(
    catalog: Catalog,
    cache: ArtifactCache,
    *,
    kind: ModelKind,
    source: str,
    name: str | None,
    scratch: Path,
    note: Note = UNSEEN.note,
    precision: Precision = Precision.FLOAT32,
) -> Published[ModelManifest]:
    """Puts a model into the store, unless it is there already.

    Weights become a delta of an earlier version where that pays, as `ModelFiles` says. `scratch` is
    a local folder for what has to be converted or downloaded on the way. `precision` is an
    embedder's, of which another one makes another version of the same files. Raises InvalidArgument
    when the source is no model, Unavailable when it cannot be reached.
    """
    given_name = name or _name_of(kind, source)
    with tempfile.TemporaryDirectory(dir=_made(scratch)) as downloads:
        folder = _folder_of(kind, source, scratch, Path(downloads), note)
        if not (folder / "config.json").is_file():
            raise InvalidArgument(f"{source} is no Hugging Face folder: no config.json", str(kind))
        note(f"reading {given_name}")
        # Not by its name: a model of one's own may have the name of any other, the starter's too.
        manifest = _manifest(kind, given_name, folder, _files_of(folder), precision)
        alike = catalog.find_model(manifest.version)
        if alike is not None and not _serves_as(alike[0], manifest):
            manifest = _under_its_own_name(manifest)
            alike = catalog.find_model(manifest.version)
        if alike is not None:
            return Published(*alike, reused=True)
        files = ModelFiles(catalog, cache, scratch).put(kind, folder, manifest.files, note)
        manifest = manifest.model_copy(update={"files": files})
        return catalog.publish_model(manifest)


def _serves_as(stored: ModelManifest, asked: ModelManifest) -> bool:
    """True when the stored version, whose files are the same, is what was asked for. Callers ask
    for a generator by its name; an embedder's name is a remark.
    """
    is_named_so = stored.name == asked.name or asked.kind is ModelKind.EMBEDDER
    return stored.kind is asked.kind and is_named_so


def _under_its_own_name(manifest: ModelManifest) -> ModelManifest:
    """A version apart from that of the same files under another name, or of another kind."""
    key = _NamedFiles(kind=manifest.kind, name=manifest.name, fingerprint=manifest.fingerprint)
    return manifest.model_copy(update={"version": key.digest()[:16]})


def _files_of(folder: Path) -> tuple[ArtifactFile, ...]:
    return tuple(
        ArtifactFile(
            path=path.relative_to(folder).as_posix(),
            sha256=sha256_of(path),
            size_bytes=path.stat().st_size,
        )
        for path in regular_files(folder)
        if not path.name.endswith(_UNUSED)
    )


def _manifest(
    kind: ModelKind,
    name: str,
    folder: Path,
    files: tuple[ArtifactFile, ...],
    precision: Precision,
) -> ModelManifest:
    key: Record = _Fingerprint(files=tuple((f.path, f.sha256) for f in files))
    if precision is not Precision.FLOAT32:
        key = _PrecisionFingerprint(files=key, precision=precision)
    fingerprint = key.digest()
    dimension = None
    if kind is ModelKind.EMBEDDER:
        dimension = json.loads((folder / "config.json").read_text()).get("hidden_size")
        if not isinstance(dimension, int):
            raise InvalidArgument(
                f"{name} is no text encoder: its config.json has no hidden_size", "embedder"
            )
    return ModelManifest(
        kind=kind,
        name=name,
        version=fingerprint[:16],
        fingerprint=fingerprint,
        files=files,
        dimension=dimension,
        precision=precision,
    )


def _name_of(kind: ModelKind, source: str) -> str:
    if source == STARTER:
        return STARTER_EMBEDDER if kind is ModelKind.EMBEDDER else STARTER_GENERATOR
    return source.rstrip("/").rpartition("/")[2]


def _folder_of(kind: ModelKind, source: str, scratch: Path, downloads: Path, note: Note) -> Path:
    if source == STARTER and kind is ModelKind.EMBEDDER:
        return starter_embedder_folder()
    if source == STARTER:
        return starter_generator_folder(scratch / STARTER_GENERATOR, note)
    if "://" in source:
        return _downloaded(source, downloads, note)
    if Path(source).is_dir():
        return Path(source)
    return _from_hub(source, downloads, note)


def _downloaded(url: str, target: Path, note: Note) -> Path:
    note(f"fetching {url}")
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        filesystem.get(path.rstrip("/") + "/", str(target) + "/", recursive=True)
    except (OSError, ValueError, ImportError) as error:
        raise Unavailable(f"the model at {url} cannot be fetched: {error}") from error
    return target


def _from_hub(source: str, target: Path, note: Note) -> Path:
    # Imported late: only those who name a hub id need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    note(f"fetching {source} from the model hub")
    try:
        snapshot_download(source, local_dir=target)
    except HFValidationError as error:
        raise InvalidArgument(f"{source!r} is neither a folder nor a hub id", "model") from error
    except Exception as error:
        # The hub's client raises what its HTTP library does, whichever that is.
        raise Unavailable(f"{source} cannot be fetched from the model hub: {error}") from error
    return target


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
