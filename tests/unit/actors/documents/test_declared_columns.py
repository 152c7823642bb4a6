"""Declared types in files of all kinds, and in a corpus that has types already."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.documents.reader import ReadOptions, read_group
from actors.documents.source_files import find_source_files
from cluster.artifacts.artifacts import Artifacts
from cluster.documents.declared_types import parse_declared_types
from cluster.documents.passages import META_PREFIX, read_part
from cluster.errors import InvalidArgument
from cluster.store.object_store import open_store


def values(folder: Path, *declarations: str, field: str) -> list[Any]:
    """The field's values in all documents of a folder, as the corpus would have them."""
    types = parse_declared_types(declarations)
    files = find_source_files([str(folder)], folder_texts=types).files
    artifacts = Artifacts(open_store(str(folder.parent / "store")))
    read = read_group(0, files, artifacts, ReadOptions(types=types))
    found = []
    for part in read.parts:
        columns = {name: known.type for name, known in part.schema.items()}
        table = read_part(artifacts.read_bytes(part.file), columns, None, source="part")
        found += table.column(META_PREFIX + field).to_pylist()
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def test_cells_of_csv_files_stay_as_they_are_written(folder: Path) -> None:
    (folder / "a.csv").write_text("id,text,zip,price\n1,A,1067,1.10\n2,B,,2\n")
    assert values(folder, field="zip") == [1067, None]
    assert values(folder, "zip=string", field="zip") == ["1067", None]
    assert values(folder, "price=string", field="price") == ["1.10", "2"]
    assert values(folder, field="price") == ["1.10", "2"]
    assert values(folder, "price=float", field="price") == [1.1, 2.0]
    (folder / "b.csv").write_text("id,text,zip,price\n3,C,01067,9.90\n4,D,0,9 EUR\n")
    with pytest.raises(InvalidArgument) as caught:
        values(folder, "price=float", "zip=string", field="price")
    assert str(caught.value).endswith(
        "b.csv, row 2: '9 EUR' cannot be read as the declared type float without loss "
        "(to go on without what is wrong: --skip-errors)"
    )
    assert caught.value.field == "metadata.price"


YAML = """---
title: Raygion: a guide
date: 2024-05-01
weight: 010
version: 1.10
rating: 4.5
draft: false
note: "two: words"
summary: >-
  Folded
  lines
tags: [a, b]
params:
  author: nested
empty:
---
# Heading
"""
TOML = """+++
date = 2024-05-01
weight = 10
version = "1.10"
rating = 4.5
draft = false
tags = ["a", "b"]
[params]
author = "nested"
+++
"""


@pytest.mark.parametrize(
    ("text", "declared", "value"),
    [
        (YAML, "date=string", "2024-05-01"),
        (YAML, "weight=int", 10),
        (YAML, "version=string", "1.10"),
        (YAML, "rating=float", 4.5),
        (YAML, "draft=bool", False),
        (YAML, "note=string", "two: words"),
        (YAML, "summary=string", "Folded lines"),
        (YAML, "title=string", "Raygion: a guide"),
        (TOML, "date=string", "2024-05-01"),
        (TOML, "weight=int", 10),
        (TOML, "version=string", "1.10"),
        (TOML, "rating=float", 4.5),
        (TOML, "draft=bool", False),
    ],
)
def test_entries_of_front_matter_are_metadata_where_they_are_declared(
    folder: Path, text: str, declared: str, value: object
) -> None:
    field = declared.partition("=")[0]
    (folder / "a.md").write_text(text)
    (folder / "b.md").write_text("---\nother: 1\n---\n# B")
    assert values(folder, declared, field=field)[0] == value


@pytest.mark.parametrize("field", ["author", "empty", "absent", "Heading"])
@pytest.mark.parametrize("text", [YAML, TOML])
def test_front_matter_without_such_an_entry_gives_no_value(
    folder: Path, text: str, field: str
) -> None:
    (folder / "a.md").write_text(text)
    (folder / "b.jsonl").write_text(f'{{"id": "b", "text": "B", "metadata": {{"{field}": "x"}}}}')
    assert sorted(values(folder, f"{field}=string", field=field), key=str) == [None, "x"]


@pytest.mark.parametrize(
    ("text", "declared", "said"),
    [
        (
            YAML,
            "tags=string",
            r"a\.md: \"\['a', 'b'\]\" cannot be read as the declared type string",
        ),
        (YAML, "params=string", r"a\.md: .*nested.* cannot be read"),
        (YAML, "date=int", r"a\.md: '2024-05-01' cannot be read as the declared type int"),
        (TOML, "tags=string", r"a\.md: .* cannot be read"),
    ],
)
def test_an_entry_of_front_matter_that_is_not_of_its_type_is_refused(
    folder: Path, text: str, declared: str, said: str
) -> None:
    (folder / "a.md").write_text(text)
    with pytest.raises(InvalidArgument, match=said):
        values(folder, declared, field="date")


def test_front_matter_of_its_own_accord_is_no_metadata(folder: Path) -> None:
    (folder / "a.md").write_text(YAML)
    (folder / "b.txt").write_text(YAML)
    with pytest.raises(KeyError):
        values(folder, field="date")
    (folder / "a.md").unlink()
    with pytest.raises(KeyError):
        values(folder, "date=string", field="date")


def test_columns_of_tables_are_cast_where_nothing_is_lost(folder: Path) -> None:
    rows = pa.table(
        {
            "id": ["a", "b"],
            "text": ["A", "B"],
            "zip": pa.array([1067, None], pa.int32()),
            "count": [12.0, 13.0],
            "day": [datetime.date(2024, 5, 1), None],
            "price": [Decimal("1.10"), Decimal("2.00")],
        }
    )
    pq.write_table(rows, folder / "a.parquet")
    declared = ["day=string", "price=float", "zip=string", "count=int"]
    assert values(folder, *declared, field="zip") == ["1067", None]
    assert values(folder, *declared, field="count") == [12, 13]
    assert values(folder, *declared, field="day") == ["2024-05-01", None]
    assert values(folder, *declared, field="price") == [1.1, 2.0]
    with pytest.raises(InvalidArgument, match=r"metadata.count: .*a.parquet, row 1: '12.0' cannot"):
        values(folder, "day=string", "price=float", "count=string", field="count")


def test_values_of_folders_stay_as_they_are_written(folder: Path) -> None:
    (folder / "batch=10").mkdir()
    (folder / "batch=11").mkdir()
    (folder / "batch=10" / "a.md").write_text("A")
    (folder / "batch=11" / "b.jsonl").write_text('{"id": "b", "text": "B"}\n')
    assert values(folder, field="batch") == [10, 11]
    assert values(folder, "batch=string", field="batch") == ["10", "11"]
