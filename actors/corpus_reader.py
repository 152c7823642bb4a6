"""Reads documents from files and folders anywhere into stored parts of a corpus, with Ray Data.

    find_source_files   which files the sources mean (in the caller's process)
    read_parts          a task for each group of files: read, check, cut into passages, store parts

Parts are content-addressed and nothing names them until a corpus manifest does, so a reading that
fails half-way leaves nothing that anybody can see.
"""

from __future__ import annotations

import gzip
import io
import pickle
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, cast

import fsspec
import pyarrow as pa
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.own_node import own_node
from actors.source_formats import FORMATS, format_of, read_rows, suffix_of
from cluster.artifacts import Artifacts
from cluster.documents import (
    Document,
    RowPlace,
    SchemaField,
    add_to_schema,
    column_types,
    parse_document,
)
from cluster.errors import InvalidArgument, RaygionError, Unavailable
from cluster.manifests import ArtifactFile
from cluster.passages import Passage, passage_table, passages_of, write_part

# A group's reading is one task: small files share one, so that a folder of notes is not a
# thousand tasks.
GROUP_BYTES = 8 * 2**20
GROUP_FILES_MAX = 512
# Uncompressed; a part may exceed it by one document, so it stays far below 64 MB.
PART_BYTES = 32 * 2**20
_BUFFER_BYTES = 2**20
_LOCAL = ("file", "local")
"""What fsspec calls the file system of the machine itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    url: str
    path: str
    """Relative to the source, or the file's name where the source is a file."""
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceListing:
    files: tuple[SourceFile, ...]
    """In the order of the sources, and by path within one."""
    skipped: Mapping[str, int]
    """How many files of folders were left out, by extension, since it is not one that is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """A part that is in the store, and what must be known to put it into a corpus."""

    file: ArtifactFile
    places: Mapping[str, str]
    """Where each document was read, by document id."""
    num_passages: Mapping[str, int]
    """Passages of each document, by document id."""
    schema: Mapping[str, SchemaField]
    dimension: int | None
    first: str
    """Where the first document was read, for messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRead:
    """One group of files, read to its end."""

    group: int
    num_files: int
    parts: tuple[StoredPart, ...]


def find_source_files(sources: Sequence[str]) -> SourceListing:
    """The files that paths, folders and fsspec URLs mean.

    Folders are searched through; hidden files in them are passed over. Raises InvalidArgument for a
    source that does not exist, a single file of an unknown kind, and a folder without any that can
    be read; Unavailable when its file system does not answer.
    """
    files: list[SourceFile] = []
    skipped: Counter[str] = Counter()
    for source in sources:
        found, left_out = _files_of(source)
        files += found
        skipped += left_out
    return SourceListing(files=tuple(files), skipped=dict(sorted(skipped.items())))


def read_parts(
    files: Sequence[SourceFile], artifacts: Artifacts, *, chars_max: int
) -> Iterator[GroupRead]:
    """Reads the files with Ray Data tasks, which put the parts into the store; in any order.

    Files of this machine are read on this machine: others need not have them. Equal files give
    equal parts. Raises InvalidArgument, naming the file and the row, for the first
    document met that is wrong; Unavailable for a file that cannot be read.
    """
    groups = plan_groups(files)
    reader: Any = _ReadGroups(groups, artifacts, chars_max)
    context = ray.data.DataContext.get_current().copy()
    # The caller shows its own progress.
    context.enable_progress_bars = False
    here = NodeAffinitySchedulingStrategy(own_node(), soft=False)
    with ray.data.DataContext.current(context):
        for is_local, strategy in ((True, here), (False, "SPREAD")):
            rows = [{"group": n} for n, group in enumerate(groups) if _any_local(group) is is_local]
            if not rows:
                continue
            dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                reader,
                batch_size=1,
                batch_format="pyarrow",
                num_cpus=1,
                scheduling_strategy=strategy,
            )
            for row in dataset.iter_rows():
                read = pickle.loads(row["read"])
                if isinstance(read, RaygionError):
                    raise read
                yield cast(GroupRead, read)


def _any_local(files: Iterable[SourceFile]) -> bool:
    return any(fsspec.utils.get_protocol(file.url) in _LOCAL for file in files)


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
        self, groups: Sequence[tuple[SourceFile, ...]], artifacts: Artifacts, chars_max: int
    ) -> None:
        self._groups = groups
        self._artifacts = artifacts
        self._chars_max = chars_max

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
        return read_group(group, self._groups[group], self._artifacts, chars_max=self._chars_max)


def read_group(
    group: int, files: Sequence[SourceFile], artifacts: Artifacts, *, chars_max: int
) -> GroupRead:
    """Reads the files of one group and stores its parts."""
    parts: list[StoredPart] = []
    draft = _PartDraft()
    for document, place in _documents(files):
        draft.add(document, place, passages_of(document, chars_max=chars_max))
        if draft.size_bytes >= PART_BYTES:
            parts.append(draft.store(artifacts))
            draft = _PartDraft()
    if draft.passages:
        parts.append(draft.store(artifacts))
    return GroupRead(group=group, num_files=len(files), parts=tuple(parts))


@dataclass(slots=True, kw_only=True)
class _PartDraft:
    """Documents that will be one part."""

    passages: list[Passage] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    num_passages: dict[str, int] = field(default_factory=dict)
    schema: dict[str, SchemaField] = field(default_factory=dict)
    size_bytes: int = 0
    dimension: int | None = None
    first: str = ""

    def add(self, document: Document, place: RowPlace, passages: Sequence[Passage]) -> None:
        check_not_twice(document.id, self.places, str(place))
        dimension = None if document.vector is None else len(document.vector)
        if not self.passages:
            self.dimension, self.first = dimension, str(place)
        check_same_kind(self.dimension, self.first, dimension, str(place))
        add_to_schema(self.schema, document, place)
        self.places[document.id] = str(place)
        self.num_passages[document.id] = len(passages)
        self.passages += passages
        # Metadata is repeated with each passage; 16 stands for the columns' own cost.
        metadata_bytes = sum(len(str(value)) for value in document.metadata.values())
        self.size_bytes += sum(
            len(passage.text.encode()) + 2 * len(passage.id) + metadata_bytes + 16
            for passage in passages
        )
        self.size_bytes += 4 * (dimension or 0)

    def store(self, artifacts: Artifacts) -> StoredPart:
        table = passage_table(self.passages, column_types(self.schema), self.dimension)
        sha256, size_bytes = artifacts.put_bytes(write_part(table))
        return StoredPart(
            # The content's own name, so that equal sources give equal manifests.
            file=ArtifactFile(path=f"{sha256}.parquet", sha256=sha256, size_bytes=size_bytes),
            places=self.places,
            num_passages=self.num_passages,
            schema=self.schema,
            dimension=self.dimension,
            first=self.first,
        )


def check_not_twice(document: str, places: Mapping[str, str], place: str) -> None:
    """Raises InvalidArgument when a document of that id was read before."""
    if (before := places.get(document)) is not None:
        raise InvalidArgument(f"{document!r} is both in {before} and in {place}", "id")


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


def _documents(files: Sequence[SourceFile]) -> Iterator[tuple[Document, RowPlace]]:
    for file in files:
        format = format_of(file.path)
        assert format is not None
        compression = "gzip" if suffix_of(file.path).endswith(".gz") else None
        try:
            with fsspec.open(file.url, "rb", compression=compression) as opened:
                # Files of remote file systems lack parts of what Python's files can do.
                buffered = io.BufferedReader(cast(io.RawIOBase, opened), _BUFFER_BYTES)
                for raw, place in read_rows(buffered, format, file.path):
                    yield parse_document(raw, place), place
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InvalidArgument(f"{file.path}: is not a whole gzip file: {error}") from error
        except OSError as error:
            raise Unavailable(f"{file.url} cannot be read: {error}") from error


def _files_of(source: str) -> tuple[list[SourceFile], Counter[str]]:
    known = ", ".join(FORMATS)
    try:
        filesystem, root = fsspec.core.url_to_fs(source)
        if not filesystem.exists(root):
            raise InvalidArgument(f"{source} does not exist", "source")
        if not filesystem.isdir(root):
            return [_single_file(source, filesystem, root, known)], Counter()
        found: dict[str, dict[str, Any]] = filesystem.find(root, detail=True)
    except (OSError, RuntimeError) as error:
        raise Unavailable(f"{source} cannot be read: {error}") from error
    except (ValueError, ImportError) as error:
        raise InvalidArgument(f"{source} cannot be opened: {error}", "source") from error
    files: list[SourceFile] = []
    skipped: Counter[str] = Counter()
    for full, info in sorted(found.items()):
        path = full.removeprefix(root).strip("/")
        if any(part.startswith(".") for part in PurePosixPath(path).parts):
            continue
        if format_of(path) is None:
            skipped[suffix_of(path) or "(none)"] += 1
            continue
        url = filesystem.unstrip_protocol(full)
        files.append(SourceFile(url=url, path=path, size_bytes=int(info["size"] or 0)))
    if not files:
        raise InvalidArgument(f"{source} holds no file that can be read ({known})", "source")
    return files, skipped


def _single_file(source: str, filesystem: Any, root: str, known: str) -> SourceFile:
    name = root.rstrip("/").rpartition("/")[2]
    if format_of(name) is None:
        raise InvalidArgument(f"{source} is of no kind that can be read ({known})", "source")
    size_bytes = int(filesystem.info(root).get("size") or 0)
    return SourceFile(url=filesystem.unstrip_protocol(root), path=name, size_bytes=size_bytes)
