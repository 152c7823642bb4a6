"""Documents out of a corpus and back: positions, tombstones, and the names of index versions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.builds.rows import PartReader, latest_of_each_document, part_rows
from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.files import ArtifactFile
from cluster.catalog.catalog import Catalog
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.catalog.index_versions import BuildPlan, bases_of, derived_version, newest_index
from cluster.catalog.manifests import CorpusManifest, IndexManifest
from cluster.catalog.model_settings import GeneratorSettings
from cluster.config import Settings
from cluster.documents.content import PartDocuments, with_parts
from cluster.documents.deletes import Deletion, delete_documents
from cluster.documents.passages import Passage, passage_table, write_part
from cluster.documents.tombstones import read_tombstones, stored_tombstones, write_tombstones
from cluster.errors import Conflict, Corrupt, InvalidArgument, NotFound
from cluster.metadata import ColumnType
from cluster.regions.settings import RegionSettings, StoreSettings
from cluster.store.local_store import LocalStore
from cluster.store.object_store import ObjectStore
from deployments.hosting.pipeline import contents_of_next
from deployments.installation import Installation
from tests.support.values.manifests import index_manifest

CORPUS = "docs"
TYPES = {"version": ColumnType.INT}
NOTHING = {"num_documents": 0, "num_passages": 0}


def part(store: ObjectStore, documents: dict[str, int], num_passages: int = 1) -> ArtifactFile:
    """Stores a part with these documents, each with a number that tells its version."""
    passages = [
        Passage(
            id=document if num_passages == 1 else f"{document}#{n}",
            document=document,
            text=f"{document} {version}",
            metadata={"version": version},
        )
        for document, version in documents.items()
        for n in range(num_passages)
    ]
    data = write_part(passage_table(passages, TYPES, None))
    sha256, size_bytes = Artifacts(store).put_bytes(data)
    return ArtifactFile(path=f"{sha256}.parquet", sha256=sha256, size_bytes=size_bytes)


def add(store: ObjectStore, *files: ArtifactFile, dimension: int | None = None) -> CorpusManifest:
    """What `ingest` does once the parts are stored."""
    catalog = Catalog(store)
    latest = catalog.latest_corpus(CORPUS)
    content = with_parts(latest, files, PartDocuments(Artifacts(store)))
    manifest = CorpusManifest(
        corpus=CORPUS,
        position=latest.position + 1 if latest else 1,
        parts=content.parts,
        tombstones=content.tombstones,
        num_documents=content.num_documents,
        num_passages=content.num_passages,
        metadata_schema=TYPES,
        vector_dimension=dimension,
        sources=(),
        created_at_ms=0,
    )
    if latest is not None and latest.content() == manifest.content():
        return latest
    catalog.append_corpus(manifest)
    return manifest


def delete(store: ObjectStore, *ids: str) -> Deletion:
    return delete_documents(
        catalog=Catalog(store), artifacts=Artifacts(store), corpus=CORPUS, documents=ids
    )


def rows_of(store: ObjectStore, corpus: CorpusManifest) -> list[dict[str, Any]]:
    """The passages that count, as a build reads them."""
    batch = pa.Table.from_pylist(part_rows(corpus))
    rows = latest_of_each_document(PartReader(Artifacts(store), corpus).read(batch))
    assert rows.num_rows == corpus.num_passages
    assert len(set(rows["document"].to_pylist())) == corpus.num_documents
    return rows.to_pylist()


def versions_of(store: ObjectStore, corpus: CorpusManifest) -> dict[str, int]:
    return {row["document"]: row["meta.version"] for row in rows_of(store, corpus)}


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return LocalStore(tmp_path / "store")


# The file.


@pytest.mark.parametrize("ids", [[], ["a"], ["b", "a", "b"], ["é", "z", "😀", "a b", "x#1"]])
def test_equal_sets_are_equal_files(ids: list[str]) -> None:
    data = write_tombstones(ids)
    assert read_tombstones(data, source="f") == frozenset(ids)
    assert write_tombstones(reversed(ids * 2)) == data


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_damaged_file_is_corrupt(cut: int) -> None:
    with pytest.raises(Corrupt, match=r"tombs\.arrow"):
        read_tombstones(write_tombstones(["a", "b"])[:cut], source="tombs.arrow")
    with pytest.raises(Corrupt):
        read_tombstones(write_part(pa.table({"document": ["a"]})), source="f")


# Positions of a corpus.


def test_deleted_documents_are_gone_until_they_are_ingested_again(store: ObjectStore) -> None:
    first = add(store, part(store, {"a": 1, "b": 1, "c": 1}, num_passages=3))
    assert (first.num_documents, first.num_passages, first.tombstones) == (3, 9, None)
    found = delete(store, "a", "c", "nobody")
    assert (found.deleted, found.unknown) == ({"a", "c"}, {"nobody"})
    gone = found.manifest
    assert (gone.position, gone.num_documents, gone.num_passages) == (2, 1, 3)
    assert gone.parts == first.parts
    assert stored_tombstones(Artifacts(store), gone.tombstones) == {"a", "c"}
    assert versions_of(store, gone) == {"b": 1}
    # Twice, or what was never there: nothing changes.
    again = delete(store, "a", "nobody")
    assert (again.manifest, again.deleted, again.unknown) == (gone, set(), {"a", "nobody"})
    back = add(store, part(store, {"a": 2}))
    assert versions_of(store, back) == {"a": 2, "b": 1}
    assert stored_tombstones(Artifacts(store), back.tombstones) == {"c"}
    # The same file as before brings all of it back, and the corpus is what it was.
    assert delete(store, "a").manifest.num_documents == 1


def test_the_same_part_again_brings_its_documents_back_in_their_place(store: ObjectStore) -> None:
    old, new = part(store, {"a": 1, "b": 1}), part(store, {"b": 2, "c": 2})
    add(store, old)
    before = add(store, new)
    gone = delete(store, "b", "c").manifest
    assert gone.parts == before.parts
    assert versions_of(store, gone) == {"a": 1}
    back = add(store, new)
    assert back.content() == before.content()
    # An older part is no way back to what was deleted, but for its own documents' old versions.
    delete(store, "b", "c")
    assert versions_of(store, add(store, old)) == {"a": 1, "b": 1}


def test_a_corpus_may_lose_all_its_documents(store: ObjectStore) -> None:
    first = add(store, part(store, {"a": 1, "b": 1}))
    empty = delete(store, "a", "b").manifest
    assert (empty.num_documents, empty.num_passages) == (0, 0)
    assert rows_of(store, empty) == []
    # What nothing of is left is not carried along.
    other = add(store, part(store, {"x": 1}))
    assert (len(other.parts), other.tombstones) == (1, None)
    assert first.parts[0] not in other.parts


def test_what_cannot_be_deleted(store: ObjectStore) -> None:
    with pytest.raises(NotFound, match="raygion ingest"):
        delete(store, "a")
    with pytest.raises(InvalidArgument):
        delete_documents(
            catalog=Catalog(store), artifacts=Artifacts(store), corpus="No/Name", documents=["a"]
        )


def test_two_writers_do_not_undo_each_other(store: ObjectStore) -> None:
    add(store, part(store, {"a": 1, "b": 1, "c": 1}))

    class Overtaken(Catalog):
        attempts = 0

        def append_corpus(self, manifest: CorpusManifest) -> None:
            self.attempts += 1
            if self.attempts == 1:
                delete(store, "b")
            super().append_corpus(manifest)

    class AlwaysLate(Catalog):
        def append_corpus(self, manifest: CorpusManifest) -> None:
            raise Conflict("taken")

    overtaken = Overtaken(store)
    found = delete_documents(
        catalog=overtaken, artifacts=Artifacts(store), corpus=CORPUS, documents=["a", "b"]
    )
    assert (overtaken.attempts, found.deleted, found.unknown) == (2, {"a"}, {"b"})
    assert versions_of(store, found.manifest) == {"c": 1}
    with pytest.raises(Conflict, match="keep changing"):
        delete_documents(
            catalog=AlwaysLate(store), artifacts=Artifacts(store), corpus=CORPUS, documents=["c"]
        )


IDS = st.sampled_from(["a", "b", "c", "d", "e"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sets(IDS, min_size=1), st.integers(1, 3)),
        st.tuples(st.just("delete"), st.sets(IDS, min_size=1), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_a_corpus_is_what_was_added_last_and_not_deleted_since(
    tmp_path_factory: pytest.TempPathFactory, steps: Sequence[tuple[str, set[str], int]]
) -> None:
    store = LocalStore(tmp_path_factory.mktemp("steps"))
    manifest = add(store, part(store, {"a": 0, "z": 0}))
    model = {"a": 0, "z": 0}
    for what, ids, version in steps:
        if what == "add":
            manifest = add(store, part(store, dict.fromkeys(sorted(ids), version)))
            model |= dict.fromkeys(ids, version)
        else:
            found = delete(store, *ids)
            manifest = found.manifest
            assert found.deleted == ids & model.keys()
            assert found.unknown == ids - model.keys()
            model = {id: version for id, version in model.items() if id not in ids}
        assert versions_of(store, manifest) == model
        # None of the tombstones is of a document that counts, nor of one that no part has.
        held = {id for file in manifest.parts for id in PartDocuments(Artifacts(store)).of(file)}
        dead = stored_tombstones(Artifacts(store), manifest.tombstones)
        assert dead == held - model.keys()


# Names of index versions.


def index(corpus: CorpusManifest, version: str, **fields: Any) -> IndexManifest:
    return index_manifest(
        corpus=corpus.corpus,
        version=version,
        corpus_position=corpus.position,
        metadata_schema=TYPES,
        num_documents=corpus.num_documents,
        num_passages=corpus.num_passages,
        **fields,
    )


def test_what_was_stored_before_there_were_deletes_keeps_its_name() -> None:
    file = ArtifactFile(path="a.parquet", sha256="a" * 64, size_bytes=7)
    corpus = CorpusManifest(
        corpus=CORPUS,
        position=3,
        parts=(file,),
        num_documents=5,
        num_passages=6,
        metadata_schema={"year": ColumnType.INT},
        vector_dimension=4,
        sources=("x",),
        created_at_ms=9,
    )
    assert BuildPlan(corpus, CorpusSettings(), None).version == "1d5f2b4865e68bea"
    by_year = CorpusSettings(partition_by="year")
    assert BuildPlan(corpus, by_year, None).version == "09a057ac04a854c4"
    assert b"tombstones" not in corpus.to_bytes()
    assert b'"base"' not in index(corpus, "v").to_bytes()
    with_deletes = corpus.model_copy(update={"tombstones": file})
    assert BuildPlan(with_deletes, CorpusSettings(), None).version != "1d5f2b4865e68bea"
    assert CorpusManifest.from_bytes(with_deletes.to_bytes(), source="s") == with_deletes


def test_a_base_has_the_same_parts_and_settings(store: ObjectStore) -> None:
    catalog, asked = Catalog(store), CorpusSettings()
    old, new = part(store, {"a": 1, "b": 1}), part(store, {"c": 1})
    first = add(store, old)
    second = add(store, new)
    third = delete(store, "a").manifest
    fourth = delete(store, "c").manifest

    def publish(corpus: CorpusManifest, settings: CorpusSettings, **fields: Any) -> IndexManifest:
        version = BuildPlan(corpus, settings, None).version
        return catalog.publish_index(index(corpus, version, **fields)).manifest

    publish(first, asked)
    base = publish(second, asked)
    publish(second, CorpusSettings(shards=7))
    derived = index(third, derived_version(base, third), base=base.version)
    catalog.publish_index(derived)
    rebuilt = publish(fourth, asked)
    found = [found.version for found, _ in bases_of(catalog, BuildPlan(fourth, asked, None))]
    assert found == [rebuilt.version, base.version]
    assert derived_version(base, third) != derived_version(base, fourth)
    assert derived_version(base, third) != derived_version(rebuilt, third)


def newest_version(catalog: Catalog) -> str | None:
    newest = newest_index(catalog, CORPUS)
    return None if newest is None else newest[0].version


def test_the_newest_index_is_that_of_the_latest_position_even_when_it_is_back(
    store: ObjectStore,
) -> None:
    catalog, file = Catalog(store), part(store, {"a": 1, "b": 1})
    assert newest_version(catalog) is None
    first = add(store, file)
    assert newest_version(catalog) is None
    catalog.publish_index(index(first, "whole"))
    second = delete(store, "a").manifest
    assert newest_version(catalog) == "whole", "as long as no later one is built"
    catalog.publish_index(index(second, "less"))
    assert newest_version(catalog) == "less"
    third = add(store, file)
    assert (third.position, third.content()) == (3, first.content())
    assert newest_version(catalog) == "whole"


# The next release.


def built(corpus: CorpusManifest) -> IndexManifest:
    """What a build of it with the settings' defaults gives."""
    return index(corpus, BuildPlan(corpus, CorpusSettings(), None).version)


def test_a_corpus_without_documents_is_left_out_of_the_next_release(tmp_path: Path) -> None:
    settings = Settings(
        store=StoreSettings(url=str(tmp_path / "store")),
        regions={"here": RegionSettings()},
        generator=GeneratorSettings(source=None),
        state_folder=tmp_path,
    )
    installation = Installation(settings, "here")
    store = installation.store
    # With vectors of its own, a release of it needs no embedder.
    first = add(store, part(store, {"a": 1, "b": 1}), dimension=4)
    installation.catalog.publish_index(built(first))
    other = first.model_copy(update={"corpus": "other"})
    installation.catalog.append_corpus(other)
    ref = installation.catalog.publish_index(built(other)).ref
    assert contents_of_next(installation).indexes.keys() == {CORPUS, "other"}
    delete(store, "a", "b")
    assert contents_of_next(installation).indexes == {"other": ref}
    installation.catalog.append_corpus(other.model_copy(update={"position": 2, **NOTHING}))
    with pytest.raises(NotFound, match="every corpus is empty"):
        contents_of_next(installation)


def test_a_release_of_an_index_that_its_corpus_has_left_behind_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installation = Installation(
        Settings(
            store=StoreSettings(url=str(tmp_path / "store")),
            regions={"here": RegionSettings()},
            generator=GeneratorSettings(source=None),
            state_folder=tmp_path,
        ),
        "here",
    )
    store = installation.store
    # With vectors of its own, a release of it needs no embedder.
    first = add(store, part(store, {"a": 1, "b": 1}), dimension=4)
    installation.catalog.publish_index(built(first))

    def told() -> str:
        contents_of_next(installation)
        return " ".join(capsys.readouterr().err.split())

    assert told() == ""
    second = delete(store, "a").manifest
    assert f"`raygion build {CORPUS}` takes the changes in" in told()
    installation.catalog.publish_index(built(second))
    assert told() == ""
