"""Corpora and indexes to propose a release of, as manifests alone."""

from __future__ import annotations

from cluster.artifacts.files import ArtifactFile
from cluster.catalog.catalog import Catalog
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.catalog.index_versions import BuildPlan, derived_version
from cluster.catalog.manifests import (
    CorpusManifest,
    IndexManifest,
    ManifestRef,
    ModelKind,
    ModelManifest,
)
from cluster.config import Settings
from cluster.corpora.next_release import NextIndexes, corpora_for_release, indexes_for_release
from tests.support.values.manifests import index_manifest
from tests.support.worlds.gc_world import ShiftedClock, TimedStore


def embedder(name: str) -> ModelManifest:
    fingerprint = (name * 64)[:64]
    return ModelManifest(
        kind=ModelKind.EMBEDDER,
        name="encoder",
        version=fingerprint[:16],
        fingerprint=fingerprint,
        files=(),
        dimension=4,
    )


class World:
    """Corpora in a store in which nothing but manifests is needed."""

    def __init__(self) -> None:
        self.clock = ShiftedClock()
        self.store = TimedStore(self.clock)
        self.catalog = Catalog(self.store)
        self.asked: dict[str, CorpusSettings] = {}
        self.embedder: ModelManifest | None = None
        self.served: dict[str, ManifestRef] = {}
        self._ticks = 0

    def ingest(
        self, corpus: str = "docs", *, documents: int = 1, deleted: ArtifactFile | None = None
    ) -> CorpusManifest:
        """A next position with so many documents."""
        latest = self.catalog.latest_corpus(corpus)
        manifest = CorpusManifest(
            corpus=corpus,
            position=1 if latest is None else latest.position + 1,
            parts=(),
            tombstones=deleted,
            num_documents=documents,
            num_passages=documents,
            metadata_schema={},
            vector_dimension=4 if self.embedder is None else None,
            sources=(),
            created_at_ms=0,
        )
        self.catalog.append_corpus(manifest)
        return manifest

    def build(self, corpus: str = "docs", base: IndexManifest | None = None) -> IndexManifest:
        """What `raygion build` gives: what is there already, or a new one."""
        latest = self.catalog.latest_corpus(corpus)
        assert latest is not None
        asked = self.asked.get(corpus, CorpusSettings())
        version = BuildPlan(latest, asked, self.embedder).version
        if base is not None:
            version = derived_version(base, latest)
        self._ticks += 1
        return self.catalog.publish_index(
            index_manifest(
                corpus=corpus,
                version=version,
                corpus_position=latest.position,
                embedder_fingerprint=None if self.embedder is None else self.embedder.fingerprint,
                num_documents=latest.num_documents,
                num_passages=latest.num_passages,
                base=None if base is None else base.version,
                built_at_ms=self._ticks,
            )
        ).manifest

    def following(self, *named: str) -> NextIndexes:
        return indexes_for_release(
            self.catalog,
            Settings(corpora=self.asked),
            self.embedder,
            corpora_for_release(self.catalog, named or None),
            served=self.served,
            are_named=bool(named),
        )

    def serve(self) -> None:
        """The next release becomes the current one."""
        self.served = {corpus: ref for corpus, (_, ref) in self.following().indexes.items()}

    def taken(self, *named: str) -> dict[str, str]:
        indexes = self.following(*named).indexes
        return {corpus: manifest.version for corpus, (manifest, _) in indexes.items()}

    def told(self, *named: str) -> str:
        return "\n".join(self.following(*named).remarks)
