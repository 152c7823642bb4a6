"""Reads the documents of files into stored parts of a corpus, with Ray Data: a task for each group
of files reads them, checks the documents and stores parts.

Parts are content-addressed and nothing names them until a corpus manifest does, so a reading that
fails half-way leaves nothing that anybody can see.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import pickle
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pyarrow as pa
import ray.data

from actors.documents.formats import read_rows
from actors.documents.office.extractor import Extractor
from actors.documents.source_csv import column_ways
from actors.documents.source_files import SourceFile
from actors.documents.source_formats import OFFICE_FORMATS, SourceFormat, format_of
from actors.documents.source_rows import Row
from actors.runtime.own_node import own_node
from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.files import ArtifactFile
from cluster.documents.content import store_part
from cluster.documents.declared_types import DeclaredTypes, with_declared_types
from cluster.documents.documents import (
    Document,
    DocumentOrigin,
    SchemaField,
    add_to_schema,
    column_types,
    parse_document,
)
from cluster.documents.ingest_report import LeftOut, ReasonCounts
from cluster.documents.passages import Passage, passage_table, whole_passage
from cluster.errors import InvalidArgument, RaygionError, Unavailable
from cluster.metadata import MetadataValue

# A group's reading is one task: small files share one, so that a folder of notes is not a
# thousand tasks.
GROUP_BYTES = 8 * 2**20
GROUP_FILES_MAX = 512
# Uncompressed; a part may exceed it by one document, so it stays far below 64 MB.
PART_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    skip_errors: bool = False
    """True when a document that is wrong in itself is left out, and told, instead of being raised;
    likewise the rest of a file that cannot be read on.
    """
    types: DeclaredTypes = field(default_factory=dict)
    """Types that metadata fields are to have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """A part that is in the store, and what must be known to put it into a corpus."""

    file: ArtifactFile
    origins: Mapping[str, str]
    """Origin of each document, by document id, in the order of the part's rows."""
    schema: Mapping[str, SchemaField]
    dimension: int | None
    first: str
    """Origin of the first document, for messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRead:
    """One group of files, read to its end."""

    group: int
    num_files: int
    num_files_read: int
    """Number of these files with a document, even if the document is left out."""
    parts: tuple[StoredPart, ...]
    files_left_out: tuple[LeftOut, ...]
    documents_left_out: tuple[LeftOut, ...]
    declared_found: frozenset[str]
    """The fields with a declared type that a document has, be it without a value."""


def read_parts(
    files: Sequence[SourceFile], artifacts: Artifacts, options: ReadOptions
) -> Iterator[GroupRead]:
    """Reads the files with Ray Data tasks, which put the parts into the store; in any order.

    Files of this machine are read on this machine: others need not have them. Equal files give
    equal parts. Raises InvalidArgument and Unavailable as `read_group` does.
    """
    groups = plan_groups(files)
    reader: Any = _ReadGroups(groups, artifacts, options)
    context = ray.data.DataContext.get_current().copy()
    # The caller shows its own progress.
    context.enable_progress_bars = False
    here = {"ray.io/node-id": own_node()}
    with ray.data.DataContext.current(context):
        for is_local, nodes in ((True, here), (False, None)):
            rows = [{"group": n} for n, group in enumerate(groups) if _any_local(group) is is_local]
            if not rows:
                continue
            dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                reader,
                batch_size=1,
                batch_format="pyarrow",
                num_cpus=1,
                label_selector=nodes,
            )
            for row in dataset.iter_rows():
                read = pickle.loads(row["read"])
                if isinstance(read, RaygionError):
                    raise read
                yield cast(GroupRead, read)


def _any_local(files: Iterable[SourceFile]) -> bool:
    return any(file.is_local for file in files)


def plan_groups(files: Sequence[SourceFile]) -> list[tuple[SourceFile, ...]]:
    """Divides the files, in their order, into groups that are worth a task each."""
    groups: list[tuple[SourceFile, ...]] = []
    group: list[SourceFile] = []
    for file in files:
        size_bytes = file.size_bytes + sum(other.size_bytes for other in group)
        if group and (size_bytes > GROUP_BYTES or len(group) >= GROUP_FILES_MAX):
            groups.append(tuple(group))
            group = []
        group.append(file)
    return [*groups, tuple(group)] if group else groups


class _ReadGroups:
    """The task. Errors are its result, so that they arrive as they were raised."""

    def __init__(
        self, groups: Sequence[tuple[SourceFile, ...]], artifacts: Artifacts, options: ReadOptions
    ) -> None:
        self._groups = groups
        self._artifacts = artifacts
        self._options = options

    def __call__(self, batch: pa.Table) -> pa.Table:
        results: list[bytes] = []
        for group in batch.column("group").to_pylist():
            assert group is not None
            try:
                results.append(pickle.dumps(self._read(group)))
            except RaygionError as error:
                results.append(pickle.dumps(error))
        return pa.table({"read": pa.array(results, pa.large_binary())})

    def _read(self, group: int) -> GroupRead:
        return read_group(group, self._groups[group], self._artifacts, self._options)


def read_group(
    group: int, files: Sequence[SourceFile], artifacts: Artifacts, options: ReadOptions
) -> GroupRead:
    """Reads the files of one group and stores its parts.

    A file without documents is left out, and told. Raises InvalidArgument, naming the file and the
    row, for the first document that is wrong, unless the options say to skip it, and for documents
    that cannot be in one corpus; Unavailable for a file system that does not answer.
    """
    parts: list[StoredPart] = []
    draft = _PartDraft()
    with Extractor() as extractor:
        reading = _FileReading(options, extractor)
        for file in files:
            for document, origin in reading.documents(file):
                draft.add(document, origin)
                if draft.size_bytes >= PART_BYTES:
                    parts.append(draft.store(artifacts))
                    draft = _PartDraft()
    if draft.passages:
        parts.append(draft.store(artifacts))
    return GroupRead(
        group=group,
        num_files=len(files),
        num_files_read=reading.num_files,
        parts=tuple(parts),
        files_left_out=reading.files_left_out.left_out(),
        documents_left_out=reading.documents_left_out.left_out(),
        declared_found=frozenset(reading.declared_found),
    )


class _FileReading:
    """Takes the documents out of files, and keeps count of what is left out."""

    def __init__(self, options: ReadOptions, extractor: Extractor) -> None:
        self.num_files = 0
        self.declared_found: set[str] = set()
        self.files_left_out = ReasonCounts()
        self.documents_left_out = ReasonCounts()
        self._skip_errors = options.skip_errors
        self._types = options.types
        self._extractor = extractor

    def documents(self, file: SourceFile) -> Iterator[tuple[Document, DocumentOrigin]]:
        num_rows = 0
        parts_left_out: list[tuple[str, str]] = []
        try:
            for row, origin in _rows(file, self._types, self._extractor):
                if isinstance(row, str):
                    parts_left_out.append((row, str(origin)))
                    continue
                num_rows += 1
                if (document := self._document(row, origin, file.folder_values)) is not None:
                    yield document, origin
        except InvalidArgument as error:
            if not self._skip_errors:
                said = f"{error.message} (to go on without what is wrong: --skip-errors)"
                raise InvalidArgument(said, error.field) from error
            example = f"{file.name}, after row {num_rows}" if num_rows else file.name
            self.files_left_out.add(_reason(error, file.name), example)
        else:
            if not num_rows:
                reason = parts_left_out[0][0] if parts_left_out else "has no documents in it"
                self.files_left_out.add(reason, file.name)
            for reason, where in parts_left_out if num_rows else ():
                self.documents_left_out.add(reason, where)
        self.num_files += num_rows > 0

    def _document(
        self,
        row: Mapping[str, object] | InvalidArgument,
        origin: DocumentOrigin,
        folder_values: Mapping[str, MetadataValue],
    ) -> Document | None:
        """The document; None for one that is left out."""
        try:
            if isinstance(row, InvalidArgument):
                raise row
            return parse_document(self._typed(_with_metadata(row, folder_values), origin), origin)
        except InvalidArgument as error:
            if not self._skip_errors:
                raise
            self.documents_left_out.add(_reason(error, str(origin)), str(origin))
            return None

    def _typed(self, row: Mapping[str, object], origin: DocumentOrigin) -> Mapping[str, object]:
        metadata = row.get("metadata")
        if not self._types or not isinstance(metadata, Mapping):
            return row
        self.declared_found.update(self._types.keys() & metadata.keys())
        return {**row, "metadata": with_declared_types(metadata, self._types, origin)}


def _with_metadata(
    row: Mapping[str, object], values: Mapping[str, MetadataValue]
) -> Mapping[str, object]:
    """The row with these beside its own metadata, which count for more."""
    own = row.get("metadata")
    if not values or not (own is None or isinstance(own, Mapping)):
        return row
    return {**row, "metadata": {**values, **(own or {})}}


def _reason(error: InvalidArgument, origin: str) -> str:
    """The error without its origin, so that equal errors are counted together."""
    message = error.message.removeprefix(f"{origin}: ")
    return f"{error.field}: {message}" if error.field else message


@dataclass(slots=True, kw_only=True)
class _PartDraft:
    """Documents that will be one part."""

    passages: list[Passage] = field(default_factory=list)
    origins: dict[str, str] = field(default_factory=dict)
    schema: dict[str, SchemaField] = field(default_factory=dict)
    size_bytes: int = 0
    dimension: int | None = None
    first: str = ""

    def add(self, document: Document, origin: DocumentOrigin) -> None:
        check_not_twice(document.id, self.origins, str(origin))
        dimension = None if document.vector is None else len(document.vector)
        if not self.passages:
            self.dimension, self.first = dimension, str(origin)
        check_same_kind(self.dimension, self.first, dimension, str(origin))
        add_to_schema(self.schema, document, origin)
        self.origins[document.id] = str(origin)
        self.passages.append(whole_passage(document))
        metadata_bytes = sum(len(str(value)) for value in document.metadata.values())
        # 16 stands for the columns' own cost.
        self.size_bytes += len(document.text.encode()) + 2 * len(document.id) + metadata_bytes + 16
        self.size_bytes += 4 * (dimension or 0)

    def store(self, artifacts: Artifacts) -> StoredPart:
        table = passage_table(self.passages, column_types(self.schema), self.dimension)
        return StoredPart(
            file=store_part(artifacts, table),
            origins=self.origins,
            schema=self.schema,
            dimension=self.dimension,
            first=self.first,
        )


def check_not_twice(document: str, origins: Mapping[str, str], origin: str) -> None:
    """Raises InvalidArgument when a document of that id was read before."""
    if (before := origins.get(document)) is not None:
        raise InvalidArgument(f"{document!r} is both in {before} and in {origin}", "id")


def check_same_kind(
    dimension: int | None, where: str, other_dimension: int | None, other_where: str
) -> None:
    """Raises InvalidArgument when two documents cannot be in one corpus for their vectors."""
    if dimension == other_dimension:
        return
    if dimension is None or other_dimension is None:
        with_vector, without = (other_where, where) if dimension is None else (where, other_where)
        raise InvalidArgument(
            f"{with_vector} brings a vector and {without} brings none; a corpus is either embedded "
            "or brings all its vectors",
            "vector",
        )
    raise InvalidArgument(
        f"has {dimension} numbers in {where}, but {other_dimension} in {other_where}; they must "
        "come from one model",
        "vector",
    )


def with_common_types(files: Sequence[SourceFile]) -> list[SourceFile]:
    """The files, where CSV files know how the columns of all of them are written: those of a table
    in parts have one type, which each part by itself may not show.
    """
    tables = [file for file in files if format_of(file.path) is SourceFormat.CSV]
    if len(tables) < 2:
        return list(files)
    ways: dict[str, frozenset[str]] = {}
    for file in tables:
        # A file that cannot be read is told when its documents are.
        with contextlib.suppress(InvalidArgument, Unavailable), _opened(file) as opened:
            for column, found in column_ways(opened, file.name).items():
                ways[column] = ways.get(column, found) & found
    is_table = {file.location for file in tables}
    return [replace(f, csv_ways=ways) if f.location in is_table else f for f in files]


def _rows(file: SourceFile, types: DeclaredTypes, extractor: Extractor) -> Iterator[Row]:
    format = format_of(file.path)
    assert format is not None
    with _opened(file) as opened:
        # An empty file has no documents, whatever its format.
        if not opened.peek(1):
            return
        if format in OFFICE_FORMATS:
            yield from extractor.rows(opened, format, file.path, file.name)
        else:
            yield from read_rows(opened, format, file.path, file.name, file.csv_ways, types)


@contextlib.contextmanager
def _opened(file: SourceFile) -> Iterator[io.BufferedReader]:
    """Whatever goes wrong while the file is read is raised as InvalidArgument or Unavailable, which
    name it.
    """
    try:
        with file.open() as opened:
            yield opened
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InvalidArgument(f"{file.name}: is not a whole gzip file: {error}") from error
    except (FileNotFoundError, PermissionError) as error:
        raise InvalidArgument(f"{file.name}: cannot be read: {error}") from error
    except OSError as error:
        raise Unavailable(f"{file.name} cannot be read: {error}") from error
    except RaygionError:
        raise
    except Exception as error:
        # The parsers of other projects raise what they like for a damaged file; it must be named.
        raise InvalidArgument(f"{file.name}: cannot be read: {error!r}") from error
