"""The files of an evaluation: their forms, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cluster.errors import InvalidArgument
from deployments.evaluation.files import read_judgements, read_queries


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.jsonl", '{"id": "a", "text": "one"}\n\n{"_id": 2, "text": "two", "lang": "en"}\n'),
        ("q.tsv", "a\tone\r\n2\ttwo\r\n"),
        ("q.tsv", "\ufeffquery-id\ttext\na\tone\n2\ttwo"),
    ],
)
def test_queries_are_read(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, newline="")
    queries = read_queries(tmp_path / name)
    assert (queries.ids, queries.texts) == (("a", "2"), ("one", "two"))
    assert queries.body_of([1]) == {"queries": ["two"]}


def test_vectors_are_queries_named_by_their_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", np.eye(3))
    queries = read_queries(tmp_path / "q.npy")
    assert queries.ids == ("0", "1", "2")
    assert queries.body_of([2, 0]) == {"vectors": [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.jsonl", '{"query": "a", "document": "d 1", "grade": 2}\n'),
        ("r.tsv", "query-id\tcorpus-id\tscore\na\td 1\t2\na\td 1\t2\n"),
        ("r.txt", "a\t0\td 1\t2\n"),
    ],
)
def test_judgements_are_read(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert read_judgements(tmp_path / name) == {"a": {"d 1": 2}}


def test_trec_columns_may_stand_between_spaces(tmp_path: Path) -> None:
    (tmp_path / "r.qrels").write_text("1 0  d1 1\n1 0 d2\t0\n".replace("\t", " "))
    assert read_judgements(tmp_path / "r.qrels") == {"1": {"d1": 1, "d2": 0}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "q.jsonl",
            b'{"id": "a", "text": "x"}\n{"id": 1.5, "text": "x"}',
            "line 2: needs a string",
        ),
        ("q.jsonl", b'{"id": "a"}', "line 1: needs a string `text`"),
        ("q.jsonl", b"\n{", "line 2: is not a JSON object"),
        ("q.jsonl", b"[]", "line 1: must be a JSON object"),
        ("q.tsv", b"a\tx\nb", "line 2: must be an id, a tab and a text"),
        ("q.tsv", b"a\tx\n\na\ty", "line 3: the id 'a' stands in an earlier line"),
        ("q.tsv", b"a\t ", "line 1: the text is empty"),
        ("q.tsv", b"a\tx\nb\t" + 9000 * b"x", "line 2: the text has more than 8192"),
        ("q.tsv", b"a\t\xff", "line 1: is not UTF-8"),
        ("q.tsv", b"\n", "has no queries"),
        ("q.npy", b"\n", "not a readable .npy file"),
        ("r.jsonl", b'{"query": "a", "document": "d", "grade": true}', "line 1: needs a whole"),
        ("r.jsonl", b'{"document": "d", "grade": 1}', "line 1: needs a string `query`"),
        ("r.tsv", b"a\td\t1\na\td\t2", "line 2: 'd' has another grade"),
        ("r.tsv", b"a\td\t1\nid\td\tgrade", "line 2: the grade 'grade' is no whole number"),
        ("r.tsv", b"a\td\thigh", "line 1: the grade 'high' is no whole number"),
        ("r.tsv", b"a\td\t1\na\td", "line 2: must be query, document and grade"),
        ("r.tsv", b"a d 1", "line 1: three columns must be separated by tabs"),
        ("r.tsv", b"query-id\tcorpus-id\tscore\n", "has no judgements"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidArgument) as refused:
        read_queries(path) if name.startswith("q") else read_judgements(path)
    assert str(path) in str(refused.value)
    assert message in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"none\.tsv: No such file"):
        read_judgements(tmp_path / "none.tsv")
