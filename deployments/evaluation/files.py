"""The files of an evaluation: what is asked, and which documents are right, with what grade."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from cluster import exact_json
from cluster.arrays import Float32Array
from cluster.errors import InvalidArgument
from cluster.search.checks import TEXT_CHARS_MAX
from cluster.vectors.checks import check_vectors

Judgements: TypeAlias = Mapping[str, Mapping[str, int]]
"""Query id -> document id -> grade; 0 and less is irrelevant."""

_QUERIES = "queries"
_QRELS = "qrels"
_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
# First cells of a heading, in the files of the well-known collections.
_HEADINGS = ("id", "_id", "qid", "query-id", "query_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Queries:
    """The queries in the order of the file: exactly one of texts and vectors."""

    ids: tuple[str, ...]
    texts: tuple[str, ...] | None = None
    vectors: Float32Array | None = None
    """float32 [n, d]"""

    def body_of(self, rows: Sequence[int]) -> dict[str, object]:
        """The queries of these rows as a batch of `/v1/search`."""
        if self.vectors is not None:
            return {"vectors": self.vectors[list(rows)].tolist()}
        assert self.texts is not None
        return {"queries": [self.texts[row] for row in rows]}


@dataclass(frozen=True, slots=True)
class _Line:
    path: Path
    number: int
    text: str

    def refused(self, message: str, field: str) -> InvalidArgument:
        return InvalidArgument(f"{self.path}, line {self.number}: {message}", field)


def read_queries(path: Path) -> Queries:
    """Queries from JSON lines (`id` or `_id`, `text`), tab-separated lines (id, text; a heading may
    stand first), or vectors from `.npy`, whose ids are their row numbers from 0.

    Raises InvalidArgument, naming the file and the line.
    """
    if path.suffix.lower() == ".npy":
        return _read_vectors(path)
    texts: dict[str, str] = {}
    for line in _lines(path, _QUERIES):
        parsed = _json_query(line) if _is_json(path) else _tabbed_query(line)
        if parsed is None:
            continue
        id, text = parsed
        if id in texts:
            raise line.refused(f"the id {id!r} stands in an earlier line, too", _QUERIES)
        if not text.strip():
            raise line.refused("the text is empty", _QUERIES)
        if len(text) > TEXT_CHARS_MAX:
            raise line.refused(f"the text has more than {TEXT_CHARS_MAX} characters", _QUERIES)
        texts[id] = text
    if not texts:
        raise InvalidArgument(f"{path}: has no queries", _QUERIES)
    return Queries(ids=tuple(texts), texts=tuple(texts.values()))


def read_judgements(path: Path) -> Judgements:
    """Grades from JSON lines (`query`, `document`, `grade`), TREC's four columns (query, anything,
    document, grade), or three tab-separated columns (query, document, grade; a heading may stand
    first). Grades are whole numbers.

    Raises InvalidArgument, naming the file and the line.
    """
    judgements: dict[str, dict[str, int]] = {}
    for line in _lines(path, _QRELS):
        parsed = _json_judgement(line) if _is_json(path) else _column_judgement(line)
        if parsed is None:
            continue
        query, document, grade = parsed
        if judgements.setdefault(query, {}).setdefault(document, grade) != grade:
            raise line.refused(f"{document!r} has another grade in an earlier line", _QRELS)
    if not judgements:
        raise InvalidArgument(f"{path}: has no judgements", _QRELS)
    return judgements


def _is_json(path: Path) -> bool:
    return path.suffix.lower() in _JSON_SUFFIXES


def _lines(path: Path, field: str) -> Iterator[_Line]:
    """The lines that are not blank, numbered from 1."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror}", field) from None
    for number, raw in enumerate(data.split(b"\n"), start=1):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r")
        except UnicodeDecodeError:
            raise _Line(path, number, "").refused("is not UTF-8 text", field) from None
        if text.strip():
            yield _Line(path, number, text)


def _json_query(line: _Line) -> tuple[str, str]:
    row = _json_object(line, _QUERIES)
    text = row.get("text")
    if not isinstance(text, str):
        raise line.refused("needs a string `text`", _QUERIES)
    return _id_of(row, ("id", "_id"), line, _QUERIES), text


def _tabbed_query(line: _Line) -> tuple[str, str] | None:
    id, tab, text = line.text.partition("\t")
    if not tab or not id.strip():
        raise line.refused("must be an id, a tab and a text", _QUERIES)
    if line.number == 1 and id.strip().lower() in _HEADINGS:
        return None
    return id.strip(), text.strip()


def _json_judgement(line: _Line) -> tuple[str, str, int]:
    row = _json_object(line, _QRELS)
    grade = row.get("grade")
    if not isinstance(grade, int) or isinstance(grade, bool):
        raise line.refused("needs a whole number `grade`", _QRELS)
    query = _id_of(row, ("query",), line, _QRELS)
    return query, _id_of(row, ("document",), line, _QRELS), grade


def _column_judgement(line: _Line) -> tuple[str, str, int] | None:
    cells = [cell.strip() for cell in line.text.split("\t")]
    if len(cells) == 1:
        cells = line.text.split()
        if len(cells) == 3:
            raise line.refused("three columns must be separated by tabs", _QRELS)
    if len(cells) == 4:
        del cells[1]
    if len(cells) != 3 or not all(cells):
        raise line.refused(
            "must be query, document and grade between tabs, or TREC's four columns", _QRELS
        )
    query, document, grade = cells
    try:
        return query, document, int(grade)
    except ValueError:
        if line.number == 1 and query.lower() in _HEADINGS:
            return None
        raise line.refused(f"the grade {grade!r} is no whole number", _QRELS) from None


def _json_object(line: _Line, field: str) -> Mapping[str, object]:
    try:
        row = exact_json.loads(line.text.encode())
    except ValueError as error:
        raise line.refused(f"is not a JSON object on a line of its own: {error}", field) from None
    if not isinstance(row, dict):
        raise line.refused("must be a JSON object", field)
    return row


def _id_of(row: Mapping[str, object], keys: tuple[str, ...], line: _Line, field: str) -> str:
    """The first of these keys that is there; a whole number becomes its digits."""
    value = next((row[key] for key in keys if key in row), None)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise line.refused(f"needs a string `{keys[0]}`", field)
    return value


def _read_vectors(path: Path) -> Queries:
    try:
        matrix = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InvalidArgument(f"{path}: is not a readable .npy file: {error}", _QUERIES) from None
    vectors = check_vectors(matrix, field=_QUERIES)
    return Queries(ids=tuple(map(str, range(len(vectors)))), vectors=vectors)
