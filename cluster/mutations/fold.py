"""The documents that the logs of all regions come to, and a digest by which regions compare them.

A fold over batches, in the order of each region's log and in any order between regions. All folds
that have come to one watermark hold the same versions, and so the same digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator

from cluster.mutations.batch import Batch
from cluster.mutations.conflicts import ConflictPolicy, Versions, merged
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Mutation
from cluster.mutations.watermark import HeldMutations, Watermark

_DIGEST_MODULUS = 2**256


class DocumentFold:
    """The state of one corpus's documents at a watermark. Not thread-safe."""

    def __init__(self, policy: ConflictPolicy) -> None:
        self.policy = policy
        self._versions: dict[str, Versions] = {}
        self._positions: dict[str, int] = {}
        self._times: dict[str, HybridTime] = {}
        self._digest = 0
        self._shares: dict[str, int] = {}
        """What each document adds to the digest."""
        self._changed: dict[str, Versions] = {}

    @property
    def watermark(self) -> Watermark:
        return Watermark.of(self._positions)

    @property
    def digest(self) -> str:
        """Sum of the hashes of all live versions, in hex: it does not depend on their order, and
        follows from the one before by what has changed. Equal for equal documents alone, but for
        chance and for whoever makes up documents to that end.
        """
        return f"{self._digest:064x}"

    def versions(self, document: str) -> Versions:
        """What is kept of the document: nothing where it is unknown, or its delete forgotten."""
        return self._versions.get(document, ())

    def live(self) -> Iterator[Mutation]:
        """All versions that are no deletes: siblings, too, where the policy keeps them."""
        return (v for kept in self._versions.values() for v in kept if v.content is not None)

    def kept(self) -> Iterator[Mutation]:
        """All versions that are kept, deletes among them."""
        return (version for kept in self._versions.values() for version in kept)

    def current(self) -> Iterator[Mutation]:
        """The current version of each document that is known, whether it is a delete or not."""
        return (kept[-1] for kept in self._versions.values())

    def conflicts(self) -> Iterator[str]:
        """The documents with more than one version."""
        return (document for document, kept in self._versions.items() if len(kept) > 1)

    def position(self, region: str) -> int:
        """The last position of this region's log that has been applied."""
        return self._positions.get(region, 0)

    def latest_time(self, region: str) -> HybridTime | None:
        """The latest time in this region's log, as far as it has been applied."""
        return self._times.get(region)

    def apply(self, batch: Batch) -> bool:
        """Takes the batch in, if it is the next one of its region's log.

        True when the state holds it now, or did already. False when batches before it are missing:
        then nothing has changed, and they have to be read from the log.
        """
        position = self.position(batch.region)
        if batch.last <= position:
            return True
        if batch.first != position + 1:
            return False
        for mutation in batch.mutations:
            self._merge(mutation)
        self._positions[batch.region] = batch.last
        if batch.mutations:
            self._times[batch.region] = batch.mutations[-1].time
        return True

    @property
    def taken(self) -> HeldMutations:
        """The mutations up to the watermark."""
        return HeldMutations(dict(self._times))

    def take_changed(self) -> dict[str, Versions]:
        """The documents of which other versions are kept than at the last call, in the order of
        their last change, and what is kept of them.
        """
        changed, self._changed = self._changed, {}
        return changed

    def stable_time(self, regions: Collection[str]) -> HybridTime | None:
        """The time before which none of these regions can write any more, since the log of each
        has come so far; None while one has written nothing.
        """
        times = [self._times.get(region) for region in regions]
        known = [time for time in times if time is not None]
        return min(known) if known and len(known) == len(times) else None

    def forget_deletes(self, stable: HybridTime) -> int:
        """Drops deletes up to `stable`, which is what `stable_time` says of all regions that may
        write; returns how many.

        Until then a delete has to be kept: an older upsert of a region that is behind would bring
        the document back. Only where the last writer counts: by another policy a later mutation may
        still be one that the delete takes precedence over.
        """
        if self.policy is not ConflictPolicy.LAST_WRITER:
            return 0
        old = [
            document
            for document, kept in self._versions.items()
            if kept[-1].content is None and kept[-1].time <= stable
        ]
        for document in old:
            del self._versions[document], self._shares[document]
        return len(old)

    def _merge(self, mutation: Mutation) -> None:
        before = self._versions.get(mutation.document, ())
        after = merged(self.policy, before, mutation)
        if after is before:
            return
        self._versions[mutation.document] = after
        self._changed.pop(mutation.document, None)
        self._changed[mutation.document] = after
        share, old_share = _sum(after), self._shares.get(mutation.document, 0)
        self._shares[mutation.document] = share
        self._digest = (self._digest - old_share + share) % _DIGEST_MODULUS


def digest_of(versions: Iterable[Mutation]) -> str:
    """The digest of these versions from scratch, with which a state can be checked."""
    return f"{_sum(versions):064x}"


def _sum(versions: Iterable[Mutation]) -> int:
    return sum(_hash(version) for version in versions) % _DIGEST_MODULUS


def _hash(version: Mutation) -> int:
    if version.content is None:
        return 0
    document, time = version.document.encode(), str(version.time).encode()
    head = len(document).to_bytes(8, "little") + document + version.content.digest() + time
    return int.from_bytes(hashlib.sha256(head).digest(), "little")
