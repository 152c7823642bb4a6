"""The store over fsspec, for S3 and whatever else has a real put-if-absent.

Every call has a time limit. A server that accepts connections and never answers would otherwise
hold its callers for minutes, and one that sends a byte now and then for ever.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict

import fsspec
from fsspec.asyn import get_loop

from cluster.errors import Conflict, Corrupt, NotFound, OutcomeUnknown, Unavailable
from cluster.logs.events import EventLog
from cluster.store.paths import checked_path
from cluster.store.stored_object import StoredObject

log = EventLog(__name__)

_S3_TIMEOUTS: Mapping[str, object] = {
    "connect_timeout": 2,
    "read_timeout": 4,
    # Also after an error of the server's own, such as a 503.
    "retries": {"mode": "standard", "total_max_attempts": 3},
}
"""Time limits of one attempt, in seconds; `read_timeout` is for the silence between two packets."""
_S3_PARTS_MAX = 10_000
# The memory file system looks and then writes; one lock for the process makes its create exclusive.
_MEMORY_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferLimits:
    """Sizes of what is moved at once, and the time that it may take."""

    answer_timeout_s: float = 10.0
    """Time for an operation without content, and for the first byte of one with content."""
    bytes_per_s_min: int = 128 * 1024
    """Content that comes or goes more slowly is given up."""
    entry_bytes: int = 2**20
    """Longest object that is read whole: an entry of a log or a manifest. Blobs are read in ranges.
    """
    part_bytes: int = 16 * 2**20
    """Longer files are stored in several requests."""

    def timeout_s(self, moved_bytes: int) -> float:
        return self.answer_timeout_s + moved_bytes / self.bytes_per_s_min


_LIMITS = TransferLimits()


class _S3Object(TypedDict):
    Key: str
    Size: int
    LastModified: datetime


class _S3Prefix(TypedDict):
    Prefix: str


class _S3Page(TypedDict, total=False):
    Contents: list[_S3Object]
    CommonPrefixes: list[_S3Prefix]
    NextContinuationToken: str


class FsspecStore:
    """An ObjectStore on a file system of fsspec whose `mode="create"` is a real put-if-absent.

    On S3 that is `If-None-Match`; `open_store` makes sure. Pickles by address: a copy connects
    anew, so it may travel to other processes.
    """

    def __init__(
        self,
        url: str,
        storage_options: Mapping[str, object] | None = None,
        limits: TransferLimits = _LIMITS,
    ) -> None:
        self.url = url
        self.storage_options = dict(storage_options or {})
        self._limits = limits
        self._protocol = url.partition("://")[0]
        self._is_s3 = self._protocol in ("s3", "s3a")
        self._connect()

    def __repr__(self) -> str:
        # The options are left out: they may hold keys.
        return f"FsspecStore({self.url!r})"

    def __reduce__(
        self,
    ) -> tuple[type[FsspecStore], tuple[str, dict[str, object], TransferLimits]]:
        return FsspecStore, (self.url, self.storage_options, self._limits)

    def get(self, path: str) -> bytes:
        full = self._full(path)
        with _reading(path):
            data: bytes = self._ask("cat_file", full, moved_bytes=self._limits.entry_bytes)
        return data

    def read_range(self, path: str, start: int, length: int) -> bytes:
        full = self._full(path)
        # S3 answers an empty range with an error, or with the whole object.
        if length <= 0:
            return b""
        with _reading(path):
            data: bytes = self._ask(
                "cat_file", full, start=start, end=start + length, moved_bytes=length
            )
        return data

    def put_if_absent(self, path: str, data: bytes) -> None:
        full = self._full(path)
        with _writing(path), self._exclusive():
            self._ask("pipe_file", full, data, mode="create", moved_bytes=len(data))

    def upload_if_absent(self, path: str, source: Path, sha256: str) -> None:
        size_bytes = source.stat().st_size
        if size_bytes <= self._limits.part_bytes or self._protocol == "memory":
            data = source.read_bytes()
            _check_hash(hashlib.sha256(data).hexdigest(), sha256, source, path)
            self.put_if_absent(path, data)
            return
        options = (
            {"chunksize": max(self._limits.part_bytes, math.ceil(size_bytes / _S3_PARTS_MAX))}
            if self._is_s3
            else {}
        )
        full = self._full(path)
        with _writing(path):
            self._ask(
                "put_file",
                str(source),
                full,
                mode="create",
                moved_bytes=size_bytes,
                **options,
            )
        # The parts were read by the client, out of sight: a file that changed meanwhile is found by
        # a second look.
        with source.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != sha256:
            self.remove(path)
        _check_hash(actual, sha256, source, path)

    def put(self, path: str, data: bytes) -> None:
        full = self._full(path)
        with _writing(path), self._exclusive():
            self._ask("pipe_file", full, data, moved_bytes=len(data))

    def exists(self, path: str) -> bool:
        try:
            self.size(path)
        except NotFound:
            return False
        return True

    def size(self, path: str) -> int:
        full = self._full(path)
        with _reading(path):
            info = self._ask("info", full)
        if info["type"] != "file":
            raise NotFound(f"{path} is not in the store")
        return int(info["size"])

    def list_names(self, folder: str, start_after: str | None = None) -> list[str]:
        if self._is_s3:
            names = [stored.name for stored in self._list_s3(folder, start_after)[0]]
        else:
            names = self._list(folder, "file")
        return sorted(name for name in names if start_after is None or name > start_after)

    def list_objects(self, folder: str) -> list[StoredObject]:
        if self._is_s3:
            found = self._list_s3(folder)[0]
        else:
            found = [self._look_at(folder, name) for name in self._list(folder, "file")]
        return sorted(found, key=lambda stored: stored.name)

    def list_folders(self, folder: str) -> list[str]:
        return sorted(self._list_s3(folder)[1] if self._is_s3 else self._list(folder, "directory"))

    def remove(self, path: str) -> None:
        full = self._full(path)
        try:
            with _reading(path):
                self._ask("rm_file", full)
        except NotFound:
            log.debug("store.nothing_to_remove", "{path} was not there to be removed", path=path)

    def _connect(self) -> None:
        options: dict[str, Any] = dict(self.storage_options)
        if self._is_s3:
            # Another process's objects must be seen at once, and a transfer holds at most 4 parts
            # in memory.
            options["use_listings_cache"] = False
            options.setdefault("max_concurrency", 4)
            options.setdefault("default_block_size", self._limits.part_bytes)
            options["config_kwargs"] = {**_S3_TIMEOUTS, **options.get("config_kwargs", {})}
        self._filesystem, root = fsspec.core.url_to_fs(self.url, **options)
        self._root = str(root).rstrip("/")
        self._pid = os.getpid()

    @property
    def _fs(self) -> Any:
        # An asynchronous file system does not survive a fork: its event loop runs in a thread of
        # the parent.
        if self._pid != os.getpid():
            self._connect()
        return self._filesystem

    def _ask(self, method: str, *args: object, moved_bytes: int = 0, **options: Any) -> Any:
        """Calls a method of the file system; raises TimeoutError when it takes too long, with
        so much content that comes or goes.
        """
        limit_s = self._limits.timeout_s(moved_bytes)
        fs = self._fs
        # By fsspec's convention. What is not asynchronous is in this process's memory, or brings
        # limits of its own.
        asynchronous = getattr(fs, f"_{method}", None) if fs.async_impl else None
        if asynchronous is None:
            return getattr(fs, method)(*args, **options)
        call = asynchronous(*args, **options)
        asked = asyncio.run_coroutine_threadsafe(asyncio.wait_for(call, limit_s), get_loop())
        try:
            return asked.result()
        except TimeoutError as error:
            raise TimeoutError(f"no answer within {limit_s:.0f} s") from error

    def _exclusive(self) -> AbstractContextManager[object]:
        return _MEMORY_LOCK if self._protocol == "memory" else nullcontext()

    def _full(self, path: str) -> str:
        return f"{self._root}/{checked_path(path)}"

    def _list(self, folder: str, kind: str) -> list[str]:
        full = self._full(folder)
        try:
            with _reading(folder):
                self._fs.invalidate_cache(full)
                entries = self._ask("ls", full, detail=True)
        except NotFound:
            return []
        return [
            entry["name"].rstrip("/").rpartition("/")[2]
            for entry in entries
            if entry["type"] == kind
        ]

    def _look_at(self, folder: str, name: str) -> StoredObject:
        path = f"{folder}/{name}"
        size_bytes = self.size(path)
        with _reading(path):
            modified = self._ask("modified", self._full(path))
        return StoredObject(name=name, size_bytes=size_bytes, modified_ms=_wall_ms(modified))

    def _list_s3(
        self, folder: str, start_after: str | None = None
    ) -> tuple[list[StoredObject], list[str]]:
        """Objects and names of folders, asked of S3 itself.

        fsspec knows no start of a listing; with it, the tail of a long log stays cheap.
        """
        bucket, _, prefix = (self._full(folder) + "/").partition("/")
        request: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"}
        if start_after is not None:
            request["StartAfter"] = prefix + start_after
        objects: list[StoredObject] = []
        folders: list[str] = []
        while True:
            with _reading(folder):
                page: _S3Page = self._ask("call_s3", "list_objects_v2", **request)
            objects += [
                StoredObject(
                    name=entry["Key"].removeprefix(prefix),
                    size_bytes=entry["Size"],
                    modified_ms=_wall_ms(entry["LastModified"]),
                )
                for entry in page.get("Contents", [])
            ]
            folders += [
                entry["Prefix"].removeprefix(prefix).rstrip("/")
                for entry in page.get("CommonPrefixes", [])
            ]
            token = page.get("NextContinuationToken")
            if not token:
                # Consoles make an empty object for a "folder": its name is the prefix itself.
                return [stored for stored in objects if stored.name], folders
            request["ContinuationToken"] = token


def _wall_ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _check_hash(actual: str, expected: str, source: Path, path: str) -> None:
    if actual != expected:
        raise Corrupt(f"{source.name} changed while it was being stored as {path}")


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound(f"{path} is not in the store") from error
    except Exception as error:  # each file system brings exceptions of its own
        raise Unavailable(f"cannot read {path}: {error}") from error


@contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each file system brings exceptions of its own
        code = _s3_error_code(error)
        if isinstance(error, FileExistsError) or code in ("PreconditionFailed", "412"):
            raise Conflict(f"{path} exists already") from error
        # Even a clear refusal may answer a repeated request whose first sending has landed.
        raise OutcomeUnknown(f"{path} may or may not have been written: {error}") from error


def _s3_error_code(error: Exception) -> str | None:
    """The code in the S3 reply behind an error of s3fs, if there was a reply.

    Some stores leave out the condition by which s3fs tells a refused create.
    """
    response = getattr(error.__cause__, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None
