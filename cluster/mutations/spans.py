"""Spans: what many objects of a log come to, as one object, so that a start reads few of them.

The log of a region is divided into blocks of 32 objects, 32 such blocks are a block of the next
level, and so on. A span is the batch of a whole block, without the mutations that later ones of the
block replace; of those, the ones whose idempotency keys are still known stay. It follows from the
block's objects alone, so it does not matter who stores it, or whether anybody does: a reader that
finds none reads the smaller blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.mutations.batch import Batch
from cluster.mutations.conflicts import ConflictPolicy, Versions, merged
from cluster.mutations.recent_keys import KEY_KEPT_MS

FANOUT = 32
LEVELS_MAX = 4
"""The blocks of the last level have 32**4 objects, more than a million."""


@dataclass(frozen=True, slots=True)
class Block:
    """The positions from `first` to `last` of one region's log; one alone on level 0."""

    level: int
    first: int
    last: int

    def parts(self, fanout: int) -> list[Block]:
        """The blocks of the level below."""
        size = (self.last - self.first + 1) // fanout
        firsts = range(self.first, self.last + 1, size)
        return [Block(self.level - 1, first, first + size - 1) for first in firsts]


def cover(after: int, last: int, fanout: int = FANOUT) -> Iterator[Block]:
    """The largest blocks that together have the positions after `after` up to `last`."""
    while after < last:
        level = 0
        while level < LEVELS_MAX and _fits(after, last, fanout ** (level + 1)):
            level += 1
        block = Block(level, after + 1, after + fanout**level)
        yield block
        after = block.last


def blocks_ending_at(position: int, fanout: int = FANOUT) -> list[Block]:
    """The blocks of level 1 and above whose last position this is, the smallest first."""
    sizes = [(level, fanout**level) for level in range(1, LEVELS_MAX + 1)]
    return [
        Block(level, position - size + 1, position) for level, size in sizes if not position % size
    ]


def span_of(policy: ConflictPolicy, batches: Sequence[Batch]) -> Batch:
    """The span of batches that follow each other without a gap in the log of one region."""
    mutations = [mutation for batch in batches for mutation in batch.mutations]
    kept: dict[str, Versions] = {}
    for mutation in mutations:
        kept[mutation.document] = merged(policy, kept.get(mutation.document, ()), mutation)
    needed = {version.time for versions in kept.values() for version in versions}
    keys_from_ms = mutations[-1].time.wall_ms - KEY_KEPT_MS if mutations else 0
    return Batch(
        corpus=batches[0].corpus,
        region=batches[0].region,
        first=batches[0].first,
        last=batches[-1].last,
        mutations=tuple(
            mutation
            for mutation in mutations
            if mutation.time in needed
            or (mutation.key is not None and mutation.time.wall_ms >= keys_from_ms)
        ),
    )


def _fits(after: int, last: int, size: int) -> bool:
    return after % size == 0 and after + size <= last
