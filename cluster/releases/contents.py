"""The contents of a release in the store."""

from __future__ import annotations

from cluster.artifacts.claims import claim_all
from cluster.catalog.catalog import Catalog, index_path, model_path
from cluster.catalog.manifests import IndexManifest, ModelManifest, parts_of
from cluster.clock import SYSTEM_CLOCK, Clock
from cluster.releases.entries import ReleaseContents
from cluster.store.object_store import ObjectStore


def manifest_paths(contents: ReleaseContents) -> tuple[str, ...]:
    """Paths in the store of the manifests that a release names."""
    models = (ref for ref in (contents.embedder, contents.generator) if ref is not None)
    indexes = (index_path(corpus, ref.version) for corpus, ref in contents.indexes.items())
    return (*indexes, *(model_path(ref.version) for ref in models))


def claim_release(
    store: ObjectStore, contents: ReleaseContents, *, clock: Clock = SYSTEM_CLOCK
) -> None:
    """Makes sure that all of a release is in the store, and stays until it is proposed.

    Raises NotFound naming what is gone, Corrupt for what has another size, Unavailable while some
    of it is being collected as garbage.
    """
    catalog = Catalog(store)
    indexes = [catalog.read_index(corpus, ref) for corpus, ref in contents.indexes.items()]
    models = [
        catalog.read_model(ref)
        for ref in (contents.embedder, contents.generator)
        if ref is not None
    ]
    manifests: list[IndexManifest | ModelManifest] = [*indexes, *models]
    files = [file for manifest in manifests for file in parts_of(manifest)]
    claim_all(store, files, manifest_paths(contents), clock=clock)
