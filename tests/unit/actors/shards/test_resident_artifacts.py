"""What a process has open stays in the node's cache; what it has unloaded may go."""

from __future__ import annotations

import asyncio
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest

from actors.coordinator.loading.loaded_release import LoadedRelease
from actors.shards.index import ShardIndex
from actors.shards.replica import ShardReplica
from cluster.errors import Corrupt, NotFound
from cluster.generation.prompt import PromptTemplate
from cluster.serving.view import ReleaseView
from cluster.shards.index_parameters import IndexParameters
from cluster.store.object_store import ObjectStore
from tests.support.node_cache import node_cache
from tests.support.worlds.published_shards import publish


async def test_an_index_version_stays_in_the_cache_until_it_is_unloaded(
    store: ObjectStore, tmp_path: Path
) -> None:
    old, new = publish(store, tmp_path, "v1"), publish(store, tmp_path, "v2")
    cache = node_cache(store, tmp_path / "cache")
    replica = ShardReplica(0, node_cache(store, tmp_path / "cache"))
    for manifest in (old, new):
        await replica.load(manifest)
    cache.limit(0)
    assert all(cache.holds(manifest.shards[0].files) for manifest in (old, new))
    replica.unload(old.version)
    cache.limit(0)
    # The two were built of the same documents: what they share stays with the other one.
    assert cache.holds(new.shards[0].files)
    replica.unload(new.version)
    cache.limit(0)
    assert not cache.holds(new.shards[0].files)


async def test_a_shard_that_could_not_be_loaded_is_not_kept(
    store: ObjectStore, tmp_path: Path
) -> None:
    manifest = publish(store, tmp_path, "v1")
    cache = node_cache(store, tmp_path / "cache")
    replica = ShardReplica(0, node_cache(store, tmp_path / "cache"))
    files = manifest.shards[0].files
    store.remove(f"artifacts/sha256/{files[0].sha256[:2]}/{files[0].sha256}")
    with pytest.raises(NotFound):
        await replica.load(manifest)
    replica.unload(manifest.version)
    cache.limit(0)
    assert not any(cache.holds([file]) for file in files)


@pytest.mark.parametrize("fails", [False, True])
async def test_what_is_unloaded_while_it_is_loaded_is_not_kept(
    store: ObjectStore, tmp_path: Path, fails: bool
) -> None:
    manifest = publish(store, tmp_path, "v1")
    cache = node_cache(store, tmp_path / "cache")

    def open_late(folder: Path, parameters: IndexParameters, dimension: int) -> ShardIndex:
        replica.unload(manifest.version)
        # As by `folder_for`, which has them made and then keeps them.
        cache.pin(manifest.shards[0].files)
        if fails:
            raise Corrupt("damaged")
        return ShardIndex.open(folder, parameters, dimension)

    replica = ShardReplica(0, node_cache(store, tmp_path / "cache"), open_index=open_late)
    with pytest.raises(Corrupt) if fails else nullcontext():
        await replica.load(manifest)
    assert not replica.holds(manifest.version)
    cache.limit(0)
    assert not cache.holds(manifest.shards[0].files)


async def test_what_is_unloaded_before_its_turn_to_be_loaded_is_not_loaded(
    store: ObjectStore, tmp_path: Path
) -> None:
    first, second = publish(store, tmp_path, "v1"), publish(store, tmp_path, "v2")
    opening, may_open = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def open_slowly(folder: Path, parameters: IndexParameters, dimension: int) -> ShardIndex:
        loop.call_soon_threadsafe(opening.set)
        assert may_open.wait(30)
        return ShardIndex.open(folder, parameters, dimension)

    replica = ShardReplica(0, node_cache(store, tmp_path / "cache"), open_index=open_slowly)
    loads = [asyncio.create_task(replica.load(manifest)) for manifest in (first, second)]
    await opening.wait()
    replica.unload(second.version)
    may_open.set()
    await asyncio.gather(*loads)
    assert replica.holds(first.version)
    assert not replica.holds(second.version)


def test_a_release_is_of_the_files_of_its_shards_and_models(
    store: ObjectStore, tmp_path: Path
) -> None:
    manifest = publish(store, tmp_path, "v1")
    view = ReleaseView(number=1, corpora={}, embedders=(), generator=None, prompt=PromptTemplate())
    loaded = LoadedRelease(view=view, indexes={"words": manifest}, embedder=None, generator=None)
    assert loaded.artifacts == {shard.files for shard in manifest.shards}
