"""What regions must agree on, and when a majority does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cluster.mutations.watermark import Watermark
from cluster.query.search import Hit, MergedHits, SearchResult
from cluster.query.session import SessionToken
from cluster.regions.quorum import (
    Vote,
    agreed,
    diverging,
    has_moving_documents,
    majority,
    seen_by,
    vote_of,
)
from tests.support.fakes import provenance_of

HIT = Hit(id="a", score=float(np.float32(0.1)), text="tea", metadata={"year": 2000})
RESULT = SearchResult(
    results=((HIT,),),
    provenance=provenance_of("a", staleness_ms=100, session="s"),
    took_ms=1.0,
)


def of_hits(*hits: Hit) -> SearchResult:
    return replace(RESULT, results=(hits,))


def of_arrays(rows: list[list[int]], ids: list[list[bytes]]) -> SearchResult:
    found = np.array(rows)
    arrays = MergedHits(
        scores=np.where(found >= 0, np.float32(0.5), np.float32(-np.inf)).astype(np.float32),
        rows=found,
        ids=np.array(ids),
        shards=np.zeros(found.shape, dtype=np.int32),
    )
    return replace(RESULT, results=(), arrays=arrays)


def hit(**changed: object) -> Hit:
    return Hit(**{"id": "a", "score": HIT.score, "text": "tea", "metadata": {}, **changed})  # type: ignore[arg-type]


def test_who_made_it_and_how_long_it_took_is_no_matter() -> None:
    other = replace(RESULT, provenance=provenance_of("b", staleness_ms=7), took_ms=9.0)
    assert vote_of(other) == vote_of(RESULT)
    # As it comes back from JSON: the shortest form of a float32 is a float64 of the same float32.
    assert vote_of(of_hits(hit(score=0.10000000149011612))) == vote_of(RESULT)


@pytest.mark.parametrize(
    "other",
    [
        replace(RESULT, provenance=provenance_of(release=2)),
        of_hits(),
        of_hits(HIT, HIT),
        of_hits(hit(id="b")),
        of_hits(hit(text="coffee")),
        of_hits(hit(score=float(np.nextafter(np.float32(0.1), np.float32(1))))),
        of_hits(hit(id="at", text="ea")),
        replace(RESULT, results=((HIT,), ())),
    ],
)
def test_any_difference_is_one(other: SearchResult) -> None:
    assert vote_of(other) != vote_of(RESULT)


def test_the_order_counts() -> None:
    one, two = hit(id="a"), hit(id="b")
    assert vote_of(of_hits(one, two)) != vote_of(of_hits(two, one))


def test_arrays_are_compared_by_what_they_hold() -> None:
    here = of_arrays([[4, 9], [7, -1], [-1, -1]], [[b"a", b"b"], [b"c", b""], [b"", b""]])
    # Rows are told by nobody, and padding is none of a vote.
    there = of_arrays(
        [[0, 0, -1], [0, -1, -1], [-1] * 3], [[b"a", b"b", b""], [b"c", b"", b""], [b""] * 3]
    )
    assert vote_of(here) == vote_of(there)
    moved = of_arrays([[0, -1], [0, 0]], [[b"a", b""], [b"b", b"c"]])
    assert vote_of(here) != vote_of(moved)
    # As many searches each.
    assert vote_of(here) != vote_of(of_arrays([[4, 9], [7, -1]], [[b"a", b"b"], [b"c", b""]]))


ONE, TWO, OTHER = Vote(1, b"x"), Vote(2, b"y"), Vote(1, b"z")


@pytest.mark.parametrize(
    ("votes", "regions", "who"),
    [
        ({"a": ONE}, 1, ("a",)),
        ({"a": ONE, "b": ONE}, 3, ("a", "b")),
        ({"a": ONE, "b": TWO, "c": TWO}, 3, ("b", "c")),
        ({"a": ONE, "b": TWO}, 3, ()),
        ({"a": ONE, "b": ONE}, 4, ()),
        ({"a": ONE, "b": OTHER, "c": TWO}, 3, ()),
        ({}, 3, ()),
    ],
)
def test_a_majority_is_of_all_regions(
    votes: dict[str, Vote], regions: int, who: tuple[str, ...]
) -> None:
    assert agreed(votes, regions) == who


def test_two_majorities_always_have_a_region_in_common() -> None:
    assert all(2 * majority(n) > n for n in range(1, 40))


def test_only_one_release_can_diverge() -> None:
    assert diverging({"a": ONE, "b": TWO}) is None
    assert diverging({"a": ONE, "b": TWO, "c": OTHER}) == ("a", "c")


def by(documents: dict[str, int], hits: str = "tea") -> SearchResult:
    """Found in documents of a corpus that have come so far in each region's log."""
    seen = {"corpus": Watermark.of(documents)} if documents else {}
    token = SessionToken("store", 3, seen).encode()
    return replace(of_hits(hit(text=hits)), provenance=provenance_of(session=token))


def test_only_answers_from_documents_that_are_equally_far_must_be_alike() -> None:
    here, there = vote_of(by({"a": 1})), vote_of(by({"a": 1}, "coffee"))
    ahead = vote_of(by({"a": 2}, "coffee"))
    assert diverging({"a": here, "b": ahead}) is None
    assert agreed({"a": here, "b": ahead, "c": vote_of(by({"a": 2}))}, 3) == ()
    assert diverging({"a": here, "b": ahead, "c": there}) == ("a", "c")
    assert has_moving_documents({"a": here, "b": ahead}, 3)
    assert not has_moving_documents({"a": here}, 3)
    assert not has_moving_documents({"a": here, "b": there}, 3)


def test_what_answers_have_seen_together() -> None:
    both = Watermark.of({"a": 2, "b": 1})
    found = seen_by([by({"a": 2}), by({"a": 1, "b": 1}), by({})])
    assert found == SessionToken("store", 0, {"corpus": both})
    assert seen_by([by({})]) is None
    # No token, or one of a later version, says nothing of documents.
    odd = replace(RESULT, provenance=provenance_of(session="odd"))
    assert seen_by([odd]) is None
    assert vote_of(odd) == vote_of(by({}))
