"""Which release a request is pinned to, and which corpus it means."""

from __future__ import annotations

import pytest

from cluster.errors import InvalidArgument, Unavailable
from cluster.manifests import Metric
from cluster.prompt import PromptTemplate
from cluster.region_view import CorpusView, RegionView, ReleaseView
from cluster.releases import Switch


def corpus(name: str) -> CorpusView:
    return CorpusView(
        corpus=name,
        index_version="1",
        dimension=4,
        metric=Metric.COSINE,
        metadata_schema={},
        has_embedder=True,
        num_passages=1,
        recall_at_10=1.0,
        shards=(("r",),),
    )


def release(number: int, *corpora: str) -> ReleaseView:
    return ReleaseView(
        number=number,
        corpora={name: corpus(name) for name in corpora or ("c",)},
        embedders=(),
        generator=None,
        prompt=PromptTemplate(),
    )


def region(resident: tuple[int, ...], *switches: tuple[int, int]) -> RegionView:
    return RegionView(
        region="a",
        releases={number: release(number) for number in resident},
        switches=tuple(Switch(release=number, at_ms=at_ms) for number, at_ms in switches),
    )


@pytest.mark.parametrize(
    ("resident", "switches", "now_ms", "served"),
    [
        ((1,), [(1, 10)], 10, 1),
        ((1, 2), [(1, 10), (2, 100)], 99, 1),
        ((1, 2), [(1, 10), (2, 100)], 100, 2),
        # A rollback that comes before the moment of the commit that it takes back.
        ((1, 2), [(1, 10), (2, 100), (1, 50)], 200, 1),
        # The newest one is not loaded yet: the last one that is.
        ((1,), [(1, 10), (2, 100)], 100, 1),
        ((1,), [(1, 10), (2, 100), (3, 200)], 300, 1),
        # An open release is resident, but is not served.
        ((1, 2), [(1, 10)], 500, 1),
    ],
)
def test_without_a_number_the_current_release_serves(
    resident: tuple[int, ...], switches: list[tuple[int, int]], now_ms: int, served: int
) -> None:
    assert region(resident, *switches).pin(None, now_ms).number == served


@pytest.mark.parametrize(
    ("resident", "switches"), [((), []), ((1,), []), ((1,), [(1, 100)]), ((), [(1, 0)])]
)
def test_a_region_with_nothing_to_serve_says_so(
    resident: tuple[int, ...], switches: list[tuple[int, int]]
) -> None:
    with pytest.raises(Unavailable):
        region(resident, *switches).pin(None, 50)


def test_a_number_pins_any_committed_resident_release() -> None:
    view = region((1, 2, 3), (1, 10), (2, 100))
    assert [view.pin(number, 500).number for number in (1, 2)] == [1, 2]


@pytest.mark.parametrize("number", [3, 4, 7])
def test_what_is_open_gone_or_unknown_cannot_be_pinned(number: int) -> None:
    view = region((1, 2, 3), (1, 10), (2, 100), (4, 200))
    with pytest.raises(InvalidArgument, match="resident releases: 1, 2") as caught:
        view.pin(number, 500)
    assert caught.value.field == "release"


def test_the_only_corpus_need_not_be_named() -> None:
    assert release(1, "c").corpus(None).corpus == "c"
    assert release(1, "c", "d").corpus("d").corpus == "d"


@pytest.mark.parametrize("asked", [None, "e"])
def test_an_ambiguous_or_unknown_corpus_is_refused_with_the_choices(asked: str | None) -> None:
    with pytest.raises(InvalidArgument, match="c, d") as caught:
        release(1, "d", "c").corpus(asked)
    assert caught.value.field == "corpus"
