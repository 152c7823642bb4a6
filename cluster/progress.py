"""The ways in which work that takes long reports its progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Note = Callable[[str], None]
"""Takes a short remark on what is being done, or on what came of it."""
Count = Callable[[int, int], None]
"""Takes how many are done, and of how many."""


class Progress(Protocol):
    """One step of such work, as somebody watches it."""

    def note(self, text: str) -> None: ...

    def count(self, done: int, total: int) -> None: ...


class _Unseen:
    def note(self, text: str) -> None:
        pass

    def count(self, done: int, total: int) -> None:
        pass


UNSEEN: Progress = _Unseen()
"""For callers that show nothing."""
