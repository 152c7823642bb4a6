"""Documents as they were when an index was built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from actors.mutations.base_documents import BaseDocuments
from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.cache import ArtifactCache
from cluster.artifacts.files import ArtifactFile
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import CorpusManifest
from cluster.documents.content import store_part
from cluster.documents.documents import Document
from cluster.documents.passages import Types, passage_table, whole_passage
from cluster.documents.tombstones import store_tombstones
from cluster.errors import Unavailable
from cluster.metadata import ColumnType
from cluster.store.object_store import ObjectStore
from tests.support.values.manifests import index_manifest

TYPES: Types = {"year": ColumnType.FLOAT, "state": ColumnType.STRING}


class Corpus:
    """A corpus of vectors, and an index version of its last position."""

    def __init__(self, store: ObjectStore, cache: Path) -> None:
        self.artifacts, self.catalog = Artifacts(store), Catalog(store)
        self.base = BaseDocuments(self.catalog, ArtifactCache(self.artifacts, cache))
        self._parts: list[ArtifactFile] = []
        self._built = 0

    def part(self, types: Types, *documents: Document) -> None:
        table = passage_table([whole_passage(document) for document in documents], types, 2)
        self._parts.append(store_part(self.artifacts, table))

    def build(self, deleted: Sequence[str] = ()) -> str:
        self._built += 1
        tombstones = store_tombstones(self.artifacts, deleted, "tombstones.arrow")
        self.catalog.append_corpus(
            CorpusManifest(
                corpus="words",
                position=self._built,
                parts=tuple(self._parts),
                tombstones=tombstones,
                num_documents=1,
                num_passages=1,
                metadata_schema=dict(TYPES),
                vector_dimension=2,
                sources=(),
                created_at_ms=1,
            )
        )
        version = f"v{self._built}"
        manifest = index_manifest(corpus="words", version=version, corpus_position=self._built)
        self.catalog.publish_index(manifest)
        return version


@pytest.fixture
def corpus(store: ObjectStore, tmp_path: Path) -> Corpus:
    return Corpus(store, tmp_path / "cache")


def document(id: str, text: str, **metadata: str | int | float | None) -> Document:
    vector = np.array([1, 2], dtype=np.float32)
    return Document(id=id, text=text, metadata=metadata, vector=vector)


def test_a_document_is_as_its_last_part_has_it(corpus: Corpus) -> None:
    old = document("a/1#0", "old", year=2023), document("b", "of the old part", year=7)
    corpus.part({"year": ColumnType.INT}, *old)
    corpus.part(TYPES, document("a/1#0", "new", state="open"), document("c", "", year=None))
    version = corpus.build()

    found = {id: corpus.base.find("words", version, id) for id in ("a/1#0", "b", "c", "a")}

    assert found["a/1#0"] == Document(id="a/1#0", text="new", metadata={"state": "open"})
    # By the types that the corpus has now.
    assert found["b"] == Document(id="b", text="of the old part", metadata={"year": 7.0})
    assert found["c"] == Document(id="c", text="", metadata={})
    assert found["a"] is None


def test_a_deleted_document_is_there_in_the_index_before(corpus: Corpus) -> None:
    corpus.part(TYPES, document("a", "text"))
    before, after = corpus.build(), corpus.build(deleted=["a"])

    assert corpus.base.find("words", after, "a") is None
    assert corpus.base.find("words", before, "a") is not None


def test_an_index_that_is_gone_says_so(corpus: Corpus) -> None:
    with pytest.raises(Unavailable, match="is not in the store any more"):
        corpus.base.find("words", "v7", "a")
