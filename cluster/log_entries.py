"""An entry of the release log as the bytes of an object, with a checksum.

    {"at_ms": ..., "commit_id": ..., "epoch": ..., "kind": "commit", ..., "sha256": "9f86d0..."}

`sha256` is that of the canonical JSON of all other fields. Entries from before there was one are
read without it.
"""

from __future__ import annotations

import hashlib

import orjson
from pydantic import TypeAdapter, ValidationError

from cluster.errors import LogUnreadable
from cluster.releases import LogEntry, entry_path

_CHECKSUM = "sha256"
_ENTRY: TypeAdapter[LogEntry] = TypeAdapter(LogEntry)


def entry_bytes(entry: LogEntry) -> bytes:
    """What is stored of an entry."""
    fields = {**entry.model_dump(mode="json"), _CHECKSUM: entry.digest()}
    return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)


def parse_entry(data: bytes | str, *, position: int) -> LogEntry:
    """Raises LogUnreadable when the bytes at `position` of the log are no entry that this version
    of Raygion knows.
    """
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise damaged(position, f"is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise damaged(position, "is no JSON object")
    checksum = fields.pop(_CHECKSUM, None)
    if checksum is not None and checksum != _checksum_of(fields):
        raise damaged(position, "does not have the content that its checksum says")
    try:
        return _ENTRY.validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
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


def _checksum_of(fields: dict[str, object]) -> str:
    return hashlib.sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)).hexdigest()
