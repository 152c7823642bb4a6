from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.corpus_reader import SourceFile, find_source_files, plan_groups
from actors.html_text import html_text
from actors.source_formats import SourceFormat, format_of, read_rows, suffix_of
from cluster.documents import Document, parse_document
from cluster.errors import InvalidArgument


def read(data: bytes, path: str) -> list[Document]:
    format = format_of(path)
    assert format is not None
    return [parse_document(raw, place) for raw, place in read_rows(io.BytesIO(data), format, path)]


def refusal(data: bytes, path: str) -> str:
    with pytest.raises(InvalidArgument) as caught:
        read(data, path)
    return str(caught.value)


def plain(documents: list[Document]) -> list[tuple[str, str, Mapping[str, object]]]:
    return [(document.id, document.text, document.metadata) for document in documents]


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def arrow(table: pa.Table, *, stream: bool = False) -> bytes:
    sink = io.BytesIO()
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


def npy(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


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


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "a", "text": "A"', "d.jsonl, row 2: is not a JSON object on a line"),
        ('["a"]', "d.jsonl, row 2: must be a JSON object"),
        (
            '{"id": "a", "body": "A"}',
            "text: d.jsonl, row 2: is missing; the columns here are: id, body",
        ),
        ('{"text": "A"}', "id: d.jsonl, row 2: is missing"),
        ('{"id": "a", "text": "A", "metadata": {}, "x": 1}', "row 2: has the columns x beside"),
        ('{"id": "a", "text": "A", "x": {"y": 1}}', "metadata.x: d.jsonl, row 2: metadata is flat"),
        ('{"id": "a", "text": "A", "x": NaN}', "row 2: is not a JSON object"),
        ('{"id": "a", "text": "A", "text": "B"}', "row 2: is not a JSON object on a line of its"),
        ('{"id": "a", "text": "A", "metadata": {"y": 1, "y": 2}}', "the key 'y' stands twice"),
        ('{"id": "a", "text": "A", "n": 18446744073709551616}', "metadata.n: d.jsonl, row 2: does"),
        ('{"id": "a", "text": "A", "n": -123456789012345678901234}', "64 bits; use a string"),
    ],
)
def test_a_bad_line_is_named(line: str, said: str) -> None:
    good = '{"id": "z", "text": "Z"}\n'
    assert said in refusal((good + line + "\n" + good).encode(), "d.jsonl")


def test_csv_cells_get_the_type_that_all_cells_of_their_column_have() -> None:
    data = (
        "id,text,year,price,open,code,note\n"
        '1,"Hello, ""you""\nthere",1999,2.5,true,007,\n'
        "2,B,,3,false,8,\n"
        "\n"
    )
    assert plain(read(data.encode(), "d.csv")) == [
        (
            "1",
            'Hello, "you"\nthere',
            {"year": 1999, "price": 2.5, "open": True, "code": "007", "note": None},
        ),
        ("2", "B", {"year": None, "price": 3.0, "open": False, "code": "8", "note": None}),
    ]
    long = "x" * 500_000
    assert read(f"id,text\n1,{long}".encode(), "d.csv")[0].text == long
    as_object = 'id,text,metadata\n1,A,"{""x"": 1}"\n'
    assert plain(read(as_object.encode(), "d.csv")) == [("1", "A", {"x": 1})]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "d.csv: is empty"),
        (b"id,text\n1,A\n2\n", "d.csv, row 2: has 1 cells under 2 columns"),
        (b"id,body\n1,A\n", "text: d.csv, row 1: is missing; the columns here are: id, body"),
        (b"id,text,text\n1,A,B\n", "names a column twice"),
        (b'id,text\n1,"A\n', "d.csv, row 1: unexpected end of data"),
        (b"id,text\n1,\xff\n", "d.csv: is not utf-8 text"),
        (b"id,text,metadata\n1,A,x\n", "metadata: d.csv, row 1: must be a JSON object"),
        (b'id,text,metadata\n1,A,"{""x"": 1, ""x"": 2}"\n', "the key 'x' stands twice"),
    ],
)
def test_a_bad_csv_is_named(data: bytes, said: str) -> None:
    assert said in refusal(data, "d.csv")


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
    assert "v.arrow: must be a list of numbers, not string" in refusal(arrow(words), "v.arrow")
    dated = pa.table({"id": ids, "text": ids, "on": pa.array([0, 1, 2], pa.date32())})
    assert "metadata.on: v.arrow, row 1" in refusal(arrow(dated), "v.arrow")


def test_a_numpy_matrix_has_row_numbers_for_ids() -> None:
    documents = read(npy(np.eye(3, dtype=np.float64)), "v.npy")
    assert [document.id for document in documents] == ["0", "1", "2"]
    assert documents[1].vector is not None
    assert documents[1].vector.tolist() == [0.0, 1.0, 0.0]
    assert "two dimensions" in refusal(npy(np.zeros(3)), "v.npy")
    assert "two dimensions" in refusal(npy(np.zeros((2, 2), dtype=bool)), "v.npy")
    assert "not a readable .npy" in refusal(npy(np.eye(3))[:100], "v.npy")
    assert "not a readable .npy" in refusal(npy(np.array([[{}]], dtype=object)), "v.npy")


def test_a_text_file_is_one_document() -> None:
    assert plain(read("\ufeffHellö".encode(), "a/b.txt")) == [
        ("a/b.txt", "Hellö", {"source": "a/b.txt", "title": "b.txt"})
    ]
    markdown = b"intro\n\n## The *title* ##\n\ntext"
    assert read(markdown, "n.md")[0].metadata["title"] == "The *title*"
    assert "a.txt: is not utf-8 text (byte 1)" in refusal(b"h\xe9", "a.txt")
    assert "text: a.txt: must not be empty" in refusal(b" \n", "a.txt")


def test_html_gives_what_people_read() -> None:
    page = b"""<!doctype html><html><head><meta charset="iso-8859-1"><title> The
      page </title><style>p {}</style><script>var a = "</p>";</script></head>
      <body><!-- hidden --><h1>Caf\xe9</h1><p>One<br>two &amp; <b>thr</b>ee.</p>
      <ul><li>a</li><li>b</li></ul><table><tr><td>x</td><td>y</td></tr></table></body></html>"""
    document = read(page, "p.html")[0]
    assert document.text == "Café\n\nOne\ntwo & three.\n\na\n\nb\n\nx y"
    assert document.metadata == {"source": "p.html", "title": "The page"}


@pytest.mark.parametrize(
    ("page", "text", "title"),
    [
        ("<p>open <b>tags", "open tags", None),
        ("<head><title>t</title><p>no end of head", "no end of head", "t"),
        ("<h1>Only <i>this</i></h1>", "Only this", "Only this"),
        ("<svg><title>icon</title></svg>a</svg></p>b", "a\n\nb", "icon"),
        ("plain & simple < text", "plain & simple < text", None),
        ("<script>x", "", None),
        ("", "", None),
    ],
)
def test_broken_html_is_read_as_far_as_it_goes(page: str, text: str, title: str | None) -> None:
    assert html_text(page) == (text, title)


def test_folders_are_searched_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    for name in ("b.md", "a/c.txt", "a/.hidden.txt", ".git/x.md", "a/p.png", "q.png", "LICENSE"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b"{}"))
    listing = find_source_files([str(tmp_path), f"file://{tmp_path}/b.md"])
    assert [file.path for file in listing.files] == ["a/c.txt", "b.md", "rows.jsonl.gz", "b.md"]
    assert listing.files[0].url == f"file://{tmp_path}/a/c.txt"
    assert listing.files[0].size_bytes == 7
    assert listing.skipped == {"(none)": 1, ".png": 2}


def test_a_relative_path_means_the_same_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.chdir(tmp_path)
    assert find_source_files(["a.txt"]).files == find_source_files([str(tmp_path / "a.txt")]).files
    assert find_source_files(["."]).files == find_source_files([str(tmp_path)]).files


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere", "does not exist"),
        ("photo.png", "of no kind that can be read"),
        ("empty", "holds no file"),
        ("nosuch://x", "cannot be opened"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidArgument, match=said) as caught:
        find_source_files([source])
    assert source in caught.value.message


def test_small_files_share_a_task_and_large_ones_do_not() -> None:
    def files(*sizes: int) -> list[SourceFile]:
        return [SourceFile(url=f"u{i}", path=f"p{i}", size_bytes=n) for i, n in enumerate(sizes)]

    large = 2**30
    assert [len(group) for group in plan_groups(files(1, 2, large, 3, 4))] == [2, 1, 2]
    assert [len(group) for group in plan_groups(files(*[1] * 1025))] == [512, 512, 1]
    assert plan_groups([]) == []
