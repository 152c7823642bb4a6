"""An entry of the release log as the bytes of an object: canonical JSON, its checksum behind it.

    {"at_ms": ..., "commit_id": ..., "epoch": ..., "kind": "commit", ..., "sha256": "9f86d0..."}

`sha256` is that of the entry without it. Entries from before there was one are read without it.
"""

from __future__ import annotations

import hashlib
import re

from pydantic import TypeAdapter, ValidationError

from cluster.errors import LogUnreadable
from cluster.releases.entries import LogEntry, entry_path

_ENTRY: TypeAdapter[LogEntry] = TypeAdapter(LogEntry)
_CHECKSUM = re.compile(rb',"sha256":"([0-9a-f]{64})"\}')
_CHECKSUM_BYTES = len(b',"sha256":""}') + 64


def entry_bytes(entry: LogEntry) -> bytes:
    """The bytes that are stored for an entry."""
    body = entry.to_bytes()
    return b'%s,"sha256":"%s"}' % (body[:-1], _sha256(body))


def parse_entry(data: bytes, *, position: int) -> LogEntry:
    """Raises LogUnreadable when the bytes at `position` of the log are no entry that this version
    of Raygion knows.
    """
    checksum = _CHECKSUM.fullmatch(data[-_CHECKSUM_BYTES:])
    if checksum is not None:
        data = data[:-_CHECKSUM_BYTES] + b"}"
        if _sha256(data) != checksum[1]:
            raise damaged(position, "does not have the content that its checksum says")
    try:
        return _ENTRY.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        reason = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
        if checksum is None:
            raise damaged(position, f"cannot be read ({reason})") from error
        raise LogUnreadable(
            f"entry {position} of the release log ({entry_path(position)}) was written by a newer "
            f"version of Raygion ({reason}). Bring this region to that version; until then it "
            "serves what it has, and changes nothing",
            position,
        ) from error


def damaged(position: int, what: str) -> LogUnreadable:
    """The error for an entry that is not as it was written."""
    return LogUnreadable(
        f"entry {position} of the release log ({entry_path(position)}) {what}. Regions serve what "
        "they have, and change nothing, until the object is back as it was written: restore it "
        "from a copy of the store, or see `A damaged entry` in docs/operations.md",
        position,
    )


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()
