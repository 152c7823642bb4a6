"""Which documents go to which shard, and which replica runs on which node. Pure and stable."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def shard_of(document_id: str, num_shards: int) -> int:
    """The shard of a document: consistent hashing, so that few documents move when shards are
    added.

    Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm" (2014).
    """
    assert num_shards >= 1
    key = int.from_bytes(hashlib.blake2b(document_id.encode(), digest_size=8).digest())
    bucket, candidate = -1, 0
    while candidate < num_shards:
        bucket = candidate
        key = (key * 2862933555777941757 + 1) & 0xFFFF_FFFF_FFFF_FFFF
        candidate = int((bucket + 1) * (1 << 31) / ((key >> 33) + 1))
    return bucket


def node_of(shard: int, replica: int, node_ids: Sequence[str]) -> str:
    """The node on which a replica should run.

    The replicas of one shard are on nodes of their own as long as there are enough nodes, and every
    node gets its even share.
    """
    assert node_ids
    return sorted(node_ids)[(shard + replica) % len(node_ids)]
