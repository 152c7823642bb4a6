"""What becomes of a corpus when documents are ingested. The files are read in this process, as a
task of Ray Data reads them; `tests/integration/documents/test_ingest.py` has the tasks.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import actors.documents.ingest
from actors.documents.ingest import Ingested
from actors.documents.reader import GroupRead, ReadOptions, plan_groups, read_group
from actors.documents.source_files import SourceFile, find_source_files
from cluster.artifacts.artifacts import Artifacts
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import SOURCES_MAX, CorpusManifest
from cluster.documents.deletes import delete_documents, drop_corpus
from cluster.documents.ingest_report import IngestReport, LeftOut
from cluster.documents.passages import current_passages, read_part
from cluster.errors import InvalidArgument
from cluster.metadata import ColumnType
from cluster.mutations.store_log import StoreMutationLog
from cluster.store.object_store import ObjectStore, open_store

Ingest = Callable[..., CorpusManifest]
Report = Callable[..., IngestReport]


def read_here(
    files: Sequence[SourceFile], artifacts: Artifacts, options: ReadOptions
) -> Iterator[GroupRead]:
    for number, group in enumerate(plan_groups(files)):
        yield read_group(number, group, artifacts, options)


@pytest.fixture
def object_store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def ingest(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ingested]:
    monkeypatch.setattr(actors.documents.ingest, "read_parts", read_here)

    def call(*sources: Path | str, corpus: str = "docs", **options: Any) -> Ingested:
        return actors.documents.ingest.ingest(
            catalog=Catalog(object_store),
            artifacts=Artifacts(object_store),
            corpus=corpus,
            listing=find_source_files([str(source) for source in sources]),
            **options,
        )

    return call


@pytest.fixture
def run(ingest: Callable[..., Ingested]) -> Ingest:
    return lambda *sources, **options: ingest(*sources, **options).manifest


@pytest.fixture
def report(ingest: Callable[..., Ingested]) -> Report:
    return lambda *sources, **options: ingest(*sources, **options).report


def rows_of(store: ObjectStore, manifest: CorpusManifest) -> dict[str, dict[str, Any]]:
    """All passages that count, by id."""
    types, dimension = manifest.metadata_schema, manifest.vector_dimension
    tables = [
        read_part(Artifacts(store).read_bytes(file), types, dimension, source=file.path)
        for file in manifest.parts
    ]
    return {str(row["id"]): row for row in pa.concat_tables(current_passages(tables)).to_pylist()}


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def position_of(store: ObjectStore, corpus: str = "docs") -> int:
    latest = Catalog(store).latest_corpus(corpus)
    return latest.position if latest else 0


def test_the_files_that_were_listed_are_read_and_no_others(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors.documents.ingest, "read_parts", read_here)
    write_rows(tmp_path / "a.jsonl", {"id": "a", "text": "A"})
    listing = find_source_files([str(tmp_path)])
    write_rows(tmp_path / "b.jsonl", {"id": "b", "text": "B"})
    manifest = actors.documents.ingest.ingest(
        catalog=Catalog(object_store),
        artifacts=Artifacts(object_store),
        corpus="docs",
        listing=listing,
    ).manifest
    assert (manifest.num_documents, manifest.sources) == (1, (str(tmp_path),))


def test_numbers_are_never_rounded_to_fit_to_those_of_the_corpus(
    run: Ingest, object_store: ObjectStore, tmp_path: Path
) -> None:
    long = write_rows(
        tmp_path / "long.jsonl",
        {"id": "a", "text": "A", "metadata": {"n": 2**53 + 1, "m": 1}},
        {"id": "c", "text": "C", "metadata": {"n": 2**53}},
    )
    float_ = write_rows(tmp_path / "f.jsonl", {"id": "b", "text": "B", "metadata": {"n": 0.5}})
    for files in ([long, float_], [float_, long]):
        with pytest.raises(InvalidArgument, match=r"metadata\.n: is an integer beyond 2\*\*53 in"):
            run(*files)
    assert position_of(object_store) == 0
    run(long)
    with pytest.raises(InvalidArgument, match=r"the corpus 'docs' \('a'\).*f\.jsonl, row 1"):
        run(float_)
    assert {id: row["meta.n"] for id, row in rows_of(object_store, run(long)).items()} == {
        "a": 2**53 + 1,
        "c": 2**53,
    }
    # Once the long integer does not count any more, the others may become floats.
    run(write_rows(tmp_path / "a.jsonl", {"id": "a", "text": "A", "metadata": {"n": 4}}))
    manifest = run(float_)
    assert manifest.metadata_schema == {"m": ColumnType.INT, "n": ColumnType.FLOAT}
    with pytest.raises(InvalidArgument, match=r"long\.jsonl, row 1 \('a'\), but a float"):
        run(long)


def test_a_field_keeps_its_type_as_long_as_a_document_of_before_is_left(
    run: Ingest, object_store: ObjectStore, tmp_path: Path
) -> None:
    numbers = write_rows(tmp_path / "1.jsonl", {"id": "a", "text": "A", "n": 1})
    words = write_rows(tmp_path / "2.jsonl", {"id": "b", "text": "B", "n": "x"})
    run(numbers)
    with pytest.raises(InvalidArgument, match=r"metadata\.n: is an integer in .* --replace"):
        run(words)
    catalog, artifacts = Catalog(object_store), Artifacts(object_store)
    delete_documents(catalog=catalog, artifacts=artifacts, corpus="docs", documents=["a"])
    assert run(words).metadata_schema == {"n": ColumnType.STRING}
    corrected = run(write_rows(tmp_path / "3.jsonl", {"id": "b", "vector": [1.0, 2.0], "n": True}))
    assert corrected.metadata_schema == {"n": ColumnType.BOOL}
    assert corrected.vector_dimension == 2
    assert run(tmp_path / "3.jsonl") == corrected


def changes(report: IngestReport) -> dict[str, int]:
    """The numbers that are not 0."""
    found = dataclasses.asdict(report.documents)
    return {name: n for name, n in found.items() if n and name != "replaced_examples"}


def left_out(found: Sequence[LeftOut]) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {group.reason: (group.count, group.examples) for group in found}


def test_what_becomes_of_documents_is_told(
    report: Report, object_store: ObjectStore, tmp_path: Path
) -> None:
    first = write_rows(
        tmp_path / "1.jsonl", *({"id": id, "text": id.upper(), "n": 1} for id in "abcd")
    )
    second = write_rows(
        tmp_path / "2.jsonl",
        {"id": "a", "text": "A", "n": 1},
        {"id": "b", "text": "B", "n": 2},
        {"id": "c", "text": "Other", "n": 1},
        {"id": "e", "text": "E", "other": "x"},
    )
    assert changes(report(first)) == {"new": 4}
    assert changes(report(first)) == {"unchanged": 4}
    found = report(second)
    assert changes(found) == {"new": 1, "replaced": 2, "unchanged": 1}
    assert found.documents.replaced_examples == ("b", "c")
    delete_documents(
        catalog=Catalog(object_store),
        artifacts=Artifacts(object_store),
        corpus="docs",
        documents=["a"],
    )
    assert changes(report(first)) == {"new": 1, "replaced": 2, "unchanged": 1}
    found = report(second, replace=True)
    assert changes(found) == {"replaced": 2, "unchanged": 2, "removed": 1}


def test_a_table_in_parts_keeps_what_its_folders_say(
    run: Ingest, object_store: ObjectStore, tmp_path: Path
) -> None:
    table = pa.table({"id": ["b1", "b2"], "text": ["one", "two"], "year": [2019, 2020]})
    pq.write_to_dataset(table, tmp_path / "books", partition_cols=["year"])
    own = {"id": "b3", "text": "three", "metadata": {"year": 3, "n": 1}}
    write_rows(tmp_path / "books" / "year=2020" / "own.jsonl", own)
    manifest = run(tmp_path / "books")
    assert manifest.metadata_schema == {"n": ColumnType.INT, "year": ColumnType.INT}
    rows = rows_of(object_store, manifest)
    assert {id: row["meta.year"] for id, row in rows.items()} == {"b1": 2019, "b2": 2020, "b3": 3}


def test_a_corpus_that_is_added_to_often_has_few_parts_and_knows_what_it_has(
    run: Ingest,
    report: Report,
    object_store: ObjectStore,
    tmp_path: Path,
) -> None:
    files = [
        write_rows(tmp_path / f"{n}.jsonl", {"id": f"d{n}", "text": f"Text {n}.", "n": n})
        for n in range(40)
    ]
    for file in files:
        manifest = run(file)
    assert manifest.num_documents == 40
    assert len(manifest.parts) < 40
    assert manifest.sources == tuple(map(str, files))
    assert set(rows_of(object_store, manifest)) == {f"d{n}" for n in range(40)}
    # What is in a merged part is known to be unchanged all the same.
    more = [
        write_rows(tmp_path / f"f{n}.jsonl", {"id": f"f{n}", "text": f"F {n}.", "n": 0.5})
        for n in range(SOURCES_MAX - 2)
    ]
    assert run(*more).sources == tuple(map(str, [*files[-2:], *more]))
    found = report(*files)
    assert changes(found) == {"unchanged": 40}
    assert position_of(object_store) == 41


def test_row_numbers_as_ids_replace_each_other_and_that_is_told(
    report: Report, tmp_path: Path
) -> None:
    for number in (1, 2):
        vectors = np.random.default_rng(number).standard_normal((3, 8), dtype=np.float32)
        np.save(tmp_path / f"part{number}.npy", vectors)
    assert changes(report(tmp_path / "part1.npy")) == {"new": 3}
    found = report(tmp_path / "part2.npy")
    assert changes(found) == {"replaced": 3}
    assert found.documents.replaced_examples == ("0", "1", "2")
    assert changes(report(tmp_path / "part2.npy")) == {"unchanged": 3}


def test_files_of_the_same_name_in_two_folders_are_both_named(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(f"# {name}")
    with pytest.raises(InvalidArgument, match=r"both in one/README\.md and in two/README\.md"):
        report("one", "two")
    assert changes(report("one")) == {"new": 1}
    assert report("two").documents.replaced_examples == ("README.md",)


def test_every_file_of_a_folder_is_read_or_told(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, text in {
        "a.md": "# Read",
        "b.doc": "x",
        "c.wps": "x",
        "d.log": "x",
        "empty.md": "",
        "blank.html": "<script>1</script>",
        "rows.jsonl": "\n\n",
        "table.csv": "",
        "table.parquet": "",
        "vectors.npy": "",
        ".hidden.md": "# Hidden",
    }.items():
        (folder / name).write_text(text)
    (folder / "link.md").symlink_to(folder / "a.md")
    found = report("docs")
    assert (changes(found), found.files_read, found.documents_left_out) == ({"new": 1}, 1, ())
    empty = ("docs/blank.html", "docs/empty.md", "docs/rows.jsonl", "docs/table.csv")
    empty += ("docs/table.parquet",)
    assert left_out(found.files_left_out) == {
        "has no documents in it": (6, empty),
        "is hidden": (1, ("docs/.hidden.md",)),
        "is a symbolic link": (1, ("docs/link.md",)),
        "is of a kind that is not read (.doc); save it as .docx or .pdf": (1, ("docs/b.doc",)),
        "is of a kind that is not read (.wps); save it as .docx or .pdf": (1, ("docs/c.wps",)),
        "is of a kind that is not read (.log)": (1, ("docs/d.log",)),
    }
    with pytest.raises(InvalidArgument, match=r"no documents: docs/empty\.md has no documents"):
        report("docs/empty.md", corpus="other")


BROKEN = {
    "bad.jsonl": (
        b'{"id": "j1", "text": "One"}\n{"id": "j2"}\nnot json\n'
        b'{"id": "j3", "text": ""}\n{"id": "j4", "text": "Four", "n": 18446744073709551616}\n'
        b'{"id": "j5", "text": "Five", "text": "Six"}\n{"id": "j6", "text": "Six"}\n'
    ),
    "bad.csv": b"id,text\nc1,One\nc2\nc3,Three\n",
    "latin.csv": b"id,text\nc4,Four\nc5,\xff\n",
    "cut.jsonl.gz": gzip.compress(b'{"id": "g1", "text": "One"}\n')[:-9],
    "latin.txt": b"caf\xe9",
    "table.parquet": b"PAR1",
}


def test_errors_stop_an_ingest_or_are_skipped_and_told(
    report: Report, object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, data in BROKEN.items():
        (folder / name).write_bytes(data)
        with pytest.raises(InvalidArgument, match=f"docs/{name}"):
            report(f"docs/{name}")
    with pytest.raises(InvalidArgument, match=r"text: docs/bad\.jsonl, row 2: is missing"):
        report("docs/bad.jsonl")
    assert position_of(object_store) == 0
    found = report("docs", skip_errors=True)
    assert changes(found) == {"new": 4}
    manifest = Catalog(object_store).latest_corpus("docs")
    assert manifest is not None
    assert set(rows_of(object_store, manifest)) == {"j1", "j6", "c1", "c3"}
    origins = {origin for group in found.documents_left_out for origin in group.examples}
    assert origins == {
        *(f"docs/bad.jsonl, row {number}" for number in (2, 3, 4, 5, 6)),
        "docs/bad.csv, row 2",
    }
    files = {origin for group in found.files_left_out for origin in group.examples}
    assert files == {f"docs/{name}" for name in BROKEN if not name.startswith("bad")}


def test_documents_that_do_not_fit_together_are_never_skipped(
    report: Report, object_store: ObjectStore, tmp_path: Path
) -> None:
    rows = [{"id": "a", "text": "A", "n": 1}, {"id": "a", "text": "B"}]
    with pytest.raises(InvalidArgument, match="'a' is both in"):
        report(write_rows(tmp_path / "1.jsonl", *rows), skip_errors=True)
    rows[1] = {"id": "b", "text": "B", "n": "x"}
    with pytest.raises(InvalidArgument, match="one type in the whole corpus"):
        report(write_rows(tmp_path / "2.jsonl", *rows), skip_errors=True)
    assert position_of(object_store) == 0


def test_a_corpus_that_was_dropped_starts_anew(
    run: Ingest, object_store: ObjectStore, tmp_path: Path
) -> None:
    old = write_rows(tmp_path / "old.jsonl", {"id": "a", "text": "Old.", "metadata": {"year": 1}})
    row = {"id": "b", "text": "New.", "vector": [1.0, 0.0], "metadata": {"year": "first"}}
    new = write_rows(tmp_path / "new.jsonl", row)
    log = StoreMutationLog(object_store, "docs")
    run(old)
    drop_corpus(catalog=Catalog(object_store), corpus="docs", log=log)
    manifest = run(new)
    assert (manifest.position, manifest.vector_dimension) == (3, 2)
    assert manifest.metadata_schema == {"year": ColumnType.STRING}
    assert rows_of(object_store, manifest).keys() == {"b"}
    assert manifest.sources == (str(new),)
    drop_corpus(catalog=Catalog(object_store), corpus="docs", log=log)
    assert rows_of(object_store, run(old)).keys() == {"a"}


def test_the_csv_files_of_one_ingest_are_one_table(run: Ingest, tmp_path: Path) -> None:
    """Each by itself would have other types, and 1.10 would be 1.1."""
    (tmp_path / "1.csv").write_text("id,text,zip,version,n\na,A,10001,1.9,1\n")
    (tmp_path / "2.csv").write_text("id,text,zip,version,n\nb,B,02139,1.10,2.5\n")
    assert run(tmp_path).metadata_schema == {
        "n": ColumnType.FLOAT,
        "version": ColumnType.STRING,
        "zip": ColumnType.STRING,
    }
    (tmp_path / "3.csv").write_text("id,text\nc,C,D\n")
    with pytest.raises(InvalidArgument, match=r"3\.csv, row 1: has 3 cells"):
        run(tmp_path)
    (tmp_path / "3.csv").write_text("id,id\n")
    with pytest.raises(InvalidArgument, match=r"3\.csv: names a column twice"):
        run(tmp_path)


def test_declared_types_hold_for_one_ingest(tmp_path: Path, run: Ingest) -> None:
    table = tmp_path / "a.csv"
    table.write_text("id,text,zip,note\n1,A,1067,\n")
    declared = {"zip": ColumnType.STRING, "note": ColumnType.INT}
    assert run(table, types=declared).metadata_schema == {"zip": ColumnType.STRING}
    more = tmp_path / "b.csv"
    more.write_text("id,text,zip\n2,B,1067\n")
    with pytest.raises(InvalidArgument, match=r"zip: is a string in the corpus 'docs'.*--types"):
        run(more)
    manifest = run(more, types={"zip": ColumnType.STRING})
    assert (manifest.position, manifest.num_documents) == (2, 2)
    with pytest.raises(InvalidArgument, match=r"no document has the metadata field 'zpi'.*: zip"):
        run(more, types={"zpi": ColumnType.STRING})
