"""Which release a request is pinned to, and which corpus it means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.canary.board import Lots
from cluster.errors import InvalidArgument, NotFound, Unavailable
from cluster.generation.prompt import PromptTemplate
from cluster.releases.entries import CanaryShare, Switch
from cluster.serving.view import CorpusView, RegionView, ReleaseView
from cluster.vectors.metric import Metric


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
        switches=tuple(
            Switch(release=number, at_ms=at_ms, position=position)
            for position, (number, at_ms) in enumerate(switches, 1)
        ),
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
    assert region(resident, *switches).pin(None, now_ms).release.number == served


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
    assert [view.pin(number, 500).release.number for number in (1, 2)] == [1, 2]


@pytest.mark.parametrize("number", [3, 4, 7])
def test_what_is_open_gone_or_unknown_cannot_be_pinned(number: int) -> None:
    view = region((1, 2, 3), (1, 10), (2, 100), (4, 200))
    with pytest.raises(NotFound, match="resident releases: 1, 2"):
        view.pin(number, 500)


def test_the_only_corpus_need_not_be_named() -> None:
    assert release(1, "c").corpus(None).corpus == "c"
    assert release(1, "c", "d").corpus("d").corpus == "d"


@pytest.mark.parametrize("asked", [None, "e"])
def test_an_ambiguous_or_unknown_corpus_is_refused_with_the_choices(asked: str | None) -> None:
    with pytest.raises(InvalidArgument, match="c, d") as caught:
        release(1, "d", "c").corpus(asked)
    assert caught.value.field == "corpus"


ROUTED = 10_000
ALWAYS_STABLE, ALWAYS_CANARY = 0.999999, 0.0


def trying(percent: int, *, at_ms: int = 0, resident: tuple[int, ...] = (1, 2)) -> RegionView:
    canary = CanaryShare(release=2, percent=percent, at_ms=at_ms)
    return replace(region(resident, (1, 0)), canary=canary)


def users_of_canary(view: RegionView) -> set[str]:
    users = [f"user-{number}" for number in range(ROUTED)]
    return {user for user in users if view.pin(None, 10, user=user).release.number == 2}


@pytest.mark.parametrize("percent", [0, 1, 5, 25, 50, 99])
def test_routed_requests_keep_the_share(percent: int) -> None:
    view, lots = trying(percent), Lots()
    alone = sum(view.pin(None, 10, lot=lots.next()).release.number == 2 for _ in range(ROUTED))
    assert alone / ROUTED == pytest.approx(percent / 100, abs=0.01)
    assert len(users_of_canary(view)) / ROUTED == pytest.approx(percent / 100, abs=0.01)


def test_a_commit_gives_it_all() -> None:
    view = replace(
        trying(25),
        switches=(
            Switch(release=1, at_ms=0, position=1),
            Switch(release=2, at_ms=20, position=2),
        ),
    )
    lots = (ALWAYS_CANARY, ALWAYS_STABLE)
    assert {view.pin(None, 20, lot=lot).release.number for lot in lots} == {2}
    assert 0 < len(users_of_canary(view)) < ROUTED, "until the moment of the switch it is a share"


def test_who_is_in_stays_in_when_the_share_grows() -> None:
    seen: set[str] = set()
    for percent in (1, 5, 25, 50, 99):
        users = users_of_canary(trying(percent))
        assert seen < users
        seen = users


def test_a_canary_waits_for_its_moment_and_for_its_release_to_be_loaded() -> None:
    assert trying(99, at_ms=11).pin(None, 10, lot=ALWAYS_CANARY).release.number == 1
    assert trying(99, at_ms=10).pin(None, 10, lot=ALWAYS_CANARY).release.number == 2
    assert trying(99, resident=(1,)).pin(None, 10, lot=ALWAYS_CANARY).release.number == 1


def test_a_canary_can_be_named_and_so_can_the_other() -> None:
    view = trying(5)
    assert [view.pin(number, 10, user="u").release.number for number in (1, 2)] == [1, 2]
    with pytest.raises(NotFound, match="resident releases: 1, 2"):
        view.pin(3, 10)
    with pytest.raises(NotFound, match=r"resident releases: 1$"):
        replace(view, canary=None).pin(2, 10)
