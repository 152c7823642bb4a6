"""The names of index versions: what determines a build, and nothing else."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from cluster.artifacts.files import ArtifactFile
from cluster.catalog.catalog import Catalog
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.catalog.index_versions import BuildPlan, at_watermark, index_as_planned
from cluster.catalog.manifests import CorpusManifest
from cluster.errors import Corrupt
from cluster.metadata import ColumnType
from cluster.mutations.watermark import Watermark
from cluster.store.object_store import open_store
from tests.support.values.manifests import index_manifest

STORED = CorpusManifest(
    corpus="docs",
    position=3,
    parts=(ArtifactFile(path="a.parquet", sha256="a" * 64, size_bytes=7),),
    num_documents=5,
    num_passages=6,
    metadata_schema={"year": ColumnType.INT},
    vector_dimension=4,
    sources=("x",),
    created_at_ms=9,
)
LATER = Watermark.of({"eu": 7, "us": 3})


def test_an_effort_that_is_given_has_a_version_of_its_own() -> None:
    def version(**index: Any) -> str:
        settings = CorpusSettings.model_validate({"index": index})
        return BuildPlan(STORED, settings, None).version

    # What was built with the usual effort is found again, and keeps it; a graph of as many
    # candidates as that may be another one.
    assert version() == version(target_recall=0.95) == version(recall=0.95)
    assert version(ef_search=64) == "04458c5720c1ab4c"
    assert version(kind="IVFPQ", rescore=8, nprobe=16) == "d7acad9e792b458a"
    lists = {"kind": "IVFFlat"}
    several = [
        version(),
        version(recall=0.9),
        version(ef_search=128),
        version(ef_search=64),
        version(**lists),
        version(**lists, recall=0.9),
        version(**lists, nprobe=16),
        version(**lists, nprobe=17),
    ]
    assert len({*several}) == len(several)
    # It means nothing where the effort is given.
    assert version(ef_search=128, recall=0.9) == version(ef_search=128)
    assert version(**lists, nprobe=16) == version(**lists, nprobe=16, rescore=4)
    assert version(kind="Flat") == version(kind="Flat", recall=0.9)


# Watermarks.


def test_what_was_stored_before_there_were_logs_keeps_its_bytes() -> None:
    assert b"watermark" not in STORED.to_bytes()
    assert b"watermark" not in index_manifest().to_bytes()
    read = CorpusManifest.from_bytes(STORED.to_bytes(), source="s")
    assert (read, read.watermark) == (STORED, Watermark())
    later = STORED.model_copy(update={"watermark": LATER})
    assert CorpusManifest.from_bytes(later.to_bytes(), source="s") == later
    assert b'"watermark":{"eu":7,"us":3}' in later.to_bytes()


@pytest.mark.parametrize("damaged", [b'{"eu":0}', b'{"eu":"x"}', b"[]", b"7"])
def test_a_damaged_watermark_is_corrupt(damaged: bytes) -> None:
    data = STORED.model_copy(update={"watermark": LATER}).to_bytes()
    with pytest.raises(Corrupt):
        CorpusManifest.from_bytes(data.replace(b'{"eu":7,"us":3}', damaged), source="s")


def test_equal_documents_at_another_watermark_are_the_same_files_under_another_version() -> None:
    catalog, asked = Catalog(open_store(f"memory://{uuid4().hex}")), CorpusSettings()
    catalog.append_corpus(STORED.model_copy(update={"position": 1, "parts": ()}))
    plan = BuildPlan(STORED, asked, None)
    built = index_manifest(corpus="docs", version=plan.version, corpus_position=3)
    assert at_watermark(built, STORED) is built
    built_ref = catalog.publish_index(built).ref

    positions = [STORED.model_copy(update={"position": 4, "watermark": LATER})]
    positions += [positions[0].model_copy(update={"watermark": LATER.advanced("us", 4)})]
    versions = {built.version}
    for position in positions:
        # The build is known by its documents, and its watermark is that of the position.
        later_plan = BuildPlan(position, asked, None)
        assert later_plan.version == plan.version
        assert index_as_planned(catalog, later_plan) == (built, built_ref), "it may be served"
        later = at_watermark(built, position)
        assert (later.watermark, later.base) == (position.watermark, built.version)
        assert (later.shards, later.corpus_position) == (built.shards, 4)
        assert at_watermark(later, position) is later
        ref = catalog.publish_index(later).ref
        assert index_as_planned(catalog, later_plan) == (later, ref)
        versions.add(later.version)
        # One that is derived already belongs to the same build.
        assert at_watermark(later, positions[-1]).base == built.version
    assert len(versions) == 3
    assert index_as_planned(catalog, plan) == (built, built_ref)
