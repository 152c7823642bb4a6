"""Which mutations of one document count when several regions have written it.

What is kept of a document's mutations depends on which of them there are, never on the order in
which they arrived, or how often: merging is commutative, associative and idempotent. So regions
that have read the same logs hold the same documents.

- `last_writer`: the latest one by its hybrid time.
- `timestamp`: the one with the latest time of the caller; of equal ones the latest by hybrid time.
  Where the caller has given no time, the wall clock of the hybrid time stands for it.
- `version_vector`: all that no other one knew of when it was made. Two that were made without
  knowledge of each other stay side by side until a later one, which has seen both, replaces them.
- `manual`: the same, and a person makes that later one.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Mutation

Versions = tuple[Mutation, ...]
"""The mutations of one document that are kept, in ascending precedence; the last one is its current
version. Deletes are among them.
"""


class ConflictPolicy(StrEnum):
    """What a corpus does with writes of one document that did not know of each other."""

    LAST_WRITER = "last_writer"
    TIMESTAMP = "timestamp"
    VERSION_VECTOR = "version_vector"
    MANUAL = "manual"

    @property
    def keeps_siblings(self) -> bool:
        return self in (ConflictPolicy.VERSION_VECTOR, ConflictPolicy.MANUAL)


def merged(policy: ConflictPolicy, versions: Versions, mutation: Mutation) -> Versions:
    """What is kept of `versions` and one more mutation of the same document."""
    if any(kept.time == mutation.time for kept in versions):
        return versions
    if policy.keeps_siblings:
        if any(has_seen(kept, mutation.time) for kept in versions):
            return versions
        kept = [version for version in versions if not has_seen(mutation, version.time)]
        return tuple(sorted([*kept, mutation], key=lambda version: version.time))
    if versions and _precedence(policy, mutation) < _precedence(policy, versions[-1]):
        return versions
    return (mutation,)


def has_seen(mutation: Mutation, time: HybridTime) -> bool:
    """Whether the writer of `mutation` had read the document's mutation of that time."""
    return any(seen.region == time.region and seen >= time for seen in mutation.seen)


def seen_of(versions: Iterable[Mutation]) -> tuple[HybridTime, ...]:
    """What a mutation has seen that is made with knowledge of these versions."""
    latest: dict[str, HybridTime] = {}
    for version in versions:
        for time in (*version.seen, version.time):
            latest[time.region] = max(time, latest.get(time.region, time))
    return tuple(latest[region] for region in sorted(latest))


def _precedence(policy: ConflictPolicy, mutation: Mutation) -> tuple[int, HybridTime]:
    if policy is ConflictPolicy.TIMESTAMP and mutation.timestamp_ms is not None:
        return mutation.timestamp_ms, mutation.time
    return mutation.time.wall_ms, mutation.time
