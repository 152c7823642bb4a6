from __future__ import annotations

import io
from collections.abc import Callable
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.documents.source_formats import SourceFormat, format_of, suffix_of
from actors.documents.source_tables import read_parquet
from cluster.errors import InvalidArgument
from tests.support.values.source_files import arrow, npy, parquet, plain, read, refusal


@pytest.mark.parametrize(
    ("path", "suffix", "format"),
    [
        ("a/b.JSONL", ".jsonl", SourceFormat.JSONL),
        ("b.ndjson.gz", ".ndjson.gz", SourceFormat.JSONL),
        ("v1.2/notes.md", ".md", SourceFormat.MARKDOWN),
        ("a.parquet", ".parquet", SourceFormat.PARQUET),
        ("a.parquet.gz", ".parquet.gz", None),
        ("a.gz", ".gz", None),
        (".jsonl", "", None),
        ("v1.2/Makefile", "", None),
        ("photo.png", ".png", None),
    ],
)
def test_the_extension_says_the_format(path: str, suffix: str, format: SourceFormat | None) -> None:
    assert suffix_of(path) == suffix
    assert format_of(path) == format


def test_jsonl_takes_metadata_as_an_object_or_as_the_other_keys() -> None:
    data = (
        b'\xef\xbb\xbf{"id": "a", "text": "A", "metadata": {"x": 1}}\n'
        b"\n"
        b'{"id": 2, "text": "B", "x": 2, "y": null}'
    )
    assert plain(read(data, "d.jsonl")) == [
        ("a", "A", {"x": 1}),
        ("2", "B", {"x": 2, "y": None}),
    ]
    long = read(b'{"id": 12345678901234567890123, "text": "A", "n": 9007199254740993}\n', "d.jsonl")
    assert plain(long) == [("12345678901234567890123", "A", {"n": 9007199254740993})]
    with_vector = read(b'{"id": "a", "vector": [0.5, 1]}', "d.jsonl")[0]
    assert with_vector.vector is not None
    assert with_vector.vector.tolist() == [0.5, 1.0]


def test_a_corpus_of_beir_is_read_as_it_is() -> None:
    data = (
        b'{"_id": "4983", "title": "Cells", "text": "Walls.", "metadata": {"year": 2006}}\n'
        b'{"_id": "7", "title": "", "text": "B", "metadata": {"by": ["A", {"n": "\xc3\xa9"}]}}\n'
        b'{"_id": "8", "title": "Title", "text": "", "metadata": {"title": "own"}}\n'
        b'{"_id": "9", "title": "Plain", "text": "C"}\n'
        b'{"_id": "10", "title": "Null", "text": "D", "metadata": null}\n'
    )
    assert plain(read(data, "corpus.jsonl")) == [
        ("4983", "Cells\n\nWalls.", {"title": "Cells", "year": 2006}),
        ("7", "B", {"title": None, "by": '["A", {"n": "é"}]'}),
        ("8", "Title", {"title": "own"}),
        ("9", "Plain\n\nC", {"title": "Plain"}),
        ("10", "Null\n\nD", {"title": "Null"}),
    ]
    table = pa.table({"_id": ["1"], "title": ["T"], "text": ["A"]})
    assert plain(read(parquet(table), "corpus.parquet")) == [("1", "T\n\nA", {"title": "T"})]
    assert "row 1: has the columns x beside" in refusal(
        b'{"_id": "1", "text": "A", "metadata": {}, "x": 1}', "corpus.jsonl"
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "a", "text": "A"', "d.jsonl, row 2: is not a JSON object on a line"),
        ('["a"]', "d.jsonl, row 2: must be a JSON object"),
        ('{"id": "a", "text": "\udcff"}', "on a line of its own: is not UTF-8 text (byte 21)"),
        (
            '{"id": "a", "body": "A"}',
            "text: d.jsonl, row 2: is missing; the columns here are: id, body",
        ),
        ('{"text": "A"}', "id: d.jsonl, row 2: is missing"),
        ('{"id": "a", "text": "A", "metadata": {}, "x": 1}', "row 2: has the columns x beside"),
        ('{"id": "a", "text": "A", "x": {"y": 1}}', "metadata.x: d.jsonl, row 2: metadata is flat"),
        ('{"id": "a", "text": "A", "x": NaN}', "; NaN is no JSON, write null for no value"),
        ('{"id": "a", "text": "A", "text": "B"}', "row 2: is not a JSON object on a line of its"),
        ('{"id": "a", "text": "A", "metadata": {"y": 1, "y": 2}}', "the key 'y' stands twice"),
        ('{"id": "a", "text": "A", "n": 18446744073709551616}', "metadata.n: d.jsonl, row 2: does"),
        ('{"id": "a", "text": "A", "n": -123456789012345678901234}', "64 bits; use a string"),
    ],
)
def test_a_bad_line_is_named(line: str, said: str) -> None:
    good = '{"id": "z", "text": "Z"}\n'
    data = (good + line + "\n" + good).encode(errors="surrogateescape")
    assert said in refusal(data, "d.jsonl")


@pytest.mark.parametrize(
    "data",
    [
        '[{"id": "a", "text": "A"}, {"id": "b", "text": "B"}]',
        '\n [\n  {"id": "a",\n   "text": "A"},\n  {"id": "b", "text": "B"}\n]\n',
    ],
)
def test_a_json_file_may_be_one_list_of_documents(data: str) -> None:
    documents = read(data.encode("utf-8-sig"), "d.json")
    assert [(document.id, document.text) for document in documents] == [("a", "A"), ("b", "B")]


def test_a_json_file_may_be_one_document_on_several_lines() -> None:
    assert plain(read(b'{\n  "id": "a",\n  "text": "A",\n  "x": 1\n}\n', "d.json")) == [
        ("a", "A", {"x": 1})
    ]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ('[{"id": "a", "text": "A"},\n 5]', "d.json, row 2: must be a JSON object"),
        ('[{"id": "a", "text": "A"},\n', "d.json: is neither a JSON list of objects nor JSON l"),
        ('[\n{"id": "a", "text": "A", "x": 1, "x": 2}]', "the key 'x' stands twice"),
        ('{\n"id": "a"\n}\n', "text: d.json, row 1: is missing"),
        ("[" + " " * 2**24 + "]", "d.json: is one JSON value of more than 16777216 bytes"),
    ],
)
def test_a_bad_json_file_is_named(data: str, said: str) -> None:
    assert said in refusal(data.encode(), "d.json")


ROWS = pa.table(
    {
        "id": ["a", "b", "c"],
        "text": ["A", "B", "C"],
        "metadata": [{"x": 1, "y": "p"}, {"x": 2, "y": None}, None],
    }
)


@pytest.mark.parametrize(
    ("data", "path"),
    [(parquet(ROWS), "d.parquet"), (arrow(ROWS), "d.arrow"), (arrow(ROWS, stream=True), "d.arrow")],
    ids=["parquet", "arrow file", "arrow stream"],
)
def test_tables_keep_their_types(data: bytes, path: str) -> None:
    assert plain(read(data, path)) == [
        ("a", "A", {"x": 1, "y": "p"}),
        ("b", "B", {"x": 2, "y": None}),
        ("c", "C", {}),
    ]
    for damaged in (data[: len(data) // 2], b"PAR1", b""):
        assert "is not a readable" in refusal(damaged, path)


@pytest.mark.parametrize(
    "type_",
    [pa.list_(pa.float32(), 2), pa.list_(pa.float64()), pa.large_list(pa.float16())],
    ids=str,
)
def test_tables_bring_vectors(type_: pa.DataType) -> None:
    values = np.arange(5000, dtype=np.float16).reshape(2500, 2) / 16
    vectors = pa.array([list(row) for row in values], type_)
    table = pa.table({"id": [str(i) for i in range(2500)], "vector": vectors})
    documents = read(parquet(table), "v.parquet") if type_ != pa.large_list(pa.float16()) else []
    documents = documents or read(arrow(table), "v.arrow")
    read_vectors = np.array([document.vector for document in documents])
    assert np.array_equal(read_vectors, values.astype(np.float32))
    assert {document.text for document in documents} == {""}


def test_a_bad_vector_in_a_table_is_named() -> None:
    ids = ["a", "b", "c"]
    with_null = pa.array([[1.0, 2.0], [1.0, None], [1.0, 2.0]], pa.list_(pa.float32()))
    table = pa.table({"id": ids, "vector": with_null})
    assert "vector: v.arrow, row 2: must be a list of numbers" in refusal(arrow(table), "v.arrow")
    with_nan = pa.array([[1.0], [2.0], [np.nan]], pa.list_(pa.float32(), 1))
    table = pa.table({"id": ids, "vector": with_nan})
    assert "vector: v.arrow, row 3: must hold finite" in refusal(arrow(table), "v.arrow")
    words = pa.table({"id": ids, "vector": ids})
    lists = pa.table({"id": ids, "vector": [["a"], ["b"], ["c"]]})
    assert "a list of numbers, not list<" in refusal(arrow(lists), "v.arrow")
    assert "v.arrow: must be a list of numbers, not string" in refusal(arrow(words), "v.arrow")
    dated = pa.table({"id": ids, "text": ids, "on": pa.array([0, 1, 2], pa.date32())})
    assert "metadata.on: v.arrow, row 1" in refusal(arrow(dated), "v.arrow")


@pytest.mark.parametrize(("write", "path"), [(parquet, "d.parquet"), (arrow, "d.arrow")])
def test_rows_share_the_long_value_of_a_dictionary(
    write: Callable[[pa.Table], bytes], path: str
) -> None:
    """600 copies of it would be 6 GB."""
    long = "x" * 10_000_000
    indices = pa.array([0] * 600 + [None], pa.int32())
    column = pa.DictionaryArray.from_arrays(indices, pa.array([long]))
    table = pa.table({"id": [str(n) for n in range(601)], "text": ["T"] * 601, "x": column})
    assert "metadata.x: " + path + ", row 1: has more than" in refusal(write(table), path)
    nulls = table.slice(600)
    assert read(write(nulls), path)[0].metadata == {"x": None}


def test_rows_that_share_a_long_value_are_few_at_once() -> None:
    """In Parquet any column may hold it once for all rows, which Arrow then copies for each."""
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), ["x" * 1_000_000])
    ids = [str(n) for n in range(1000)]
    table = pa.table({"id": ids, "text": shared, "metadata": pa.array([{"k": "v"}] * 1000)})
    sink = io.BytesIO()
    # Without Arrow's own schema the column is one of strings.
    pq.write_table(table, sink, store_schema=False)
    assert pq.read_schema(io.BytesIO(sink.getvalue())).field("text").type == pa.string()
    before, most = pa.total_allocated_bytes(), 0
    num_rows = 0
    for row, _ in read_parquet(io.BytesIO(sink.getvalue()), "d.parquet"):
        most = max(most, pa.total_allocated_bytes() - before)
        num_rows += not isinstance(row, InvalidArgument) and len(str(row["text"])) == 1_000_000
    assert num_rows == 1000
    assert most < 100_000_000


def test_a_table_that_unpacks_to_far_more_than_it_has_is_refused() -> None:
    sink = io.BytesIO()
    table = pa.table({"id": ["a"], "text": ["x" * 70_000_000]})
    pq.write_table(table, sink, compression="zstd")
    said = refusal(sink.getvalue(), "d.parquet")
    assert said.startswith("d.parquet: unpacks to more than 67108864 bytes")


def test_a_run_of_equal_values_is_read_once() -> None:
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2, 3, 2000], pa.int32()), ["a", None, "b"])
    ids = [str(n) for n in range(2000)]
    sink = io.BytesIO()
    batch = pa.record_batch({"id": ids, "text": ids, "x": runs})
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    found = [document.metadata["x"] for document in read(sink.getvalue(), "d.arrow")]
    assert found == ["a", "a", None] + ["b"] * 1997


@pytest.mark.parametrize("write", [parquet, arrow])
@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([b"fine", b"\xff\xfe"], pa.string()),
        ([0, 253402300800], pa.timestamp("s")),
        ([10**9, 1], pa.duration("ns")),
        ([0, 1], pa.timestamp("s", tz="No/Where")),
    ],
    ids=["not UTF-8", "year 10000", "duration", "time zone"],
)
def test_a_value_that_python_cannot_hold_is_named(
    write: Callable[[pa.Table], bytes], values: list[object], type_: pa.DataType
) -> None:
    if type_ == pa.string():
        raw = pa.array(values, pa.binary())
        column = pa.Array.from_buffers(type_, len(raw), raw.buffers())
    else:
        column = pa.array(values, pa.int64()).cast(type_)
    table = pa.table({"id": ["a", "b"], "text": ["A", "B"], "x": column})
    said = refusal(write(table), "v.parquet" if write is parquet else "v.arrow")
    assert said.startswith("metadata.x: v.") or said.startswith("x: v.")
    assert ", row " in said
    if type_ == pa.string():
        texts = pa.table({"id": ["a", "b"], "text": column})
        assert "text: v.arrow, row 2: has a string" in refusal(arrow(texts), "v.arrow")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f4", np.float16, np.int8])
def test_a_numpy_matrix_has_row_numbers_for_ids(dtype: str, order: Literal["C", "F"]) -> None:
    matrix = np.arange(2500 * 3).reshape(2500, 3) % 100
    documents = read(npy(np.asarray(matrix, dtype=dtype, order=order)), "v.npy")
    assert [document.id for document in documents] == [str(n) for n in range(2500)]
    assert np.array_equal(np.array([document.vector for document in documents]), matrix)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (npy(np.zeros(3)), "not numbers of two dimensions"),
        (npy(np.zeros((2, 2), dtype=bool)), "holds bool of 2 dimensions"),
        (npy(np.array([[{}]], dtype=object)), "holds object"),
        (npy(np.zeros((1, 2), dtype=[("n", "f4")])), "not a readable .npy"),
        (npy(np.eye(3))[:100], "not a readable .npy"),
        (npy(np.eye(3))[:-8], "v.npy: is not a readable .npy file: it ends after row 0"),
        (npy(np.zeros((3, 0))), "1 to 65536 numbers in a row"),
        (npy(np.zeros((1, 70_000))), "1 to 65536 numbers in a row"),
        (b"PK\x03\x04", "not a readable .npy"),
    ],
)
def test_a_bad_numpy_file_is_named(data: bytes, said: str) -> None:
    assert said in refusal(data, "v.npy")


def test_a_numpy_file_that_claims_more_than_it_has_takes_no_memory() -> None:
    small = npy(np.zeros((1, 1)))
    for in_columns in (False, True):
        claims = small.replace(b"(1, 1), }            ", b"(9999999999, 1), }   ")
        if in_columns:
            claims = claims.replace(b"False", b"True ")
        said = "too large to be read column by column" if in_columns else "ends after row 0"
        assert said in refusal(claims, "v.npy")


def test_a_text_file_is_one_document() -> None:
    assert plain(read("\ufeffHellö".encode(), "a/b.txt")) == [
        ("a/b.txt", "Hellö", {"source": "a/b.txt", "title": "b.txt"})
    ]
    markdown = b"intro\n\n## The *title* ##\n\ntext"
    assert read(markdown, "n.md")[0].metadata["title"] == "The *title*"
    underlined = b"Installation\n============\n\n```bash\n# update the list\n```\n\n## Configure\n"
    assert read(underlined, "n.md")[0].metadata["title"] == "Installation"
    code_alone = b"text\n\n~~~\n# a comment\n~~~\n"
    assert read(code_alone, "n.md")[0].metadata["title"] == "n.md"
    assert read(b"# " + b"x" * 100_000, "n.md")[0].metadata["title"] == "x" * 1000
    assert "a.txt: is not UTF-8 text (byte 1)" in refusal(b"h\xe9", "a.txt")
    for path in ("a.txt", "a.md"):
        assert f"{path}: has NUL characters" in refusal("wide".encode("utf-16-le"), path)
    assert read(b"---\ntitle: " + b"[" * 2000 + b"\n---\n# One", "n.md")[0].text
    for empty in ("a.txt", "a.md", "a.html", "a.csv", "a.jsonl"):
        assert read(b" \n", empty) == []
