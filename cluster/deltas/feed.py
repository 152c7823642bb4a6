"""Numbers the changes of a corpus's documents, so that all processes of a region pass through the
same versions.

Of each document the feed keeps its latest change alone, in the order of the versions. So it holds
what a process without any state needs, and at its end what one lacks that has come to a version; no
history is needed beside it, and its size is that of the documents that it is about.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile

from cluster.deltas.changes import Changes, DocumentChange
from cluster.mutations.conflicts import Versions
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.requests import DocumentsPosition
from cluster.mutations.watermark import HeldMutations, Watermark

_MARKS_MAX = 10_000
"""Versions of which the watermark is known, the latest ones."""


@dataclass(frozen=True, slots=True)
class _Entry:
    version: int
    """The version in which the document has changed last."""
    since: int
    """The version in which it has changed first."""
    kept: Versions
    num_rows: int
    size_bytes: int


class Feed:
    """The changes of one corpus since its bases. Not thread-safe."""

    def __init__(self, new_epoch: Callable[[], str]) -> None:
        """`new_epoch`: gives a name that no epoch has had."""
        self._new_epoch = new_epoch
        self._entries: dict[str, _Entry] = {}
        """By document, in ascending order of the versions."""
        self._held = HeldMutations()
        """The mutations that all bases hold."""
        self._latest = HeldMutations()
        """The mutations that one base or another holds."""
        self._marks: deque[tuple[int, Watermark]] = deque(maxlen=_MARKS_MAX)
        self.position = DocumentsPosition(
            epoch=new_epoch(), version=0, watermark=Watermark(), read_ms=0
        )
        self.num_rows = 0
        """Rows that the documents have in memory: one of each passage, and one of a delete."""
        self.size_bytes = 0
        """Bytes of the documents, nearly."""
        self.unheld_rows = self.unheld_bytes = 0
        """Those of documents that no base holds: all others go with the bases that lack them."""

    def take(self, changed: Mapping[str, Versions], watermark: Watermark) -> None:
        """Takes in what is kept of the documents that have changed on the way to the watermark, as
        `DocumentFold.take_changed` tells it. The watermark is never behind the last one.

        What is known already, as when a fold has started anew, is no change, nor is what all bases
        hold.
        """
        news = {
            document: kept
            for document, kept in changed.items()
            if _times(kept) != _times(self.versions(document))
            and (document in self._entries or not _are_in(self._held, kept))
        }
        if not news and watermark == self.position.watermark:
            return
        version = self.position.version + 1
        for document, kept in news.items():
            known = self._forget(document)
            since = version if known is None else known.since
            self._add(document, _entry(version, since, kept))
        self.position = replace(self.position, version=version, watermark=watermark)
        self._marks.append((version, watermark))

    def has_read(self, read_ms: int) -> None:
        """All regions' logs had been read to their ends by a reading that began at this moment of
        the wall clock.
        """
        self.position = replace(self.position, read_ms=max(read_ms, self.position.read_ms))

    def hold(self, held: HeldMutations, latest: HeldMutations) -> None:
        """All bases hold the mutations of `held`: a document of which no other one is kept is no
        change. Begins a new epoch if there were such changes. One of the bases holds `latest`.
        """
        self._held, self._latest = held, latest
        dropped = [d for d, entry in self._entries.items() if _are_in(held, entry.kept)]
        unheld = [e for e in self._entries.values() if not _are_in(latest, e.kept)]
        self.unheld_rows = sum(entry.num_rows for entry in unheld)
        self.unheld_bytes = sum(entry.size_bytes for entry in unheld)
        if not dropped:
            return
        for document in dropped:
            self._forget(document)
        self._entries = {
            d: replace(entry, version=1, since=1) for d, entry in self._entries.items()
        }
        self.position = replace(self.position, epoch=self._new_epoch(), version=1)
        self._marks.clear()
        self._marks.append((1, self.position.watermark))

    def is_news(self, epoch: str, version: int) -> bool:
        """Whether there is more than that version of that epoch."""
        return (epoch, version) != (self.position.epoch, self.position.version)

    def since(self, epoch: str, version: int) -> Changes:
        """What leads from that version to the present one: everything, if it is none of this
        epoch.
        """
        position = self.position
        after = version if epoch == position.epoch and version <= position.version else 0
        newest_first = takewhile(
            lambda item: item[1].version > after, reversed(self._entries.items())
        )
        changes = [_change(document, entry) for document, entry in newest_first]
        return Changes(
            epoch=position.epoch,
            after=after,
            version=position.version,
            watermark=position.watermark,
            read_ms=position.read_ms,
            changes=tuple(reversed(changes)),
        )

    def version_at(self, watermark: Watermark) -> int:
        """The latest version that a state with this watermark has come to: what changed later may
        be news to it, and nothing else is. 0 where that is not known.
        """
        reached = (version for version, mark in reversed(self._marks) if mark <= watermark)
        return next(reached, 0)

    def versions(self, document: str) -> Versions:
        """What is kept of the document, its delete included; nothing where no change is known."""
        entry = self._entries.get(document)
        return () if entry is None else entry.kept

    def _add(self, document: str, entry: _Entry) -> None:
        self._entries[document] = entry
        self._count(entry, 1)

    def _forget(self, document: str) -> _Entry | None:
        entry = self._entries.pop(document, None)
        if entry is not None:
            self._count(entry, -1)
        return entry

    def _count(self, entry: _Entry, sign: int) -> None:
        self.num_rows += sign * entry.num_rows
        self.size_bytes += sign * entry.size_bytes
        if not _are_in(self._latest, entry.kept):
            self.unheld_rows += sign * entry.num_rows
            self.unheld_bytes += sign * entry.size_bytes


def _are_in(held: HeldMutations, kept: Versions) -> bool:
    return all(mutation in held for mutation in kept)


def _entry(version: int, since: int, kept: Versions) -> _Entry:
    contents = [mutation.content for mutation in kept if mutation.content is not None]
    return _Entry(
        version,
        since,
        kept,
        num_rows=max(1, sum(len(content.cuts or ()) for content in contents)),
        size_bytes=sum(content.size_bytes for content in contents),
    )


def _times(kept: Versions) -> list[HybridTime]:
    """What tells mutations apart, more cheaply than their contents."""
    return [mutation.time for mutation in kept]


def _change(document: str, entry: _Entry) -> DocumentChange:
    current = entry.kept[-1]
    return DocumentChange(
        document=document, time=current.time, content=current.content, since=entry.since
    )
