from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from datetime import date
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.documents.documents import (
    FIELDS_MAX,
    Document,
    DocumentOrigin,
    SchemaField,
    check_corpus_name,
    column_types,
    infer_schema,
    merge_schemas,
    parse_document,
    schema_of,
)
from cluster.documents.passages import (
    Passage,
    conform,
    count_passages,
    current_passages,
    current_rows,
    cut_passages,
    document_ids,
    document_of,
    long_integer_rows,
    passage_ids,
    passage_table,
    read_part,
    vectors_of,
    write_part,
)
from cluster.errors import Corrupt, InvalidArgument
from cluster.metadata import ColumnType

ORIGIN = DocumentOrigin(source="docs.jsonl", row=3)
GOOD: Mapping[str, object] = {"id": "a", "text": "Some text."}


def parse(**changes: object) -> Document:
    return parse_document({**GOOD, **changes}, ORIGIN)


def document(id: str = "a", **metadata: str | int | float | bool | None) -> Document:
    return Document(id=id, text="t", metadata=metadata)


def test_a_good_row_is_taken_as_it_is() -> None:
    metadata = {"s": "x", "i": 1, "f": 1.5, "b": True, "n": None, "_9": "y"}
    parsed = parse(metadata=metadata, vector=[1, 2.5])
    assert (parsed.id, parsed.text, parsed.metadata) == ("a", "Some text.", metadata)
    assert parsed.vector is not None
    assert parsed.vector.dtype == np.float32
    assert parsed.vector.tolist() == [1.0, 2.5]
    assert parse(id=17).id == "17"
    assert parse(id=UUID(int=17)).id == "00000000-0000-0000-0000-000000000011"
    assert parse(metadata=None).metadata == {}


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"id": ""}, "id", "not be empty"),
        ({"id": None}, "id", "missing"),
        ({"id": True}, "id", "a boolean"),
        ({"id": "é" * 257}, "id", "512 bytes"),
        ({"id": "a\0b"}, "id", "control"),
        ({"id": "a\nb"}, "id", "control"),
        ({"id": "a\x85b"}, "id", "control"),
        ({"id": "\ud800"}, "id", "surrogate"),
        ({"text": None}, "text", "missing"),
        ({"text": " \n"}, "text", "not be empty"),
        ({"text": 5}, "text", "a number"),
        ({"text": "\ud800x"}, "text", "surrogate"),
        ({"text": "x" * 1_000_001}, "text", "divide it"),
        ({"metadata": []}, "metadata", "an object"),
        ({"metadata": {"a b": 1}}, "metadata", "'a b'"),
        ({"metadata": {"9a": 1}}, "metadata", "'9a'"),
        ({"metadata": {"": 1}}, "metadata", "letters"),
        ({"metadata": {"not": 1}}, "metadata", "'not'"),
        ({"metadata": {"x": {"y": 1}}}, "metadata.x", '"x_name"'),
        ({"metadata": {"x": [1]}}, "metadata.x", "flat"),
        ({"metadata": {"x": math.nan}}, "metadata.x", "finite"),
        ({"metadata": {"x": math.inf}}, "metadata.x", "finite"),
        ({"metadata": {"x": 2**63}}, "metadata.x", "64 bits"),
        ({"metadata": {"x": b"y"}}, "metadata.x", "bytes"),
        ({"metadata": {"x": date(2024, 5, 1)}}, "metadata.x", "(--types x=string)"),
        ({"metadata": {"x": "y" * 65_537}}, "metadata.x", "65536"),
        ({"metadata": {f"f{i}": 1 for i in range(FIELDS_MAX + 1)}}, "metadata", "256 fields"),
        ({"vector": []}, "vector", "list of numbers"),
        ({"vector": "0.1"}, "vector", "list of numbers"),
        ({"vector": [[1.0]]}, "vector", "list of numbers"),
        ({"vector": [1.0, None]}, "vector", "list of numbers"),
        ({"vector": [True]}, "vector", "list of numbers"),
        ({"vector": [1.0, math.nan]}, "vector", "finite"),
        ({"vector": [1e39]}, "vector", "finite"),
        ({"vector": [1e30]}, "vector", "norm"),
    ],
)
def test_a_bad_row_is_refused_with_its_place_and_field(
    changes: dict[str, object], field: str, said: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(**changes)
    assert caught.value.field == field
    assert "docs.jsonl, row 3" in caught.value.message
    assert said in caught.value.message
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_text_may_be_empty_beside_a_vector() -> None:
    assert parse(text="", vector=[1.0]).text == ""
    assert parse_document({"id": "a", "vector": [1.0]}, ORIGIN).text == ""


@pytest.mark.parametrize("name", ["", "Docs", "a/b", "-a", "a" * 64, "ä"])
def test_a_corpus_name_is_safe_in_paths_and_urls(name: str) -> None:
    check_corpus_name("my-docs_2")
    with pytest.raises(InvalidArgument) as caught:
        check_corpus_name(name)
    assert caught.value.field == "corpus"


def test_the_schema_has_the_type_of_every_field_that_has_a_value() -> None:
    rows = [
        (document(b=None, a=1, z="x"), DocumentOrigin(source="a.jsonl", row=1)),
        (document(a=2.5, c=True), DocumentOrigin(source="a.jsonl", row=2)),
    ]
    schema = infer_schema(rows)
    assert list(schema) == ["a", "c", "z"]
    assert column_types(schema) == {
        "a": ColumnType.FLOAT,
        "c": ColumnType.BOOL,
        "z": ColumnType.STRING,
    }
    assert schema["a"].example == "a.jsonl, row 2 ('a')"


@pytest.mark.parametrize(("first", "second"), [(1, "1"), (True, 1), (1.5, True), ("x", 2.5)])
def test_conflicting_types_name_the_field_and_both_rows(
    first: str | int | float, second: str | int | float
) -> None:
    rows = [
        (document(year=first), DocumentOrigin(source="a.jsonl", row=1)),
        (document(year=second), DocumentOrigin(source="b.csv", row=9)),
    ]
    with pytest.raises(InvalidArgument) as caught:
        infer_schema(rows)
    assert caught.value.field == "metadata.year"
    assert "a.jsonl, row 1" in caught.value.message
    assert "b.csv, row 9" in caught.value.message
    with pytest.raises(InvalidArgument, match=r"a\.jsonl, row 1.*b\.csv, row 9"):
        merge_schemas(infer_schema(rows[:1]), infer_schema(rows[1:]))


def seen(*values: tuple[str, float]) -> dict[str, SchemaField]:
    """The schema of documents that have these values in a field `n`, each in a file of its own."""
    return infer_schema(
        (document(id, n=value), DocumentOrigin(source=f"{id}.jsonl", row=7)) for id, value in values
    )


@pytest.mark.parametrize("long", [2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**60])
def test_an_integer_that_a_float_might_round_is_never_made_a_float(long: int) -> None:
    assert column_types(seen(("a", long), ("b", 3))) == {"n": ColumnType.INT}
    assert column_types(seen(("a", 2**53), ("b", 0.5), ("c", -(2**53)))) == {"n": ColumnType.FLOAT}
    for values in (
        [("a", long), ("b", 0.5)],
        [("b", 0.5), ("a", long)],
        [("c", 1), ("a", long), ("d", 2), ("b", 0.5)],
    ):
        for cut in range(len(values)):
            with pytest.raises(InvalidArgument) as caught:
                merge_schemas(seen(*values[:cut]), seen(*values[cut:]))
            assert caught.value.field == "metadata.n"
            assert "a.jsonl, row 7 ('a')" in caught.value.message
            assert "b.jsonl, row 7 ('b')" in caught.value.message
            assert "strings" in caught.value.message


def test_rows_with_long_integers_are_found_in_a_part() -> None:
    values = [0, None, 2**53, 2**53 + 1, -(2**63), -(2**53), 2**63 - 1]
    passages = [
        Passage(id=str(n), document=str(n), text="t", metadata={"n": value})
        for n, value in enumerate(values)
    ]
    data = write_part(passage_table(passages, {"n": ColumnType.INT}, None))
    found = long_integer_rows(data, "n", source="part").tolist()
    assert found == [False, False, False, True, True, False, True]
    assert not long_integer_rows(data, "other", source="part").any()
    with pytest.raises(Corrupt, match="part"):
        long_integer_rows(data[:-10], "n", source="part")


TYPES = st.dictionaries(st.sampled_from("abc"), st.sampled_from([ColumnType.INT, ColumnType.FLOAT]))


@given(TYPES, TYPES, TYPES)
def test_merging_does_not_depend_on_the_order(
    first: dict[str, ColumnType], second: dict[str, ColumnType], third: dict[str, ColumnType]
) -> None:
    a, b, c = (schema_of(types, "somewhere") for types in (first, second, third))
    merged = column_types(merge_schemas(merge_schemas(a, b), c))
    assert merged == column_types(merge_schemas(a, merge_schemas(c, b)))
    assert set(merged) == {*first, *second, *third}


def test_a_corpus_has_a_bounded_number_of_fields() -> None:
    many = {f"f{number}": ColumnType.INT for number in range(FIELDS_MAX)}
    merge_schemas(schema_of(many, "x"), schema_of(many, "y"))
    with pytest.raises(InvalidArgument, match="more than 256"):
        merge_schemas(schema_of(many, "x"), schema_of({"g": ColumnType.INT}, "y"))


def cut(*rows: tuple[str, str, str]) -> list[tuple[str, str, str, int]]:
    """Rows of id, document and text, cut at each semicolon, with the number of the row."""
    passages = [
        Passage(id=id, document=document, text=text, metadata={"row": row})
        for row, (id, document, text) in enumerate(rows)
    ]
    table = passage_table(passages, {"row": ColumnType.INT}, None)
    again = cut_passages(table, lambda text: text.split(";"))
    assert again.schema == table.schema
    columns = ("id", "document", "text", "meta.row")
    return list(zip(*(again.column(name).to_pylist() for name in columns), strict=True))


def test_a_long_document_becomes_numbered_passages_and_a_short_one_keeps_its_id() -> None:
    assert cut(("a", "a", "x;y"), ("b", "b", "z")) == [
        ("a#0", "a", "x", 0),
        ("a#1", "a", "y", 0),
        ("b", "b", "z", 1),
    ]


def test_documents_that_an_older_version_had_cut_are_cut_on() -> None:
    assert cut(("a#0", "a", "x;y"), ("a#1", "a", "z"), ("b", "b", "u")) == [
        ("a#0", "a", "x", 0),
        ("a#1", "a", "y", 0),
        ("a#2", "a", "z", 1),
        ("b", "b", "u", 2),
    ]


@given(
    counts=st.dictionaries(
        st.text("ab#01", min_size=1, max_size=6), st.integers(min_value=1, max_value=3)
    )
)
@example(counts={"a": 2, "a#1": 1, "a#1#0": 1})
def test_no_two_documents_have_passages_of_one_id(counts: dict[str, int]) -> None:
    ids = [id for document, count in counts.items() for id in passage_ids(document, count)]
    assert len(ids) == len(set(ids)) == sum(counts.values())
    assert {document_of(id) for id in ids} == counts.keys()


def test_a_table_survives_the_store_byte_for_byte() -> None:
    types = {"year": ColumnType.INT, "kind": ColumnType.STRING}
    passages = [
        Passage(
            id=f"a{number}",
            document=f"a{number}",
            text="t",
            metadata={"year": number} if number else {},
            vector=np.array([number, 1.0, 2.0], dtype=np.float32),
        )
        for number in range(3)
    ]
    table = passage_table(passages, types, 3)
    assert table.column_names == ["id", "document", "text", "meta.kind", "meta.year", "vector"]
    assert table.column("meta.year").to_pylist() == [None, 1, 2]
    data = write_part(table)
    assert data == write_part(passage_table(passages, types, 3))
    again = read_part(data, types, 3, source="part")
    assert again.equals(table)
    assert vectors_of(again).tolist() == [[0, 1, 2], [1, 1, 2], [2, 1, 2]]
    assert vectors_of(pa.concat_tables([again, again.slice(1)])).shape == (5, 3)
    assert document_ids(data, source="part") == ["a0", "a1", "a2"]
    for damaged in (data[:-10], b"", b"x" * 200):
        with pytest.raises(Corrupt, match="part 7"):
            read_part(damaged, types, 3, source="part 7")
        with pytest.raises(Corrupt, match="part 7"):
            document_ids(damaged, source="part 7")


def test_an_old_part_gets_the_columns_that_the_corpus_has_now() -> None:
    passages = [Passage(id="a", document="a", text="t", metadata={"year": 7})]
    old = passage_table(passages, {"year": ColumnType.INT}, None)
    new = conform(old, {"year": ColumnType.FLOAT, "kind": ColumnType.STRING}, None)
    assert new.column("meta.year").to_pylist() == [7.0]
    assert new.column("meta.kind").to_pylist() == [None]
    assert new.schema == passage_table([], {**COLUMNS, "year": ColumnType.FLOAT}, None).schema
    lacking = write_part(old.drop_columns(["document"]))
    with pytest.raises(Corrupt, match="document"):
        read_part(lacking, {}, None, source="part")


COLUMNS = {"kind": ColumnType.STRING}


def test_a_later_part_replaces_documents_whole() -> None:
    parts = [["a", "a", "b"], ["b", "c"], ["a"]]
    assert [mask.tolist() for mask in current_rows(parts)] == [
        [False, False, False],
        [True, True],
        [True],
    ]
    tables = [
        pa.table({"document": part, "row": list(range(len(part)))}) for part in (["a", "b"], ["b"])
    ]
    assert [table.to_pylist() for table in current_passages(tables)] == [
        [{"document": "a", "row": 0}],
        [{"document": "b", "row": 0}],
    ]


def test_the_rows_of_each_document_are_counted() -> None:
    assert count_passages(["a", "a", "b"]) == {"a": 2, "b": 1}
