"""The files that the sources of an ingest mean: paths, folders and fsspec URLs.

Every file of a folder is either read or reported as left out. Links in a folder are not followed:
nobody named the files that they lead to, and these may be secret.
"""

from __future__ import annotations

import io
import os.path
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from actors.documents.folder_values import FolderValues
from actors.documents.source_csv import Ways
from actors.documents.source_formats import FORMATS, TEXT_FORMATS, format_of, suffix_of
from actors.documents.source_rows import check_unpacked
from actors.documents.texts.text_encoding import in_utf8
from cluster.documents.ingest_report import LeftOut, ReasonCounts
from cluster.errors import InvalidArgument, Unavailable
from cluster.metadata import MetadataValue
from cluster.quoting import printable

_BUFFER_BYTES = 2**20
_KNOWN = ", ".join(FORMATS)
_HIDDEN = (".", "~$")
"""What names of hidden files begin with; the latter are those of documents that Office has open."""
_WHAT_TO_DO = {
    **dict.fromkeys((".doc", ".dot", ".wps", ".pages"), "save it as .docx or .pdf"),
    **dict.fromkeys((".ppt", ".pps", ".key"), "save it as .pptx or .pdf"),
    **dict.fromkeys((".xls", ".xlsb", ".numbers"), "save it as .xlsx"),
    **dict.fromkeys((".msg", ".pst"), "save it as .eml or .mbox"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst"), "unpack it"),
}
"""With documents of kinds that are not read."""
_NO_FILE = "is no regular file"
_LOCAL = ("file", "local")
"""Names that fsspec gives the file system of the machine itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    filesystem: Any
    """File system of fsspec; survives pickling."""
    location: str
    """Name of the file in its file system."""
    name: str
    """Name for messages: the source as it was given, and the path in it."""
    path: str
    """Relative to the source, or the file's name where the source is a file."""
    size_bytes: int
    is_local: bool
    """True when only this machine has it."""
    folder_values: Mapping[str, MetadataValue] = field(default_factory=dict)
    """Metadata that the names of its folders give to all of its documents."""
    csv_ways: Ways | None = None
    """How the columns of all CSV files are written, for one among several of them."""

    def open(self) -> io.BufferedReader:
        """The file's bytes, unpacked, those of texts in UTF-8. Raises OSError; reading raises
        InvalidArgument for an archive that unpacks to more than any text does.
        """
        # Files of remote file systems lack parts of what Python's files can do.
        if not suffix_of(self.path).endswith(".gz"):
            raw = self.filesystem.open(self.location, "rb")
        else:
            unpacked = self.filesystem.open(self.location, "rb", compression="gzip")
            raw = _Bounded(unpacked, self.size_bytes, self.name)
        file = io.BufferedReader(raw, _BUFFER_BYTES)
        return in_utf8(file, self.name) if format_of(self.path) in TEXT_FORMATS else file


class _Bounded(io.RawIOBase):
    """An archive, unpacked, that must not have more in it than texts have."""

    def __init__(self, file: Any, size_bytes: int, name: str) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self._name = name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        num_bytes = int(self._file.readinto(buffer))
        check_unpacked(self._file.tell(), self._size_bytes, self._name)
        return num_bytes

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceListing:
    sources: tuple[str, ...]
    """As they were given."""
    files: tuple[SourceFile, ...]
    """Files in the order of the sources, and by path within a source."""
    left_out: tuple[LeftOut, ...]
    """Files of folders that are not read."""
    folder_values_left_out: tuple[LeftOut, ...]
    """Folders called `key=value` that give no metadata."""


def find_source_files(sources: Sequence[str], folder_texts: Collection[str] = ()) -> SourceListing:
    """The files that paths, folders and fsspec URLs mean. The folder values of the fields
    `folder_texts` stay texts.

    Folders are searched through. Raises InvalidArgument for a source that does not exist, a single
    file of an unknown kind, and a folder without any that can be read; Unavailable when its file
    system does not answer.
    """
    left_out, values = ReasonCounts(), FolderValues(folder_texts)
    files = [file for source in sources for file in _files_of(source, left_out, values)]
    return SourceListing(
        sources=tuple(sources),
        files=tuple(replace(f, folder_values=values.typed(f.folder_values)) for f in files),
        left_out=left_out.left_out(),
        folder_values_left_out=values.left_out.left_out(),
    )


def _files_of(source: str, left_out: ReasonCounts, values: FolderValues) -> list[SourceFile]:
    """With folder values that are still texts."""
    if not source:
        raise InvalidArgument("is empty; the folder that you are in is called `.`", "source")
    shown = printable(source)
    try:
        filesystem, root = _opened(source)
        if not filesystem.exists(root):
            or_away = ", or cannot be reached" if "://" in source else ""
            raise InvalidArgument(f"{shown} does not exist{or_away}", "source")
        if not filesystem.isdir(root):
            info = filesystem.info(root)
            if info["type"] != "file":
                raise InvalidArgument(f"{shown} {_NO_FILE}", "source")
            name = _path_of(root).rstrip("/").rpartition("/")[2]
            if format_of(name) is None:
                raise InvalidArgument(
                    f"{shown} is {_unread_kind(name)}; these are read: {_KNOWN}",
                    "source",
                )
            texts = values.texts(source)
            return [_source_file(source, filesystem, info, shown, name, texts)]
        found = list(_entries(filesystem, root, left_out))
    except (OSError, RuntimeError) as error:
        raise Unavailable(f"{shown} cannot be read: {printable(str(error))}") from error
    except (ValueError, ImportError) as error:
        raise InvalidArgument(
            f"{shown} cannot be opened: {printable(str(error))}", "source"
        ) from error
    files: list[SourceFile] = []
    for info in sorted(found, key=lambda info: str(info["name"])):
        path = str(info["name"]).removeprefix(root).strip("/")
        given = f"{source.rstrip('/')}/{path}"
        name = printable(given)
        if (reason := _why_left_out(path, info)) is not None:
            left_out.add(reason, name)
        else:
            texts = values.texts(given)
            files.append(_source_file(source, filesystem, info, name, path, texts))
    if not files:
        raise InvalidArgument(f"{shown} holds no file that can be read ({_KNOWN})", "source")
    return files


def _entries(filesystem: Any, root: str, left_out: ReasonCounts) -> Iterator[Mapping[str, Any]]:
    """All that is in a folder and those below it, but for the folders themselves."""
    if not isinstance(filesystem, LocalFileSystem):
        yield from filesystem.find(root, detail=True).values()
        return
    # There `find` passes silently over folders that may not be looked into.
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = filesystem.ls(folder, detail=True)
        except OSError as error:
            if folder == root:
                raise
            left_out.add(f"cannot be looked into: {error.strerror}", printable(folder))
            continue
        for entry in entries:
            if entry["type"] == "directory":
                folders.append(entry["name"])
            else:
                yield entry


def _opened(source: str) -> tuple[Any, str]:
    """The file system of a source, and what the source is called there."""
    if os.path.lexists(source):
        # As a URL, a path with `::` in it would be one file system inside of another.
        return LocalFileSystem(), os.path.abspath(source)
    filesystem, root = fsspec.core.url_to_fs(source)
    return filesystem, str(root)


def _path_of(root: str) -> str:
    """Without what stands after the path in a URL of the web."""
    return urlsplit(root).path if root.startswith(("http://", "https://")) else root


def _why_left_out(path: str, info: Mapping[str, Any]) -> str | None:
    if info.get("islink"):
        return "is a symbolic link"
    if any(part.startswith(_HIDDEN) for part in PurePosixPath(path).parts):
        return "is hidden"
    if info["type"] != "file":
        return _NO_FILE
    return None if format_of(path) is not None else f"is {_unread_kind(path)}"


def _unread_kind(path: str) -> str:
    suffix = suffix_of(path)
    what_to_do = "unpack it" if suffix.endswith(".gz") else _WHAT_TO_DO.get(suffix)
    kind = f"of a kind that is not read ({printable(suffix) or 'no extension'})"
    return f"{kind}; {what_to_do}" if what_to_do else kind


def _source_file(
    source: str,
    filesystem: Any,
    info: Mapping[str, Any],
    name: str,
    path: str,
    folder_values: Mapping[str, MetadataValue],
) -> SourceFile:
    return SourceFile(
        filesystem=filesystem,
        location=str(info["name"]),
        name=name,
        path=path,
        size_bytes=int(info.get("size") or 0),
        is_local=_is_local(source, filesystem),
        folder_values=folder_values,
    )


def _is_local(source: str, filesystem: Any) -> bool:
    if isinstance(filesystem, LocalFileSystem):
        return True
    # One file system inside of another, such as `zip://a.md::/tmp/notes.zip`.
    return any(fsspec.utils.get_protocol(inner) in _LOCAL for inner in source.split("::")[1:])
