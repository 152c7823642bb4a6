"""What one process has taken in of the live documents of a corpus, for all releases that it serves.

A new epoch begins with everything anew, and may at first know less than what is served: its actor
is still reading the logs. So it serves from the moment on at which it has come as far, and until
then what served before does.
"""

from __future__ import annotations

from collections.abc import Set
from typing import TypeAlias

from cluster.deltas.changes import Changes
from cluster.deltas.delta import Delta, DeltaView
from cluster.deltas.space import Space
from cluster.mutations.requests import DocumentsPosition
from cluster.vectors.metric import Metric

DeltaKey: TypeAlias = tuple[Space, Metric]
"""The vectors that a release compares, and how."""


class CorpusDeltas:
    """One thread at a time may take changes in, beside any that look at views."""

    def __init__(self) -> None:
        self._serving: _Epoch | None = None
        self._coming: _Epoch | None = None

    @property
    def position(self) -> DocumentsPosition | None:
        """How far that has come which serves; None before the first changes. It never goes back."""
        return None if self._serving is None else self._serving.position

    def view(self, key: DeltaKey) -> DeltaView | None:
        """None where nothing has been taken in for it."""
        return None if self._serving is None else self._serving.view(key)

    def take(self, changes: Changes, keys: Set[DeltaKey]) -> None:
        """Takes in the changes that follow those of the last call, or everything. `keys`: what
        everything is taken in for.

        Raises ValueError for changes that do not follow.
        """
        if changes.after == 0:
            self._coming = _Epoch(keys)
        epoch = self._coming or self._serving
        if epoch is None:
            raise ValueError("changes come before everything else has")
        epoch.take(changes)
        if self._serving is None or self._serving.position.watermark <= changes.watermark:
            self._serving, self._coming = epoch, None

    def has_read(self, position: DocumentsPosition) -> None:
        """All logs had been read to their ends at this position, at its `read_ms`."""
        own = self.position
        if own is not None and position.watermark <= own.watermark:
            same = Changes(
                epoch=own.epoch,
                after=own.version,
                version=own.version,
                watermark=own.watermark,
                read_ms=max(own.read_ms, position.read_ms),
                changes=(),
            )
            assert self._serving is not None
            self._serving.take(same)


class _Epoch:
    def __init__(self, keys: Set[DeltaKey]) -> None:
        self._deltas = {key: Delta(*key) for key in keys}
        self.position: DocumentsPosition

    def view(self, key: DeltaKey) -> DeltaView | None:
        delta = self._deltas.get(key)
        return None if delta is None else delta.view

    def take(self, changes: Changes) -> None:
        for delta in self._deltas.values():
            delta.take(changes)
        self.position = DocumentsPosition(
            epoch=changes.epoch,
            version=changes.version,
            watermark=changes.watermark,
            read_ms=changes.read_ms,
        )
