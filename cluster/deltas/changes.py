"""Changes of documents on their way from the region's fold to the processes that search.

The actor that follows the logs of a corpus numbers what changes in its fold: version 1, 2, 3... of
one epoch. Every process that searches takes the changes in by that order, and so passes through the
same versions. An epoch ends with the process that numbered it, or when changes that all bases hold
are dropped; what follows then begins with everything anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.deltas.packed import PackedContents
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Content
from cluster.mutations.watermark import Watermark


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentChange:
    """A document as it is from a version on, whatever it was before in the base or the delta."""

    document: str
    time: HybridTime
    """The version of the document, as its readers know it."""
    content: Content | None
    """None: the document is deleted."""
    since: int
    """The first version of the epoch in which it is not as the base has it. Who jumps over versions
    knows by it what they hid.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The changes that lead from one version of an epoch to a later one, or from nothing to it."""

    epoch: str
    after: int
    """The version that they follow; 0: they hold everything that is beyond the base."""
    version: int
    """The version that they lead to."""
    watermark: Watermark
    """How far the logs had been read at that version."""
    read_ms: int
    """Wall clock before the last reading of all regions' logs that was complete; 0 before one was.
    It grows without a new version while nobody writes.
    """
    changes: tuple[DocumentChange, ...]
    """At most one of each document: its latest."""

    def __reduce__(self) -> tuple[Callable[..., Changes], tuple[Any, ...]]:
        head = (self.epoch, self.after, self.version, self.watermark, self.read_ms)
        columns = (
            [change.document for change in self.changes],
            [(c.time.wall_ms, c.time.counter, c.time.region) for c in self.changes],
            [change.since for change in self.changes],
        )
        contents = PackedContents.of([change.content for change in self.changes])
        return _unpacked, (head, columns, contents)

    def follow(self, epoch: str, version: int) -> bool:
        """Whether they lead on from that version, or are everything."""
        return self.after == 0 or (self.epoch, self.after) == (epoch, version)


def _unpacked(
    head: tuple[str, int, int, Watermark, int],
    columns: tuple[list[str], list[tuple[int, int, str]], list[int]],
    contents: PackedContents,
) -> Changes:
    epoch, after, version, watermark, read_ms = head
    changes = tuple(
        DocumentChange(document=document, time=HybridTime(*time), content=content, since=since)
        for document, time, since, content in zip(*columns, contents.contents(), strict=True)
    )
    return Changes(
        epoch=epoch,
        after=after,
        version=version,
        watermark=watermark,
        read_ms=read_ms,
        changes=changes,
    )
