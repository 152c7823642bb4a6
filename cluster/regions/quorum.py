"""Decides whether a majority of the regions gives the same release, documents and hits, byte for
byte.

Live documents may differ between regions at any moment: only answers by the same release and equal
watermarks must be alike.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from cluster.errors import InvalidArgument
from cluster.mutations.watermark import Watermark
from cluster.query.search import SearchResult
from cluster.query.session import SessionToken


@dataclass(frozen=True, slots=True)
class Vote:
    """The answer of one region, as far as regions must agree on it."""

    release: int
    hits: bytes
    """Digest of the hits."""
    documents: tuple[tuple[str, Watermark], ...] = ()
    """How far the live documents had come that the answer is made by, by corpus."""


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
    return Vote(result.release, digest.digest(), tuple(sorted(_documents_of(result).items())))


def seen_by(results: Iterable[SearchResult]) -> SessionToken | None:
    """What whoever has all these answers has seen of live documents; None: nothing."""
    seen: SessionToken | None = None
    for result in results:
        if documents := _documents_of(result):
            token = SessionToken.decode(result.session)
            seen = (seen or SessionToken(token.store_id, 0)).joined(documents)
    return seen


def _documents_of(result: SearchResult) -> Mapping[str, Watermark]:
    try:
        return SessionToken.decode(result.session).documents
    except InvalidArgument:
        # There is none yet, or it is of a later version.
        return {}


def has_moving_documents(votes: Mapping[str, Vote], regions: int) -> bool:
    """Whether a majority of all `regions` has answered by one release, from documents that are not
    equally far: then no further answer need make them alike.
    """
    release = common_release(votes, regions)
    alike = {vote.documents for vote in votes.values() if vote.release == release}
    return release is not None and len(alike) > 1


def common_release(votes: Mapping[str, Vote], regions: int) -> int | None:
    """The release by which a majority of all `regions` has answered; None where there is none."""
    counts = Counter(vote.release for vote in votes.values())
    return next((r for r, count in counts.items() if count >= majority(regions)), None)


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


def comparable(vote: Vote, other: Vote) -> bool:
    """Whether the two answers must be alike."""
    return (vote.release, vote.documents) == (other.release, other.documents)


def diverging(votes: Mapping[str, Vote]) -> tuple[str, str] | None:
    """Two regions that answer by one release, and by the same documents, differently, which must
    never be.
    """
    first: dict[object, tuple[str, Vote]] = {}
    for region, vote in votes.items():
        other, first_vote = first.setdefault((vote.release, vote.documents), (region, vote))
        if first_vote != vote:
            return other, region
    return None
