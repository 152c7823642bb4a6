"""A release as one region serves it, and the groups of actors that it needs there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from actors.runtime import names
from cluster.artifacts.files import ArtifactFile
from cluster.catalog.manifests import IndexManifest, ModelManifest
from cluster.serving.view import ReleaseView


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRelease:
    """A release as this region serves it, with what its parts are made of."""

    view: ReleaseView
    indexes: Mapping[str, IndexManifest]
    embedder: ModelManifest | None
    generator: ModelManifest | None
    """Generator of the release; None also where it runs in other regions alone."""

    @property
    def versions(self) -> dict[str, str]:
        """The index version that each group of shard replicas must hold for it, by group."""
        return {
            group: index.version for index in self.indexes.values() for group in shards_of(index)
        }

    @property
    def embedder_group(self) -> str | None:
        return None if self.embedder is None else names.embedders(self.embedder.version)

    @property
    def application(self) -> str | None:
        """The generator's, where it runs here."""
        return None if self.view.generator is None else self.view.generator.application

    @property
    def artifacts(self) -> frozenset[tuple[ArtifactFile, ...]]:
        """The sets of files that its parts are opened from."""
        shards = (shard for index in self.indexes.values() for shard in index.shards)
        models = {m.run_files for m in (self.embedder, self.generator) if m is not None}
        return frozenset(models.union(*(shard.folders for shard in shards)))

    def with_members(self, members: Callable[[str], tuple[str, ...]]) -> LoadedRelease:
        """The release with these members of each group in its view."""
        corpora = {
            corpus: replace(
                self.view.corpora[corpus], shards=tuple(members(g) for g in shards_of(index))
            )
            for corpus, index in self.indexes.items()
        }
        group = self.embedder_group
        embedders = () if group is None else members(group)
        return replace(self, view=replace(self.view, corpora=corpora, embedders=embedders))


def shards_of(index: IndexManifest) -> list[str]:
    """The groups of its shards' replicas, in the order of the shards."""
    return [names.shard(index.corpus, shard.shard) for shard in index.shards]
