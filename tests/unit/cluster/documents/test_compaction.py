"""A corpus that was added to many times has few parts, and the documents that it would have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.files import ArtifactFile
from cluster.catalog.manifests import CorpusManifest
from cluster.documents.compaction import SMALL_PARTS_MAX, compacted
from cluster.documents.content import CorpusContent, PartDocuments, store_part, with_parts
from cluster.documents.passages import Passage, passage_table, read_part, undeleted_passages
from cluster.documents.passages import current_passages as of_parts
from cluster.documents.tombstones import store_tombstones, stored_tombstones
from cluster.metadata import ColumnType
from cluster.store.local_store import LocalStore

TYPES = {"n": ColumnType.FLOAT, "late": ColumnType.STRING}
DIMENSION = 2
START = CorpusManifest(
    corpus="docs",
    position=1,
    parts=(),
    num_documents=0,
    num_passages=0,
    metadata_schema=TYPES,
    vector_dimension=DIMENSION,
    sources=(),
    created_at_ms=0,
)


def stored(artifacts: Artifacts, version: int, documents: list[int]) -> ArtifactFile:
    """A part with these documents, whose older versions have other columns."""
    types = {"n": ColumnType.INT} if version % 2 else TYPES
    passages = [
        Passage(
            id=f"{document}#{number}",
            document=str(document),
            text=f"{document} {version}",
            metadata={"n": version},
            vector=np.array([document, version], dtype=np.float32),
        )
        for document in documents
        for number in range(1 + document % 2)
    ]
    return store_part(artifacts, passage_table(passages, types, DIMENSION))


def after(base: CorpusManifest, content: CorpusContent) -> CorpusManifest:
    return base.model_copy(
        update={
            "position": base.position + 1,
            "parts": content.parts,
            "tombstones": content.tombstones,
            "num_documents": content.num_documents,
            "num_passages": content.num_passages,
        }
    )


def versions(artifacts: Artifacts, manifest: CorpusManifest) -> dict[str, float]:
    """The version of every document that counts; each must have all of its passages."""
    deleted = stored_tombstones(artifacts, manifest.tombstones)
    tables = [
        read_part(artifacts.read_bytes(file), TYPES, DIMENSION, source=file.path)
        for file in manifest.parts
    ]
    rows = [
        row for table in of_parts(tables) for row in undeleted_passages(table, deleted).to_pylist()
    ]
    assert len(rows) == manifest.num_passages
    found = {row["document"]: row["meta.n"] for row in rows}
    assert len(found) == manifest.num_documents
    for row in rows:
        assert row["text"] == f"{row['document']} {int(row['meta.n'])}"
        assert row["vector"] == [float(row["document"]), row["meta.n"]]
    return found


DOCUMENTS = st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True)
STEPS = st.lists(st.tuples(st.sampled_from(["add", "delete"]), DOCUMENTS), max_size=12)


@settings(deadline=None, max_examples=40)
@given(steps=STEPS, part_bytes=st.sampled_from([1, 3000, 10**6]))
def test_documents_are_the_same_with_and_without(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, list[int]]], part_bytes: int
) -> None:
    artifacts = Artifacts(LocalStore(tmp_path_factory.mktemp("store")))
    expected: dict[str, float] = {}
    manifest = START
    for version, (step, numbers) in enumerate(steps):
        documents = PartDocuments(artifacts)
        ids = {str(number) for number in numbers}
        if step == "add":
            content = with_parts(manifest, [stored(artifacts, version, numbers)], documents)
            content = compacted(
                content,
                TYPES,
                DIMENSION,
                documents,
                small_part_bytes=part_bytes,
                small_parts_max=2,
            )
            manifest = after(manifest, content)
            expected |= dict.fromkeys(ids, version)
            small = [part for part in manifest.parts if part.size_bytes < part_bytes]
            assert len(small) <= 2
        else:
            held = {id for file in manifest.parts for id in documents.of(file)}
            deleted = stored_tombstones(artifacts, manifest.tombstones) | (ids & held)
            expected = {id: n for id, n in expected.items() if id not in ids}
            update = {
                "tombstones": store_tombstones(artifacts, deleted, "tombstones.arrow"),
                "num_documents": len(expected),
                "num_passages": sum(1 + int(id) % 2 for id in expected),
            }
            manifest = manifest.model_copy(update=update)
        assert versions(artifacts, manifest) == expected


def test_parts_do_not_grow_with_the_number_of_additions(tmp_path: Path) -> None:
    artifacts = Artifacts(LocalStore(tmp_path))
    manifest = START
    for number in range(3 * SMALL_PARTS_MAX):
        documents = PartDocuments(artifacts)
        content = with_parts(manifest, [stored(artifacts, 0, [number])], documents)
        again = compacted(content, TYPES, DIMENSION, documents)
        assert again == compacted(content, TYPES, DIMENSION, documents), "equal for all writers"
        manifest = after(manifest, again)
        assert len(manifest.parts) <= SMALL_PARTS_MAX
    assert manifest.num_documents == 3 * SMALL_PARTS_MAX
    assert versions(artifacts, manifest) == {str(n): 0.0 for n in range(3 * SMALL_PARTS_MAX)}


def test_large_parts_stay_as_they_are(tmp_path: Path) -> None:
    artifacts = Artifacts(LocalStore(tmp_path))
    documents = PartDocuments(artifacts)
    parts = [stored(artifacts, 0, [n]) for n in range(4)]
    vectors = passage_table(
        [
            Passage(id=str(n), document=str(n), text="x" * n, metadata={}, vector=np.ones(2))
            for n in range(100, 400)
        ],
        TYPES,
        DIMENSION,
    )
    large = store_part(artifacts, vectors)
    assert isinstance(vectors, pa.Table)

    def again(content: CorpusContent) -> CorpusContent:
        limits = {"small_part_bytes": large.size_bytes, "small_parts_max": 1}
        return compacted(content, TYPES, DIMENSION, documents, **limits)

    content = with_parts(START, [*parts[:2], large, *parts[2:]], documents)
    merged = again(content)
    assert merged.parts[0] == large
    assert len(merged.parts) < len(content.parts)
    assert again(merged).num_documents == 304
