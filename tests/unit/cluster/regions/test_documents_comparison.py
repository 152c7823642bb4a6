"""Regions whose live documents are equally far hold the same, or are found to differ."""

from __future__ import annotations

from cluster.regions.divergence_report import Difference
from cluster.regions.documents_comparison import WATERMARKS_MAX, DocumentsComparison
from cluster.releases.events import DocumentsStatus, RegionStatus

RELEASE = 7
Said = dict[str, dict[str, DocumentsStatus]]


def said(**regions: tuple[dict[str, int], str]) -> Said:
    """What each region says of one corpus: how far it is, and its digest."""
    return {
        region: {"tea": DocumentsStatus(watermark=watermark, documents_digest=digest)}
        for region, (watermark, digest) in regions.items()
    }


def test_regions_that_are_not_equally_far_are_not_compared() -> None:
    comparison = DocumentsComparison()
    assert comparison.take(said(a=({"a": 1}, "x"), b=({"a": 2}, "y")), RELEASE) == []
    assert comparison.take(said(a=({"a": 2}, "y"), b=({"a": 3}, "z")), RELEASE) == []
    assert comparison.standing == ()


def test_a_difference_is_told_once_and_stands() -> None:
    comparison = DocumentsComparison()
    (found,) = comparison.take(said(a=({"a": 1, "b": 2}, "x"), b=({"b": 2, "a": 1}, "y")), RELEASE)
    assert found == Difference(
        corpus="tea",
        release=RELEASE,
        question="live documents at a:1, b:2",
        answers={"x": ("a",), "y": ("b",)},
    )
    assert "corpus 'tea', live documents at a:1, b:2: a (x) against b (y)" in str(found)
    assert comparison.take(said(a=({"a": 1, "b": 2}, "x"), b=({"a": 1, "b": 2}, "y")), 8) == []
    # One of them alone refutes nothing.
    assert comparison.take(said(a=({"a": 4}, "z")), RELEASE) == []
    assert len(comparison.standing) == 1


def test_they_need_not_be_equally_far_at_the_same_moment() -> None:
    comparison = DocumentsComparison()
    comparison.take(said(a=({"a": 1}, "x"), b=({"a": 3}, "z")), RELEASE)
    comparison.take(said(a=({"a": 2}, "y"), b=({"a": 3}, "z")), RELEASE)
    assert comparison.take(said(a=({"a": 3}, "other")), RELEASE) != []


def test_it_is_over_when_all_that_took_part_agree() -> None:
    comparison = DocumentsComparison()
    comparison.take(said(a=({"a": 1}, "x"), b=({"a": 1}, "y"), c=({"a": 1}, "y")), RELEASE)
    (standing,) = comparison.standing
    assert standing.regions == {"a", "b", "c"}
    comparison.take(said(a=({"a": 2}, "z"), b=({"a": 2}, "z")), RELEASE)
    assert comparison.standing != ()
    assert comparison.take(said(c=({"a": 2}, "z")), RELEASE) == []
    assert comparison.standing == ()


def test_corpora_are_told_apart_and_what_is_remembered_is_bounded() -> None:
    comparison = DocumentsComparison()
    one = DocumentsStatus(watermark={"a": 1}, documents_digest="x")
    other = DocumentsStatus(watermark={"a": 1}, documents_digest="y")
    assert comparison.take({"a": {"tea": one}, "b": {"coffee": other}}, RELEASE) == []
    for position in range(2, WATERMARKS_MAX + 2):
        comparison.take(said(a=({"a": position}, "x")), RELEASE)
    assert comparison.take(said(b=({"a": 1}, "y")), RELEASE) == [], "too long ago"
    assert len(comparison.take(said(b=({"a": WATERMARKS_MAX + 1}, "y")), RELEASE)) == 1


def test_heartbeats_of_other_versions_are_read() -> None:
    told = RegionStatus(
        region="a",
        position=3,
        prepared=(1,),
        current=1,
        at_ms=5,
        documents={"tea": DocumentsStatus(watermark={"a": 1}, documents_digest="x")},
    )
    assert RegionStatus.from_bytes(told.to_bytes(), source="b") == told
    older = b'{"region":"a","position":3,"prepared":[1],"current":1,"at_ms":5}'
    assert RegionStatus.from_bytes(older, source="a").documents == {}
    newer = told.to_bytes().replace(b'"documents_digest"', b'"rows":1,"documents_digest"')
    assert RegionStatus.from_bytes(newer, source="a") == told
