"""Ingest on a real Ray: sources of all kinds in, corpus positions out."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.documents.ingest import ingest
from actors.documents.source_files import find_source_files
from cluster.artifacts.artifacts import Artifacts
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import CorpusManifest
from cluster.documents.passages import current_passages, read_part, vectors_of
from cluster.errors import Conflict, InvalidArgument, Unavailable
from cluster.metadata import ColumnType
from cluster.store.object_store import ObjectStore, open_store
from tests.support.regions.local_ray import local_ray
from tests.support.store_fixtures import S3Server, s3_server
from tests.support.values.office_files import mail, pdf

__all__ = ["s3_server"]

pytestmark = [
    pytest.mark.integration,
    # Ray's own code warns of its own deprecations.
    pytest.mark.filterwarnings("default::DeprecationWarning:ray.*"),
    pytest.mark.filterwarnings("default::FutureWarning:ray.*"),
    pytest.mark.filterwarnings("default::ResourceWarning"),
]

FACTBOOK = Path(__file__).resolve().parents[3] / "data" / "factbook" / "factbook.jsonl"

Ingest = Callable[..., CorpusManifest]


@pytest.fixture(scope="module")
def s3_environment(s3_server: S3Server) -> Iterator[S3Server]:
    """The sources' file system is configured by the environment, as S3 clients have it."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", s3_server.options["endpoint_url"])
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        yield s3_server


@pytest.fixture(scope="module")
def cluster(s3_environment: S3Server) -> Iterator[None]:
    with local_ray():
        yield


@pytest.fixture
def object_store(tmp_path: Path, cluster: None) -> ObjectStore:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def run(object_store: ObjectStore) -> Ingest:
    def call(*sources: Path | str, corpus: str = "docs", **options: Any) -> CorpusManifest:
        return ingest(
            catalog=Catalog(object_store),
            artifacts=Artifacts(object_store),
            corpus=corpus,
            listing=find_source_files([str(source) for source in sources]),
            **options,
        ).manifest

    return call


def rows_of(store: ObjectStore, manifest: CorpusManifest) -> dict[str, dict[str, Any]]:
    """All passages that count, by id."""
    artifacts = Artifacts(store)
    tables = [
        read_part(
            artifacts.read_bytes(file),
            manifest.metadata_schema,
            manifest.vector_dimension,
            source=file.path,
        )
        for file in manifest.parts
    ]
    rows = pa.concat_tables(current_passages(tables)).to_pylist()
    assert len(rows) == manifest.num_passages
    assert len({row["document"] for row in rows}) == manifest.num_documents
    by_id = {str(row["id"]): row for row in rows}
    assert len(by_id) == len(rows)
    return by_id


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def position_of(store: ObjectStore, corpus: str = "docs") -> int:
    latest = Catalog(store).latest_corpus(corpus)
    return latest.position if latest else 0


def test_the_demo_corpus_is_read_and_a_second_run_adds_nothing(
    run: Ingest, object_store: ObjectStore
) -> None:
    seen: list[tuple[int, int]] = []
    manifest = run(FACTBOOK, count=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 1)]
    assert (manifest.position, manifest.vector_dimension) == (1, None)
    assert manifest.num_documents == manifest.num_passages == 2563
    assert manifest.metadata_schema == dict.fromkeys(
        ["country", "region", "section"], ColumnType.STRING
    )
    rows = rows_of(object_store, manifest)
    assert rows["fr/overview/1"]["text"].startswith("France - Capital: Paris.")
    assert rows["fr/overview/1"]["meta.region"] == "europe"
    assert run(FACTBOOK) == manifest
    assert run(FACTBOOK, replace=True) == manifest
    assert position_of(object_store) == 1


def test_a_folder_of_all_kinds_becomes_one_corpus(
    run: Ingest, object_store: ObjectStore, tmp_path: Path
) -> None:
    folder = tmp_path / "docs"
    (folder / "deep" / "er").mkdir(parents=True)
    write_rows(folder / "rows.jsonl", {"id": "j1", "text": "Rows.", "metadata": {"year": 1}})
    packed = json.dumps({"id": "j2", "text": "Packed.", "year": 2.5}).encode()
    (folder / "packed.ndjson.gz").write_bytes(gzip.compress(packed))
    (folder / "table.csv").write_text("id,text,year\nc1,Cells.,3\n")
    pq.write_table(pa.table({"id": ["p1"], "text": ["Columns."]}), folder / "table.parquet")
    (folder / "deep" / "notes.md").write_text("# Notes\n\n" + "A sentence of notes. " * 100)
    (folder / "deep" / "er" / "page.html").write_text("<title>Page</title><p>Hyper.")
    (folder / "deep" / "plain.txt").write_text("Plain.")
    (folder / "photo.png").write_bytes(b"\x89PNG")
    (folder / "deep" / "guide.pdf").write_bytes(pdf("First.", "Second."))
    (folder / "mail.eml").write_bytes(mail())
    manifest = run(folder)
    rows = rows_of(object_store, manifest)
    assert manifest.num_documents == 10
    files = {"deep/notes.md", "deep/er/page.html", "deep/plain.txt", "mail.eml"}
    files |= {"deep/guide.pdf#page=1", "deep/guide.pdf#page=2"}
    assert set(rows) == {"j1", "j2", "c1", "p1", *files}
    assert rows["deep/notes.md"]["text"] == (folder / "deep" / "notes.md").read_text()
    assert manifest.metadata_schema == {
        "author": ColumnType.STRING,
        "date": ColumnType.STRING,
        "page": ColumnType.INT,
        "source": ColumnType.STRING,
        "subject": ColumnType.STRING,
        "title": ColumnType.STRING,
        "year": ColumnType.FLOAT,
    }
    assert [rows[id]["meta.year"] for id in ("j1", "j2", "c1", "p1")] == [1.0, 2.5, 3.0, None]
    assert rows["deep/er/page.html"]["meta.title"] == "Page"
    assert rows["deep/guide.pdf#page=2"]["text"] == "Second."
    assert rows["deep/notes.md"]["meta.source"] == "deep/notes.md"


def test_a_later_document_replaces_the_earlier_one_whole(
    run: Ingest, object_store: ObjectStore, tmp_path: Path
) -> None:
    first = write_rows(
        tmp_path / "1.jsonl", {"id": "a", "text": "Old A", "old": 1}, {"id": "b", "text": "B"}
    )
    second = write_rows(tmp_path / "2.jsonl", {"id": "a", "text": "New A", "new": "x"})
    assert run(first).num_documents == 2
    manifest = run(second)
    assert (manifest.position, manifest.num_documents, manifest.num_passages) == (2, 2, 2)
    assert len(manifest.parts) == 2
    rows = rows_of(object_store, manifest)
    assert {id: row["text"] for id, row in rows.items()} == {"a": "New A", "b": "B"}
    assert (rows["a"]["meta.old"], rows["a"]["meta.new"]) == (None, "x")
    assert manifest.sources == (str(first), str(second))

    assert run(second) == manifest
    # The first file again changes the corpus, since a part of it had been replaced.
    back = run(first)
    assert back.position == 3
    assert len(rows_of(object_store, back)) == 2
    assert len(back.parts) == 1, "the part without a row that counts is dropped"

    anew = run(second, replace=True)
    assert (anew.position, anew.num_documents, anew.sources) == (4, 1, (str(second),))
    assert anew.metadata_schema == {"new": ColumnType.STRING}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"id": "x", "text": "X"}, {"id": "y"}], "bad.jsonl, row 2: is missing"),
        ([{"id": "x", "text": "X", "year": "old"}], "is a string in .*bad.jsonl, row 1 .*, but"),
        ([{"id": "x", "text": "X"}, {"id": "x", "text": "X"}], "'x' is both in .*bad.jsonl, row 1"),
        ([{"id": "g1", "text": "X"}], "'g1' is both in .*bad.jsonl, row 1"),
        ([{"id": "x", "text": "X", "vector": [1.0]}], "brings a vector"),
    ],
)
def test_one_bad_row_and_nothing_is_ingested(
    run: Ingest, object_store: ObjectStore, tmp_path: Path, rows: list[dict[str, Any]], said: str
) -> None:
    good = {"id": "g1", "text": "Good", "year": 1}
    folder = tmp_path / "mixed"
    folder.mkdir()
    write_rows(folder / "good.jsonl", good)
    write_rows(folder / "bad.jsonl", *rows)
    with pytest.raises(InvalidArgument, match=said):
        run(folder)
    assert position_of(object_store) == 0
    assert run(folder / "good.jsonl").position == 1
    if rows[0]["id"] != "g1":
        with pytest.raises(InvalidArgument):
            run(folder / "bad.jsonl")
        assert position_of(object_store) == 1


def test_ready_made_vectors_are_kept_as_they_are(
    run: Ingest, object_store: ObjectStore, tmp_path: Path
) -> None:
    vectors = np.random.default_rng(0).standard_normal((3000, 8)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 8)
    ids = [f"v{number}" for number in range(3000)]
    pq.write_table(pa.table({"id": ids, "vector": column}), tmp_path / "v.parquet")
    manifest = run(tmp_path / "v.parquet")
    assert (manifest.vector_dimension, manifest.num_passages) == (8, 3000)
    file = manifest.parts[0]
    table = read_part(Artifacts(object_store).read_bytes(file), {}, 8, source=file.path)
    assert table.column("id").to_pylist() == ids
    assert np.array_equal(vectors_of(table), vectors)

    np.save(tmp_path / "more.npy", np.ones((2, 8)))
    assert run(tmp_path / "more.npy").num_documents == 3002
    np.save(tmp_path / "wide.npy", np.ones((2, 9)))
    with pytest.raises(
        InvalidArgument, match=r"8 numbers in the corpus 'docs', but 9 in .*wide\.npy"
    ):
        run(tmp_path / "wide.npy")
    texts = write_rows(tmp_path / "t.jsonl", {"id": "t", "text": "T"})
    with pytest.raises(InvalidArgument, match="brings a vector"):
        run(texts)
    assert position_of(object_store) == 2


def test_sources_in_object_storage_are_read(
    run: Ingest, object_store: ObjectStore, s3_environment: S3Server
) -> None:
    filesystem = fsspec.filesystem("s3", **s3_environment.options)
    folder = s3_environment.address().url
    filesystem.pipe_file(f"{folder}/a.md", b"# A\n\nFrom afar.")
    filesystem.pipe_file(f"{folder}/b/c.jsonl", b'{"id": "c", "text": "C"}\n')
    manifest = run(folder)
    assert set(rows_of(object_store, manifest)) == {"a.md", "c"}
    assert run(f"{folder}/b/c.jsonl", corpus="one").num_documents == 1
    with pytest.raises(InvalidArgument, match="does not exist"):
        run(f"{folder}/nothing")


def test_many_files_are_read_in_their_order_whatever_task_is_first(
    run: Ingest, object_store: ObjectStore, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(1100):
        (folder / f"{number:04}.txt").write_text(f"Text {number}.")
    seen: list[tuple[int, int]] = []
    manifest = run(folder, count=lambda done, total: seen.append((done, total)))
    assert len(manifest.parts) == 3
    assert sorted(seen)[-1] == (1100, 1100)
    assert list(rows_of(object_store, manifest)) == [f"{number:04}.txt" for number in range(1100)]
    assert run(folder) == manifest


def test_a_damaged_archive_is_named(run: Ingest, tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": "a", "text": "A"}\n' * 100)[:-12])
    with pytest.raises(InvalidArgument, match=r"cut\.jsonl\.gz"):
        run(path)
    path.write_bytes(b"not gzip at all")
    with pytest.raises(InvalidArgument, match=r"cut\.jsonl\.gz: is not a whole gzip file"):
        run(path)


def test_a_file_that_cannot_be_read_is_unavailable(run: Ingest, tmp_path: Path) -> None:
    path = tmp_path / "gone.jsonl"
    path.symlink_to(tmp_path / "nowhere.jsonl")
    with pytest.raises((InvalidArgument, Unavailable), match=r"gone\.jsonl"):
        run(path)


def test_two_writers_do_not_lose_each_others_documents(
    object_store: ObjectStore, run: Ingest, tmp_path: Path
) -> None:
    mine = write_rows(tmp_path / "mine.jsonl", {"id": "mine", "text": "M"})
    theirs = write_rows(tmp_path / "theirs.jsonl", {"id": "theirs", "text": "T"})

    class Overtaken(Catalog):
        """Somebody else appends right before the first append of this one."""

        attempts = 0

        def append_corpus(self, manifest: CorpusManifest) -> None:
            self.attempts += 1
            if self.attempts == 1:
                run(theirs)
            super().append_corpus(manifest)

    catalog = Overtaken(object_store)
    manifest = ingest(
        catalog=catalog,
        artifacts=Artifacts(object_store),
        corpus="docs",
        listing=find_source_files([str(mine)]),
    ).manifest
    assert (catalog.attempts, manifest.position) == (2, 2)
    assert set(rows_of(object_store, manifest)) == {"mine", "theirs"}

    class AlwaysLate(Catalog):
        def append_corpus(self, manifest: CorpusManifest) -> None:
            raise Conflict("taken")

    with pytest.raises(Conflict, match="others keep changing"):
        ingest(
            catalog=AlwaysLate(object_store),
            artifacts=Artifacts(object_store),
            corpus="docs",
            listing=find_source_files([str(theirs)]),
            replace=True,
        )


def test_a_bad_name_is_refused_before_anything_is_read(run: Ingest, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no name"):
        run(write_rows(tmp_path / "empty.jsonl"), corpus="No/Name")
