"""The store: what everything else relies on (`ObjectStore`) and how it is opened (`open_store`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from cluster.clock import SYSTEM_CLOCK
from cluster.errors import Conflict, InvalidArgument, OutcomeUnknown, RaygionError, Unavailable
from cluster.logs.events import EventLog
from cluster.store.fsspec_store import FsspecStore
from cluster.store.local_store import LocalStore
from cluster.store.stored_object import StoredObject

log = EventLog(__name__)

PROBE_WRITERS = 8


class ObjectStore(Protocol):
    """Named, immutable objects. A path is relative, with `/` between its parts.

    What everything above relies on, for all processes and machines that open the same store:

    - atomic visibility: an object is seen whole or not at all, whatever happens to its writer;
    - mutual exclusion: of all `put_if_absent` and `upload_if_absent` of one path, at most one takes
      effect, and the content never changes after that, until it is removed;
    - read after write: an acknowledged object is seen by every read, `exists` and `size` that
      starts afterwards;
    - consistent listing: a listing holds every object acknowledged before it started, and none that
      never existed;
    - durability: an acknowledged object survives the loss of the process and, if the store is not
      on that machine alone, of the machine.

    Failures: NotFound; Conflict, the object exists (it may be the caller's own: below the store,
    clients send a request again after a lost reply, so a caller that needs to know reads back);
    OutcomeUnknown, the write may have taken effect or may yet; Unavailable, a read that failed or a
    write that certainly took no effect; InvalidArgument for a malformed path. Methods block, with
    a time limit if the store is on another machine, and may be called from several threads.
    """

    def get(self, path: str) -> bytes: ...

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Bytes from `start` on, as many as asked for or up to the object's end."""
        ...

    def put_if_absent(self, path: str, data: bytes) -> None: ...

    def upload_if_absent(self, path: str, source: Path, sha256: str) -> None:
        """Stores a local file of any size.

        Raises Corrupt, and leaves nothing, when the bytes read from it have not the given hash.
        """
        ...

    def put(self, path: str, data: bytes) -> None:
        """Replaces what is there, atomically.

        Only for states that are told again and again, such as heartbeats.
        """
        ...

    def exists(self, path: str) -> bool: ...

    def size(self, path: str) -> int:
        """Bytes of the object."""
        ...

    def list_names(self, folder: str, start_after: str | None = None) -> list[str]:
        """Sorted names of the objects right inside `folder`, only those after `start_after`."""
        ...

    def list_objects(self, folder: str) -> list[StoredObject]:
        """The objects right inside `folder`, sorted by name."""
        ...

    def list_folders(self, folder: str) -> list[str]:
        """Sorted names of the folders right inside `folder`."""
        ...

    def remove(self, path: str) -> None:
        """Takes an object away; one that is not there is fine.

        Only for what is collected when nobody names it any more, and for the marks of that: see
        `cluster.releases.garbage`. Unavailable when it may still be there.
        """
        ...


def open_store(url: str, storage_options: Mapping[str, object] | None = None) -> ObjectStore:
    """Opens the store at an fsspec address or a local path; proves that put-if-absent is real.

    Raises InvalidArgument (field `store`) for an address that cannot be a store or a store that
    lets two writers create one object, Unavailable when the store does not answer. Costs some ten
    small requests; the store that is returned pickles, so that one process may open it for many.
    """
    store = _connect(url, storage_options)
    try:
        _probe_in_turn(store)
        _probe_at_once(store)
    except OutcomeUnknown as error:
        if isinstance(error.__cause__, PermissionError | FileNotFoundError | NotImplementedError):
            raise _cannot_be_written(store, error) from error
        raise Unavailable(f"the store {url} does not answer: {error.message}") from error
    return store


def local_folder(url: str) -> Path | None:
    """The folder that an address means, if it means one of this machine or of a mount."""
    protocol, separator, rest = url.partition("://")
    if separator and protocol not in ("file", "local"):
        return None
    return Path(rest if separator else url).expanduser()


def _connect(url: str, storage_options: Mapping[str, object] | None) -> LocalStore | FsspecStore:
    if "::" in url:
        raise InvalidArgument(
            f"{url} is a chain of file systems; a store must not be cached", field="store"
        )
    folder = local_folder(url)
    if folder is not None:
        store = LocalStore(folder)
        store.sweep_temp_files(SYSTEM_CLOCK.wall_ms())
        return store
    try:
        return FsspecStore(url, storage_options)
    except (ValueError, ImportError, TypeError) as error:
        raise InvalidArgument(f"cannot open {url}: {error}", field="store") from error


def _probe_in_turn(store: LocalStore | FsspecStore) -> None:
    with _probe_object(store) as path:
        try:
            store.put_if_absent(path, b"first")
        except Unavailable as error:
            raise _cannot_be_written(store, error) from error
        try:
            store.put_if_absent(path, b"second")
        except Conflict:
            if store.get(path) == b"first":
                return
    raise _refusal(store)


def _probe_at_once(store: LocalStore | FsspecStore) -> None:
    """Finds stores that look first and write then: alone they pass, together several win."""

    def create(content: bytes) -> bytes | None:
        try:
            store.put_if_absent(path, content)
        except (Conflict, OutcomeUnknown):
            return None
        return content

    with _probe_object(store) as path, ThreadPoolExecutor(PROBE_WRITERS) as writers:
        contents = [f"writer {number}".encode() for number in range(PROBE_WRITERS)]
        winners = [content for content in writers.map(create, contents) if content is not None]
        if len(winners) > 1 or (winners and store.get(path) != winners[0]):
            raise _refusal(store)


@contextmanager
def _probe_object(store: LocalStore | FsspecStore) -> Iterator[str]:
    path = f"probes/{uuid4().hex}"
    answers = True
    try:
        yield path
    except OutcomeUnknown:
        # It is not waited for once more; at worst a probe of some bytes stays.
        answers = False
        raise
    finally:
        try:
            if answers:
                store.remove(path)
        except RaygionError as error:
            # A policy without the right to delete is a good one: only collecting garbage needs it.
            log.warning(
                "store.probe_stays",
                "the probe object {path} stays in the store: {error}",
                path=path,
                error=error,
            )


def _cannot_be_written(store: LocalStore | FsspecStore, error: RaygionError) -> InvalidArgument:
    return InvalidArgument(f"{store!r} cannot be written: {error.message}", field="store")


def _refusal(store: LocalStore | FsspecStore) -> InvalidArgument:
    return InvalidArgument(
        f"{store!r} lets two writers create the same object, so it cannot hold the release log; "
        "use S3 with conditional writes, or a local or mounted folder",
        field="store",
    )
