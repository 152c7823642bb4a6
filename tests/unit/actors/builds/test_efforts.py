"""The least effort of a search that is enough: which efforts are tried, and which one is taken."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.builds.efforts import ladder, least_effort, most_effort
from cluster.shards.index_parameters import IndexKind, IndexParameters

LISTS = [IndexKind.IVF_FLAT, IndexKind.IVF_SQ, IndexKind.IVF_PQ]
GRAPHS = [IndexKind.HNSW, IndexKind.HNSW_SQ]
NUM_LISTS = 50


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (1, 1, [1]),
        (1, 2, [1, 2]),
        (1, 10, [1, 2, 3, 4, 5, 6, 7, 8, 10]),
        (16, 40, [16, 20, 24, 28, 32, 40]),
        (16, 41, [16, 20, 24, 28, 32, 40, 41]),
        # The last one alone, where the first one would be more.
        (16, 9, [9]),
    ],
)
def test_a_ladder_has_four_steps_to_the_double(first: int, last: int, expected: list[int]) -> None:
    assert ladder(first, last) == expected


@given(st.integers(4, 64), st.integers(1, 100_000))
def test_no_step_of_a_ladder_is_more_than_a_quarter(first: int, last: int) -> None:
    steps = ladder(first, last)
    assert steps[-1] == last
    assert steps[0] == min(first, last)
    assert all(low < high <= low * 1.25 + 1 for low, high in pairwise(steps))


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize(
    ("enough", "found"), [(1, 16), (16, 16), (17, 20), (4000, 4096), (4096, 4096), (4097, None)]
)
def test_a_graph_keeps_the_fewest_candidates_that_suffice(
    kind: IndexKind, enough: int, found: int | None
) -> None:
    least = least_effort(
        IndexParameters(kind=kind), NUM_LISTS, lambda tried: tried.ef_search >= enough
    )
    assert (least and least.ef_search) == found


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize(("enough", "found"), [(1, 1), (9, 10), (50, 50), (51, None)])
def test_inverted_lists_are_taken_as_few_as_suffice(
    kind: IndexKind, enough: int, found: int | None
) -> None:
    least = least_effort(
        IndexParameters(kind=kind), NUM_LISTS, lambda tried: tried.nprobe >= enough
    )
    assert (least and least.nprobe) == found


@pytest.mark.parametrize(
    ("nprobe_enough", "rescore_enough", "found"),
    [(5, 1, (5, 4)), (5, 5, (5, 16)), (5, 17, (5, 64)), (9, 64, (10, 64)), (5, 65, None)],
)
def test_of_codes_lists_are_found_first_and_then_candidates(
    nprobe_enough: int, rescore_enough: int, found: tuple[int, int] | None
) -> None:
    least = least_effort(
        IndexParameters(kind=IndexKind.IVF_PQ),
        NUM_LISTS,
        lambda tried: tried.nprobe >= nprobe_enough and tried.rescore >= rescore_enough,
    )
    assert (least and (least.nprobe, least.rescore)) == found


@pytest.mark.parametrize("suffices", [True, False])
def test_flat_has_one_effort(suffices: bool) -> None:
    flat = IndexParameters(kind=IndexKind.FLAT)
    least = least_effort(flat, 0, lambda _: suffices)
    assert (least is not None) == suffices


@pytest.mark.parametrize("kind", IndexKind)
def test_the_most_effort_is_the_last_that_is_tried(kind: IndexKind) -> None:
    built = IndexParameters(kind=kind)
    tried: list[IndexParameters] = []

    def never(parameters: IndexParameters) -> bool:
        tried.append(parameters)
        return False

    assert least_effort(built, NUM_LISTS, never) is None
    most, last = most_effort(built, NUM_LISTS), tried[-1]
    assert most.rescore == last.rescore
    if kind.is_graph:
        assert most.ef_search == last.ef_search
    if kind.has_lists:
        assert most.nprobe == last.nprobe


def test_what_the_build_needs_stays_as_it_was() -> None:
    built = IndexParameters(kind=IndexKind.HNSW, hnsw_m=7, seed=5, target_recall=0.9)
    least = least_effort(built, 0, lambda tried: tried.ef_search >= 20)
    assert least == built.model_copy(update={"ef_search": 20, "rescore": least and least.rescore})
