"""Model versions: from wherever a model is into the store."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import fsspec

from actors.models.encoders.openvino_encoder import GRAPH, WEIGHTS
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
from cluster.catalog.manifests import ManifestRef, ModelKind, ModelManifest, Precision, Runtime
from cluster.catalog.model_files import ModelFiles
from cluster.catalog.model_settings import STARTER
from cluster.errors import InvalidArgument, Unavailable
from cluster.progress import UNSEEN, Note
from cluster.records import Record

_UNUSED = (GRAPH, WEIGHTS, ".onnx", ".msgpack", ".h5", ".ot", ".gguf", ".pth", ".tflite")
"""Weights in formats that neither torch nor vLLM reads here, and graphs that were made elsewhere;
they would only fill the store.
"""


class _Fingerprint(Record):
    files: tuple[tuple[str, str], ...]


class _PrecisionFingerprint(Record):
    """Apart from the other, so that what is computed in float32 keeps its versions."""

    files: _Fingerprint
    precision: Precision


class _RuntimeFingerprint(Record):
    """Apart likewise, so that what PyTorch computes keeps its versions."""

    model: str
    """Fingerprint of the same model on PyTorch."""
    runtime: Runtime


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
    runtimes: Sequence[Runtime] = (Runtime.TORCH,),
) -> Published[ModelManifest]:
    """Puts a model into the store, unless it is there already.

    Weights become a delta of an earlier version where that pays, as `ModelFiles` says. `scratch` is
    a local folder for what has to be converted or downloaded on the way. `precision` and `runtimes`
    are an embedder's: another precision or runtime makes another version of the same files. Where
    versions with several of the runtimes are there, that with the first one is taken; where none
    is, the fastest one is, as `choose_runtime` measures it. Raises InvalidArgument when the source
    is no model, Unavailable when it cannot be reached.
    """
    given_name = name or _name_of(kind, source)
    with tempfile.TemporaryDirectory(dir=_made(scratch)) as temporary:
        downloads, made = _made(Path(temporary) / "source"), _made(Path(temporary) / "made")
        folder = _folder_of(kind, source, scratch, downloads, note)
        if not (folder / "config.json").is_file():
            raise InvalidArgument(f"{source} is no Hugging Face folder: no config.json", str(kind))
        note(f"reading {given_name}")
        plain = _manifest(kind, given_name, folder, precision)
        manifests = {}
        for runtime in runtimes:
            # Not by its name: a model of one's own may have the name of any other.
            manifests[runtime], stored = _looked_up(catalog, _computed_by(runtime, plain))
            if stored is not None:
                return Published(*stored, reused=True)
        if tuple(runtimes) == (Runtime.TORCH,):
            manifest = manifests[Runtime.TORCH]
        else:
            # Imported late, with PyTorch: only those who bring a new embedder need it.
            from actors.models.encoders.runtime_choice import choose_runtime

            choice = choose_runtime(folder, runtimes, made, note)
            manifest = manifests[choice.runtime].model_copy(update={"trials": choice.trials})
        model_files = ModelFiles(catalog, cache, scratch)
        files = model_files.put(kind, folder, manifest.files, note)
        if manifest.runtime is Runtime.OPENVINO:
            files += model_files.put(kind, made, _files_of(made, unused=()), note)
        return catalog.publish_model(manifest.model_copy(update={"files": files}))


def _looked_up(
    catalog: Catalog, asked: ModelManifest
) -> tuple[ModelManifest, tuple[ModelManifest, ManifestRef] | None]:
    """The manifest that is to be stored, and the stored one that serves as it, if there is one."""
    stored = catalog.find_model(asked.version)
    if stored is not None and not _serves_as(stored[0], asked):
        asked = _under_its_own_name(asked)
        stored = catalog.find_model(asked.version)
    return asked, stored


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


def _files_of(folder: Path, unused: tuple[str, ...] = _UNUSED) -> tuple[ArtifactFile, ...]:
    return tuple(
        ArtifactFile(
            path=path.relative_to(folder).as_posix(),
            sha256=sha256_of(path),
            size_bytes=path.stat().st_size,
        )
        for path in regular_files(folder)
        if not path.name.endswith(unused)
    )


def _manifest(kind: ModelKind, name: str, folder: Path, precision: Precision) -> ModelManifest:
    files = _files_of(folder)
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


def _computed_by(runtime: Runtime, plain: ModelManifest) -> ModelManifest:
    """`plain` is that of PyTorch, whose fingerprint does not name it: versions from before there
    was a choice stay.
    """
    if runtime is Runtime.TORCH:
        return plain
    fingerprint = _RuntimeFingerprint(model=plain.fingerprint, runtime=runtime).digest()
    return plain.model_copy(
        update={"runtime": runtime, "fingerprint": fingerprint, "version": fingerprint[:16]}
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
