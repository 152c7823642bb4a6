"""A shard replica: what is brief is done at once, what is not can be given up, and what is damaged
is let go of.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.shards.index import ShardIndex
from actors.shards.opened_index import OpenedIndex
from actors.shards.replica import ShardReplica
from cluster.catalog.catalog import Catalog
from cluster.errors import Corrupt, Unavailable
from cluster.query.search import ShardHits, ShardQuery
from cluster.shards.index_parameters import IndexParameters
from cluster.store.object_store import ObjectStore
from tests.support.fakes import SimClock
from tests.support.node_cache import node_cache
from tests.support.worlds.published_shards import VECTORS, Damage, publish, query


@pytest.fixture
async def replica(store: ObjectStore, tmp_path: Path) -> ShardReplica:
    # No search takes any time: each that is known is brief, however busy the machine is.
    made = ShardReplica(0, node_cache(store, tmp_path / "cache"), clock=SimClock())
    await made.load(publish(store, tmp_path, "v1"))
    return made


async def test_a_long_search_is_done_in_pieces_with_the_same_hits(
    store: ObjectStore, tmp_path: Path, replica: ShardReplica
) -> None:
    vectors = np.tile(VECTORS, (4, 1))
    asked = replace(query("v1", 0), vectors=vectors, top_k=3)
    in_pieces = await replica.search(asked, 30.0)
    (manifest,) = (index for index, _ in Catalog(store).list_indexes("words"))
    cache = node_cache(store, tmp_path / "cache")
    folder = cache.folder_for(manifest.shards[0].files)
    at_once = ShardIndex.open(folder, manifest.parameters, manifest.dimension).search(asked)
    assert in_pieces.ids.tolist() == at_once.ids.tolist()
    assert in_pieces.scores.tobytes() == at_once.scores.tobytes()
    assert in_pieces.fell_back is None


class Gated:
    """Opens indexes whose searches wait for the test. `sizes` counts the vectors of each search."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Semaphore(0), threading.Event()
        self.sizes: list[int] = []

    def open(self, folder: Path, parameters: IndexParameters, dimension: int) -> ShardIndex:
        gate = self

        class GatedIndex(ShardIndex):
            def search(self, query: ShardQuery) -> ShardHits:
                gate.sizes.append(len(query.vectors))
                gate.begun.release()
                assert gate.may_end.wait(30)
                return super().search(query)

        return GatedIndex.open(folder, parameters, dimension)


@pytest.mark.parametrize("leaves", ["by cancelling", "by its timeout"])
async def test_a_search_that_nobody_waits_for_ends_with_its_piece(
    store: ObjectStore, tmp_path: Path, leaves: str
) -> None:
    gate = Gated()
    replica = ShardReplica(0, node_cache(store, tmp_path / "cache"), open_index=gate.open)
    await replica.load(publish(store, tmp_path, "v1"))
    asked = replace(query("v1", 0), vectors=np.tile(VECTORS, (10, 1)))
    timeout_s = 30.0 if leaves == "by cancelling" else 0.2
    waiting = asyncio.create_task(replica.search(asked, timeout_s))
    await asyncio.to_thread(gate.begun.acquire)
    if leaves == "by cancelling":
        waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    gate.may_end.set()
    await replica.search(query("v1", 4), 30.0)
    assert gate.sizes == [64, 1]


async def test_what_is_damaged_is_let_go_of_and_others_are_asked(
    store: ObjectStore, tmp_path: Path
) -> None:
    replica = ShardReplica(0, node_cache(store, tmp_path / "cache"), open_index=Damage().open)
    await replica.load(publish(store, tmp_path, "v1"))
    with pytest.raises(Unavailable, match="a stored vector") as caught:
        await replica.search(query("v1", 4), 5.0)
    assert caught.value.retryable
    assert not replica.holds("v1")


async def test_all_versions_of_damaged_files_are_let_go_of_and_none_that_was_loaded_since(
    store: ObjectStore, tmp_path: Path
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    class Damaged(ShardIndex):
        def search(self, query: ShardQuery) -> ShardHits:
            if len(query.vectors) > 1:
                begun.set()
                assert may_end.wait(30)
            raise Corrupt("a stored vector is not finite")

    classes = iter([Damaged, ShardIndex])

    def open_index(folder: Path, parameters: IndexParameters, dimension: int) -> ShardIndex:
        return next(classes).open(folder, parameters, dimension)

    manifest = publish(store, tmp_path, "v1")
    with ThreadPoolExecutor(2) as threads:
        cache = node_cache(store, tmp_path / "cache")
        replica = ShardReplica(0, cache, searcher=threads, open_index=open_index)
        for version in ("v1", "v2"):
            await replica.load(manifest.model_copy(update={"version": version}))
        late = asyncio.create_task(replica.search(replace(query("v1", 0), vectors=VECTORS), 30.0))
        assert await asyncio.to_thread(begun.wait, 30)
        with pytest.raises(Unavailable, match="a stored vector"):
            await replica.search(query("v1", 4), 30.0)
        assert not replica.holds("v1")
        assert not replica.holds("v2")
        await replica.load(manifest)
        # The search that began on the damaged one fails only now.
        may_end.set()
        with pytest.raises(Unavailable, match="a stored vector"):
            await late
        assert replica.holds("v1")


async def test_more_hits_are_another_search_whose_time_is_not_known_yet(
    replica: ShardReplica,
) -> None:
    await replica.search(query("v1", 0), 5.0)
    assert replica.search_now(query("v1", 1)) is not None
    assert replica.search_now(replace(query("v1", 1), top_k=25)) is None


@pytest.mark.parametrize(("fallback", "rows"), [(False, 10**9), (True, 10**9), (True, 100)])
def test_a_search_that_may_compare_all_rows_of_a_large_shard_is_never_brief(
    fallback: bool, rows: int
) -> None:
    class Sized:
        num_rows, dimension = rows, 8

        def search(self, asked: ShardQuery) -> None:
            pass

    index: ShardIndex = Sized()  # type: ignore[assignment]
    opened = OpenedIndex(
        index, index, (), IndexParameters(fallback=fallback), SimClock().monotonic_s
    )
    opened.search(query("v1", 0))
    assert (opened.expected_s(query("v1", 0)) < 1.0) is not (fallback and rows == 10**9)
