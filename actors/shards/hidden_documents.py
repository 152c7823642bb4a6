"""The documents of a base that changes have replaced, in the indexes that a replica has open.

Changes come by themselves, and indexes are opened and unloaded beside them. A search names an epoch
and a version; a state of an old epoch stays for the searches that began with it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from actors.shards.index import ShardIndex
from cluster.arrays import Mask
from cluster.deltas.changes import Changes
from cluster.deltas.hidden_rows import HiddenRows, HidingChange, hiding_changes
from cluster.deltas.space import Space
from cluster.errors import Unavailable
from cluster.query.search import DocumentsSeen

_EPOCHS_MAX = 8
"""Epochs that are remembered: what serves while others are read anew must not go."""


@dataclass(slots=True)
class _Epoch:
    version: int = 0
    changes: dict[str, HidingChange] = field(default_factory=dict)
    """The changes of all documents, for indexes that are opened later."""
    rows: dict[ShardIndex, HiddenRows] = field(default_factory=dict)

    def take(self, changes: Changes) -> None:
        hiding = hiding_changes(changes)
        for change in hiding:
            known = self.changes.get(change.document)
            if known is None or known.seen != change.seen:
                self.changes[change.document] = change
        for rows in self.rows.values():
            rows.take(hiding, changes.version)
        self.version = changes.version

    def open(self, index: ShardIndex) -> None:
        rows = HiddenRows(index.num_rows, index.rows_of_document)
        rows.take(self.changes.values(), self.version)
        self.rows[index] = rows


class HiddenDocuments:
    """Thread-safe. An index is known by its files, whatever was deleted from them."""

    def __init__(self) -> None:
        self._epochs: OrderedDict[str, _Epoch] = OrderedDict()
        self._indexes: set[ShardIndex] = set()
        self._lock = threading.Lock()

    def take(self, changes: Changes) -> None:
        """Takes in the changes that follow those of their epoch, or everything.

        Costs some 50 us for each document and index. Raises ValueError for changes that do not
        follow.
        """
        with self._lock:
            epoch = self._epochs.get(changes.epoch)
            if changes.after == 0:
                epoch = _Epoch()
                for index in self._indexes:
                    epoch.open(index)
            elif epoch is None or epoch.version != changes.after:
                raise ValueError(f"changes from version {changes.after} on do not follow")
            epoch.take(changes)
            self._epochs[changes.epoch] = epoch
            if len(self._epochs) > _EPOCHS_MAX:
                self._epochs.popitem(last=False)

    def open(self, index: ShardIndex) -> None:
        """Knows from now on which rows of this index are hidden."""
        with self._lock:
            if index not in self._indexes:
                self._indexes.add(index)
                for epoch in self._epochs.values():
                    epoch.open(index)

    def close(self, index: ShardIndex) -> None:
        """Forgets the index."""
        with self._lock:
            self._indexes.discard(index)
            for epoch in self._epochs.values():
                epoch.rows.pop(index, None)

    def have_reached(self, seen: DocumentsSeen) -> bool:
        """Whether searches can be answered that see these documents."""
        epoch = self._epochs.get(seen.epoch)
        return epoch is not None and epoch.version >= seen.version

    def live_rows(self, index: ShardIndex, seen: DocumentsSeen) -> Mask | None:
        """bool [rows of the index], false where a row is hidden; None where none is. Raises
        Unavailable where that is not known.
        """
        epoch = self._epochs.get(seen.epoch)
        rows = None if epoch is None or epoch.version < seen.version else epoch.rows.get(index)
        if rows is None:
            raise Unavailable("this shard does not have the documents yet that the search sees")
        return rows.live_at(seen.version, Space(seen.embedder, index.dimension))
