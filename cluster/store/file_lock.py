"""Locks that the processes of a machine have on files.

The locks are the kernel's: those of a killed process are released.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def locked(path: Path) -> Iterator[BinaryIO]:
    """The file, made if need be, for this caller alone; waits for others."""
    with path.open("ab+") as file:
        lock(file)
        yield file


def lock(file: BinaryIO) -> None:
    """Waits until nobody else has the lock. The lock ends when the file is closed."""
    fcntl.flock(file, fcntl.LOCK_EX)


def try_lock(file: BinaryIO) -> bool:
    """Locks the file as `lock` does, but does not wait; False when somebody else has the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
