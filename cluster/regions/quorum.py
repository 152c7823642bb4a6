"""Decides whether a majority of the regions gives the same release and hits, byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cluster.query.search import SearchResult


@dataclass(frozen=True, slots=True)
class Vote:
    """The answer of one region, as far as regions must agree on it."""

    release: int
    hits: bytes
    """Digest of the hits."""


def vote_of(result: SearchResult) -> Vote:
    """The vote covers the ids, the scores as float32, the texts and the order of all hits."""
    digest = hashlib.blake2b(digest_size=16)
    if result.arrays is not None:
        found = result.arrays.rows >= 0
        digest.update(found.sum(axis=1).tobytes())
        digest.update(result.arrays.scores[found].astype("<f4").tobytes())
        digest.update(b"\0".join(result.arrays.ids[found].tolist()))
    for hits in result.results:
        digest.update(b"%d\0" % len(hits))
        digest.update(np.array([hit.score for hit in hits], dtype="<f4").tobytes())
        for hit in hits:
            for text in (hit.id, hit.text):
                data = text.encode()
                digest.update(b"%d\0" % len(data))
                digest.update(data)
    return Vote(result.release, digest.digest())


def majority(regions: int) -> int:
    return regions // 2 + 1


def agreed(votes: Mapping[str, Vote], regions: int) -> tuple[str, ...]:
    """The regions that say what a majority of all `regions` says, in the order of the votes; empty
    without a majority.
    """
    for vote in dict.fromkeys(votes.values()):
        same = tuple(region for region, other in votes.items() if other == vote)
        if len(same) >= majority(regions):
            return same
    return ()


def diverging(votes: Mapping[str, Vote]) -> tuple[str, str] | None:
    """Two regions that answer one release differently, which must never be."""
    first: dict[int, tuple[str, Vote]] = {}
    for region, vote in votes.items():
        other, first_vote = first.setdefault(vote.release, (region, vote))
        if first_vote != vote:
            return other, region
    return None
