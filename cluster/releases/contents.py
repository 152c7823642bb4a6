"""The contents of a release in the store: its manifests, and the claim that keeps them there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import assert_never

from cluster.artifacts.claims import claim_all
from cluster.catalog.catalog import Catalog, index_path, model_path
from cluster.catalog.manifests import IndexManifest, ModelManifest, blobs_of
from cluster.clock import SYSTEM_CLOCK, Clock
from cluster.errors import InvalidArgument
from cluster.releases.entries import LogState, ReleaseContents
from cluster.releases.requests import (
    AbortRelease,
    CommitRelease,
    ProposeRelease,
    ReleaseRequest,
    RollBackTo,
    SetShare,
)
from cluster.store.object_store import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseManifests:
    """The manifests that a release names."""

    indexes: Mapping[str, IndexManifest]
    """By corpus."""
    embedder: ModelManifest | None
    generator: ModelManifest | None

    def check_embedder(self) -> None:
        """Raises InvalidArgument for an index that was built with another embedder."""
        # Vectors of different embedders never meet: equal dimensions would not tell them apart.
        fingerprint = None if self.embedder is None else self.embedder.fingerprint
        for index in self.indexes.values():
            if index.embedder_fingerprint not in (None, fingerprint):
                raise InvalidArgument(
                    f"index {index.version} of corpus {index.corpus!r} was built with another "
                    "embedder than the release names: build the corpus again with this one",
                    "embedder",
                )


def read_manifests(
    catalog: Catalog, contents: ReleaseContents, corpora: Collection[str]
) -> ReleaseManifests:
    """The manifests of a release, with the indexes of these of its corpora. Raises what the
    catalog raises.
    """
    embedder, generator = contents.embedder, contents.generator
    return ReleaseManifests(
        indexes={c: catalog.read_index(c, contents.indexes[c]) for c in sorted(corpora)},
        embedder=None if embedder is None else catalog.read_model(embedder),
        generator=None if generator is None else catalog.read_model(generator),
    )


def keep_contents(
    store: ObjectStore, request: ReleaseRequest, state: LogState, now_ms: int
) -> None:
    """Makes sure that the store holds all that a request leads to, and goes on to hold it until the
    request's entry is in the log.

    Raises what the catalog and `claim_release` raise, and InvalidArgument for a proposed index that
    was built with another embedder.
    """
    match request:
        case ProposeRelease(contents=contents):
            manifests = read_manifests(Catalog(store), contents, contents.indexes)
            manifests.check_embedder()
            claim_release(store, contents, manifests)
        case RollBackTo(release=number):
            earlier = state.proposals.get(number or 0)
            if earlier is not None and number not in state.resident(now_ms):
                contents = earlier.release.contents
                manifests = read_manifests(Catalog(store), contents, contents.indexes)
                claim_release(store, contents, manifests)
        case SetShare() | CommitRelease() | AbortRelease():
            # They are about an open release, which the collector keeps.
            return
        case _:
            assert_never(request)


def manifest_paths(contents: ReleaseContents) -> tuple[str, ...]:
    """Paths in the store of the manifests that a release names."""
    models = (ref for ref in (contents.embedder, contents.generator) if ref is not None)
    indexes = (index_path(corpus, ref.version) for corpus, ref in contents.indexes.items())
    return (*indexes, *(model_path(ref.version) for ref in models))


def claim_release(
    store: ObjectStore,
    contents: ReleaseContents,
    manifests: ReleaseManifests,
    *,
    clock: Clock = SYSTEM_CLOCK,
) -> None:
    """Makes sure that all of a release is in the store, and stays until it is proposed.
    `manifests`: those of all its corpora.

    Raises NotFound naming what is gone, Corrupt for what has another size, Unavailable while some
    of it is being collected as garbage.
    """
    models = (model for model in (manifests.embedder, manifests.generator) if model is not None)
    named: list[IndexManifest | ModelManifest] = [*manifests.indexes.values(), *models]
    files = [file for manifest in named for file in blobs_of(manifest)]
    claim_all(store, files, manifest_paths(contents), clock=clock)
