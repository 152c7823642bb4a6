"""Paths in the store."""

from __future__ import annotations

from cluster.errors import InvalidArgument

TEMP_FOLDER = ".tmp"
"""Folder of a local store for objects that are being written."""


def is_plain(path: str) -> bool:
    """True when the path is relative, has `/` between its parts, and stays below its folder."""
    return not any(
        part in ("", ".", "..") or "\\" in part or "\0" in part for part in path.split("/")
    )


def checked_path(path: str) -> str:
    """Returns the path of an object if it may be one; else raises InvalidArgument."""
    if not is_plain(path):
        raise InvalidArgument(f"{path!r} is not a plain relative path", field="path")
    if path.split("/", 1)[0] == TEMP_FOLDER:
        raise InvalidArgument(f"{path!r}: the folder {TEMP_FOLDER} is reserved", field="path")
    return path
