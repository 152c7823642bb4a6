"""The least effort of a search with which an index finds enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from cluster.shards.index_parameters import IndexKind, IndexParameters

_EF_SEARCH_LEAST, _EF_SEARCH_MOST = 16, 4096
_RESCORES = (4, 16, 64)


def least_effort(
    built: IndexParameters, num_lists: int, suffices: Callable[[IndexParameters], bool]
) -> IndexParameters | None:
    """The same index with the least `ef_search`, or `nprobe` and `rescore`, that suffices; None
    where none does.

    Of codes, first so many lists are taken that suffice when many candidates are scored, then so
    few candidates as suffice in these lists.
    """
    has_codes = built.kind is IndexKind.IVF_PQ
    thorough = built.model_copy(update={"rescore": _RESCORES[-1 if has_codes else 0]})
    found = next(filter(suffices, _walks(thorough, num_lists)), None)
    if found is None or not has_codes:
        return found
    fewer = (found.model_copy(update={"rescore": rescore}) for rescore in _RESCORES[:-1])
    return next(filter(suffices, fewer), found)


def most_effort(built: IndexParameters, num_lists: int) -> IndexParameters:
    """The same index with the most effort that `least_effort` tries."""
    rescore = _RESCORES[-1 if built.kind is IndexKind.IVF_PQ else 0]
    update = {"ef_search": _EF_SEARCH_MOST, "nprobe": num_lists, "rescore": rescore}
    return built.model_copy(update=update)


def _walks(built: IndexParameters, num_lists: int) -> Iterator[IndexParameters]:
    """Search parameters, from little to much."""
    match built.kind:
        case IndexKind.FLAT:
            yield built
        case IndexKind.HNSW | IndexKind.HNSW_SQ:
            for ef_search in ladder(_EF_SEARCH_LEAST, _EF_SEARCH_MOST):
                yield built.model_copy(update={"ef_search": ef_search})
        case IndexKind.IVF_FLAT | IndexKind.IVF_PQ | IndexKind.IVF_SQ:
            for nprobe in ladder(1, num_lists):
                yield built.model_copy(update={"nprobe": nprobe})


def ladder(first: int, last: int) -> list[int]:
    """Ascending, with four steps from a number to its double: 16, 20, 24, 28, 32, 40..."""
    doublings = range(math.ceil(math.log2(max(1, last / first))))
    steps = {(first * quarters << power) // 4 for power in doublings for quarters in range(4, 8)}
    return sorted({step for step in steps if step < last} | {last})
