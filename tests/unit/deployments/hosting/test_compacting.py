"""The release of a compaction is the current one with another index of the corpus."""

from __future__ import annotations

from pathlib import Path

from cluster.catalog.catalog import Published
from cluster.catalog.manifests import ManifestRef
from cluster.config import Settings
from cluster.regions.settings import RegionSettings, StoreSettings
from cluster.releases.entries import ReleaseContents
from deployments.hosting.compacting import contents_with, served_contents
from deployments.installation import Installation
from tests.support.values.manifests import index_manifest

OLD, NEW, FAQ = (ManifestRef(version=v, sha256=v * 64) for v in "abc")
CONTENTS = ReleaseContents(indexes={"docs": OLD, "faq": FAQ}, embedder=NEW)


def test_nothing_but_the_index_of_the_corpus_changes() -> None:
    index = Published(index_manifest(corpus="docs"), NEW, reused=False)
    following = contents_with(CONTENTS, index)
    assert following is not None
    assert following.indexes == {"docs": NEW, "faq": FAQ}
    assert following.model_copy(update={"indexes": CONTENTS.indexes}) == CONTENTS
    assert contents_with(following, index) is None


def test_without_a_release_nothing_is_served(tmp_path: Path) -> None:
    settings = Settings(
        store=StoreSettings(url=str(tmp_path / "store")),
        regions={"here": RegionSettings()},
        state_folder=tmp_path,
    )
    assert served_contents(Installation(settings, "here"), "docs") is None
