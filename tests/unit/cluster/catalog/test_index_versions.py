"""The names of index versions: what determines a build, and nothing else."""

from __future__ import annotations

from typing import Any

from cluster.artifacts.files import ArtifactFile
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.catalog.index_versions import BuildPlan
from cluster.catalog.manifests import CorpusManifest
from cluster.metadata import ColumnType

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
