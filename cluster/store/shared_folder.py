"""Decides by its file system whether a folder can be the store of several machines.

A client of a network file system answers much from what it remembers. NFS by default: for up to a
minute it goes on saying that a name does not exist which another machine has created, and lists a
folder as it was (nfs(5), "Data and metadata coherence"). The store promises that what was
acknowledged is seen at once (`cluster.store.object_store`); session, strong and staleness rest on
that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import InvalidArgument

MOUNTS = Path("/proc/self/mounts")
_NFS = frozenset({"nfs", "nfs4"})
_FROM_MEMORY = frozenset(
    {"cifs", "smb3", "fuse.sshfs", "fuse.rclone", "fuse.s3fs", "fuse.gcsfuse", "fuse.davfs"}
)
"""File systems whose clients answer from what they remember, whatever they are told."""


@dataclass(frozen=True, slots=True)
class _Mount:
    folder: Path
    kind: str
    options: Mapping[str, str]


def check_shared_folder(folder: Path, mounts: str) -> None:
    """Raises InvalidArgument (field `store.url`) when machines that share the folder would not see
    at once what the others write.

    mounts: this machine's mounts, as in /proc/self/mounts.
    """
    found = _mount_of(folder, mounts)
    if found is None:
        return
    if found.kind in _NFS and not _asks_the_server(found.options):
        raise InvalidArgument(
            f"{folder} is on NFS ({found.folder}), whose client keeps what it has seen for up to a "
            "minute, so that regions would miss what the others have written; mount it with the "
            "option `noac`, or with `lookupcache=none,acdirmin=0,acdirmax=0`, on every machine",
            "store.url",
        )
    if found.kind in _FROM_MEMORY:
        raise InvalidArgument(
            f"{folder} is on {found.kind} ({found.folder}), whose client answers from what it has "
            "seen, so that regions would miss what the others have written; take a bucket on S3, "
            "or NFS mounted with the option `noac`",
            "store.url",
        )


def _asks_the_server(options: Mapping[str, str]) -> bool:
    names_are_asked = options.get("lookupcache") == "none" and options.get("acdirmax") == "0"
    return "noac" in options or names_are_asked


def _mount_of(folder: Path, mounts: str) -> _Mount | None:
    """The mount that the folder is on: the innermost, and of one place the last."""
    best: _Mount | None = None
    for mount in map(_parsed, mounts.splitlines()):
        if folder.is_relative_to(mount.folder) and (
            best is None or len(mount.folder.parts) >= len(best.folder.parts)
        ):
            best = mount
    return best


def _parsed(line: str) -> _Mount:
    _, folder, kind, options = line.split(" ")[:4]
    named = (option.partition("=") for option in options.split(","))
    return _Mount(Path(_unescaped(folder)), kind, {name: value for name, _, value in named})


def _unescaped(text: str) -> str:
    """The kernel writes blanks, tabs, line ends and backslashes as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
