"""What regions must agree on, and when a majority does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cluster.query.search import Hit, MergedHits, SearchResult
from cluster.regions.quorum import Vote, agreed, diverging, majority, vote_of
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
