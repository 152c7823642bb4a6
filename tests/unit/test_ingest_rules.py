"""What becomes of a corpus when documents are ingested. The files are read in this process, as a
task of Ray Data reads them; `tests/integration/test_ingest.py` has the tasks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import actors.ingest
from actors.corpus_reader import GroupRead, SourceFile, plan_groups, read_group
from cluster.artifacts import Artifacts
from cluster.catalog import Catalog
from cluster.deletes import delete_documents
from cluster.errors import InvalidArgument
from cluster.manifests import ColumnType, CorpusManifest
from cluster.object_store import ObjectStore, open_store
from cluster.passages import current_passages, read_part

Ingest = Callable[..., CorpusManifest]


def read_here(
    files: Sequence[SourceFile], artifacts: Artifacts, *, chars_max: int
) -> Iterator[GroupRead]:
    for number, group in enumerate(plan_groups(files)):
        yield read_group(number, group, artifacts, chars_max=chars_max)


@pytest.fixture
def object_store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def run(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Ingest:
    monkeypatch.setattr(actors.ingest, "read_parts", read_here)

    def call(*sources: Path | str, corpus: str = "docs", **options: Any) -> CorpusManifest:
        return actors.ingest.ingest(
            catalog=Catalog(object_store),
            artifacts=Artifacts(object_store),
            corpus=corpus,
            sources=[str(source) for source in sources],
            **options,
        )

    return call


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
