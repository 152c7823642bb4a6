"""A slow disk, made by the kernel: the block layer throttles what the cluster's processes read.

Only what is not in memory is slow, as on a real machine whose disk is tired: files that are mapped
stay quick, and those that are read for the first time crawl. Needs the right to make a cgroup (v1,
`blkio`), which root has.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CONTROLLER = Path("/sys/fs/cgroup/blkio")
_LIMIT = "blkio.throttle.read_bps_device"


class NoSlowDisk(Exception):
    """This machine does not let the disk be slowed down."""


@contextmanager
def slow_disk(pids: Iterable[int], folder: Path, bytes_per_s: int) -> Iterator[None]:
    """Reads of these processes, and of their later children, from the disk of `folder` are no
    faster while the block runs. Raises NoSlowDisk.
    """
    group = _CONTROLLER / f"raygion-chaos-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        raise NoSlowDisk(f"no cgroup can be made in {_CONTROLLER}: {error.strerror}") from error
    try:
        try:
            (group / _LIMIT).write_text(f"{_whole_disk(folder)} {bytes_per_s}")
        except OSError as error:
            raise NoSlowDisk(f"the disk of {folder} cannot be throttled: {error}") from error
        _move(pids, group)
        yield
    finally:
        _move(map(int, (group / "cgroup.procs").read_text().split()), _CONTROLLER)
        group.rmdir()


def forget(files: Iterable[Path]) -> None:
    """Drops the files from the page cache, so that the next reader waits for the disk."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _whole_disk(folder: Path) -> str:
    device = folder.stat().st_dev
    found = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    # A partition has no queue of its own to throttle.
    disk = found.parent if (found / "partition").exists() else found
    return (disk / "dev").read_text().strip()


def _move(pids: Iterable[int], group: Path) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, OSError):
            (group / "cgroup.procs").write_text(str(pid))
