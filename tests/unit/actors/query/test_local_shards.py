"""Shards in the gateway's own process: opened when their files are here, let go when not needed."""

from __future__ import annotations

import asyncio
import errno
import random
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from actors.query.local_shards import LocalShards
from actors.query.replica_sets import ReplicaSets
from actors.runtime.calls import NamedActor
from actors.shards.index import ShardIndex
from cluster.catalog.catalog import Catalog
from cluster.clock import SYSTEM_CLOCK, Deadline
from cluster.errors import DeadlineExceeded, Unavailable
from cluster.generation.prompt import PromptTemplate
from cluster.search.fanout import scatter
from cluster.serving.view import CorpusView, RegionView, ReleaseView
from cluster.shards.index_parameters import IndexParameters
from cluster.store.object_store import ObjectStore
from cluster.vectors.metric import Metric
from tests.support.fakes import SimClock
from tests.support.node_cache import node_cache
from tests.support.store_fixtures import Door
from tests.support.worlds.published_shards import (
    DIMENSION,
    NUM_ROWS,
    Damage,
    openings,
    publish,
    query,
    until_open,
)


def put_into_cache(store: ObjectStore, tmp_path: Path) -> None:
    """Publishes version v1, all of whose shards this node has then."""
    cache = node_cache(store, tmp_path / "cache")
    for shard in publish(store, tmp_path, "v1").shards:
        cache.folder_for(shard.files)


def view_of(*versions: str) -> RegionView:
    releases = {}
    for number, version in enumerate(versions, start=1):
        corpus = CorpusView(
            corpus="words",
            index_version=version,
            dimension=DIMENSION,
            metric=Metric.INNER_PRODUCT,
            metadata_schema={},
            has_embedder=False,
            num_passages=NUM_ROWS,
            recall_at_10=1.0,
            shards=(("words/0/0",), ("words/1/0",)),
        )
        releases[number] = ReleaseView(
            number=number,
            corpora={"words": corpus},
            embedders=(),
            generator=None,
            prompt=PromptTemplate(),
        )
    return RegionView(region="here", releases=releases)


def local_shards(store: ObjectStore, tmp_path: Path, **options: Any) -> LocalShards:
    return LocalShards(Catalog(store), node_cache(store, tmp_path / "cache"), **options)


def corpus_of(view: RegionView, number: int = 1) -> CorpusView:
    return view.releases[number].corpora["words"]


async def test_only_what_the_node_has_is_opened_and_it_answers_as_a_replica_does(
    store: ObjectStore, tmp_path: Path
) -> None:
    manifest = publish(store, tmp_path, "v1")
    cache = node_cache(store, tmp_path / "cache")
    cache.folder_for(manifest.shards[1].files)
    local, view = local_shards(store, tmp_path), view_of("v1")
    corpus = corpus_of(view)
    assert local.replica(corpus, 1) is None
    local.follow(view)
    await until_open(local, corpus, 1)
    replica = local.replica(corpus, 1)
    assert replica is not None
    for _ in range(3):
        hits = await replica.search(query("v1", 7), 5.0)
        assert hits.ids.tolist() == [[b"d007"]]
        passages = await replica.passages("v1", hits.rows[0], None, 5.0)
        assert passages.texts == ("d007",)
    assert local.replica(corpus, 0) is None
    assert not cache.holds(manifest.shards[0].files)


async def test_a_version_that_no_release_needs_is_let_go_and_a_new_one_opened(
    store: ObjectStore, tmp_path: Path
) -> None:
    cache = node_cache(store, tmp_path / "cache")
    for version in ("v1", "v2"):
        for shard in publish(store, tmp_path, version).shards:
            cache.folder_for(shard.files)
    local = local_shards(store, tmp_path)
    both = view_of("v1", "v2")
    local.follow(both)
    for number in (1, 2):
        await until_open(local, corpus_of(both, number), 0)
    replica = local.replica(corpus_of(both), 0)
    assert replica is not None
    newer = view_of("v2")
    local.follow(newer)
    assert local.replica(corpus_of(both), 0) is None
    assert local.replica(corpus_of(newer), 0) is not None
    with pytest.raises(Unavailable, match="v1 is not loaded"):
        await replica.search(query("v1", 0), 5.0)
    assert (await replica.search(query("v2", 0), 5.0)).ids.tolist() == [[b"d000"]]


async def test_routes_take_a_local_shard_as_soon_as_it_is_open(
    store: ObjectStore, tmp_path: Path
) -> None:
    put_into_cache(store, tmp_path)
    view = view_of("v1")
    corpus = corpus_of(view)
    # No search takes any time: each that is known is brief, however busy the machine is.
    local = local_shards(store, tmp_path, clock=SimClock())
    routes = ReplicaSets(SYSTEM_CLOCK, random.Random(0), local)
    before = routes.shards(corpus)
    routes.follow(view)
    await until_open(local, corpus, 0)
    await until_open(local, corpus, 1)
    after = routes.shards(corpus)
    assert all(old is not new for old, new in zip(before, after, strict=True))
    # Of the first search nobody knows how long it will take; the next ones are done at once.
    assert after[0].search_now(query("v1", 4)) is None
    answer = await after[0].search(query("v1", 4), Deadline.after(5.0))
    assert answer.ids.tolist() == [[b"d004"]]
    at_once = after[0].search_now(query("v1", 6))
    assert at_once is not None
    assert at_once.ids.tolist() == [[b"d006"]]
    assert routes.shards(replace(corpus, index_version="v0"))[0] is before[0]


class Actors:
    """Stands for calls of the replicas' actors, all of which are dead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.asked = asyncio.Event()
        monkeypatch.setattr(NamedActor, "call", self.call)

    async def call(self, *_: object) -> object:
        self.calls += 1
        self.asked.set()
        raise Unavailable("it was killed")


class Disk:
    """Opens no shard before the test opens its gate, and none while it has an error."""

    def __init__(self, error: OSError | None = None) -> None:
        self.gate = threading.Event()
        self.error = error

    def open(self, folder: Path, parameters: IndexParameters, dimension: int) -> ShardIndex:
        assert self.gate.wait(60.0)
        if self.error is not None:
            raise self.error
        return ShardIndex.open(folder, parameters, dimension)


async def test_a_search_that_no_actor_answers_waits_for_the_shard_to_be_opened_here(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_into_cache(store, tmp_path)
    actors, disk = Actors(monkeypatch), Disk()
    view = view_of("v1")
    local = local_shards(store, tmp_path, open_index=disk.open)
    routes = ReplicaSets(SYSTEM_CLOCK, random.Random(0), local)
    routes.follow(view)
    shards = routes.shards(corpus_of(view))
    assert [shard.local for shard in shards] == [None, None]
    search = asyncio.create_task(scatter(shards, query("v1", 4), Deadline.after(60.0)))
    fetch = asyncio.create_task(shards[0].passages("v1", np.array([2]), None, Deadline.after(60.0)))
    await actors.asked.wait()
    disk.gate.set()
    found = await search
    assert found.coverage == 1.0
    assert found.hits[0] is not None
    assert found.hits[0].ids.tolist() == [[b"d004"]]
    assert (await fetch).texts == ("d004",)
    assert actors.calls == 3


async def test_a_search_waits_for_an_opening_no_longer_than_its_deadline(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_into_cache(store, tmp_path)
    Actors(monkeypatch)
    disk = Disk()
    view = view_of("v1")
    local = local_shards(store, tmp_path, open_index=disk.open)
    routes = ReplicaSets(SYSTEM_CLOCK, random.Random(0), local)
    routes.follow(view)
    shard, _ = routes.shards(corpus_of(view))
    with pytest.raises(DeadlineExceeded):
        await shard.search(query("v1", 4), Deadline.after(0.05))
    # The opening goes on for others.
    disk.gate.set()
    await until_open(local, corpus_of(view), 0)


async def test_what_cannot_be_opened_here_has_no_reserve(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_into_cache(store, tmp_path)
    actors = Actors(monkeypatch)
    disk = Disk(OSError(errno.EIO, "the disk cannot be read"))
    view = view_of("v1")
    local = local_shards(store, tmp_path, open_index=disk.open)
    routes = ReplicaSets(SYSTEM_CLOCK, random.Random(0), local)
    routes.follow(view)
    shard, _ = routes.shards(corpus_of(view))
    search = asyncio.create_task(shard.search(query("v1", 4), Deadline.after(60.0)))
    await actors.asked.wait()
    disk.gate.set()
    with pytest.raises(Unavailable, match="v1 is not loaded"):
        await search
    with pytest.raises(Unavailable, match="it was killed"):
        await routes.shards(corpus_of(view))[0].search(query("v1", 4), Deadline.after(60.0))


async def test_a_shard_that_turns_out_damaged_is_left_to_the_actors(
    store: ObjectStore, tmp_path: Path
) -> None:
    put_into_cache(store, tmp_path)
    view, damage = view_of("v1"), Damage(found=False)
    local = local_shards(store, tmp_path, open_index=damage.open)
    local.follow(view)
    await until_open(local, corpus_of(view), 0)
    replica = local.replica(corpus_of(view), 0)
    assert replica is not None
    await replica.search(query("v1", 4), 5.0)
    assert replica.passages_now("v1", np.array([0]), None) is not None
    damage.found = True
    assert replica.search_now(query("v1", 4)) is None
    assert replica.passages_now("v1", np.array([0]), None) is None


async def test_damage_that_a_long_search_meets_is_left_to_the_actors_too(
    store: ObjectStore, tmp_path: Path
) -> None:
    put_into_cache(store, tmp_path)
    view = view_of("v1")
    rows = np.arange(2)
    for ask in (
        lambda replica: replica.search(query("v1", 4), 5.0),
        lambda replica: replica.passages("v1", rows, None, 5.0),
    ):
        local = local_shards(store, tmp_path, open_index=Damage().open)
        local.follow(view)
        await until_open(local, corpus_of(view), 0)
        # Another replica is asked after this error, and none after the other.
        with pytest.raises(Unavailable, match="a stored vector"):
            await ask(local.replica(corpus_of(view), 0))
        assert local.replica(corpus_of(view), 0) is None


async def test_what_could_not_be_opened_is_tried_again_with_the_next_view(
    store: ObjectStore, tmp_path: Path
) -> None:
    put_into_cache(store, tmp_path)
    door, disk, view = Door(store), Disk(), view_of("v1")
    disk.gate.set()
    local = local_shards(cast(ObjectStore, door), tmp_path, open_index=disk.open)
    broken = OSError(errno.EIO, "the disk cannot be read")
    for door.shut, disk.error in ((True, None), (False, broken)):
        local.follow(view)
        await asyncio.gather(*openings())
        assert local.replica(corpus_of(view), 0) is None
    disk.error = None
    local.follow(view)
    await until_open(local, corpus_of(view), 0)


async def test_what_the_node_gets_later_is_opened_with_a_later_view_and_all_of_it_let_go(
    store: ObjectStore, tmp_path: Path
) -> None:
    cache = node_cache(store, tmp_path / "cache")
    shards = publish(store, tmp_path, "v1").shards
    cache.folder_for(shards[0].files)
    local, view = local_shards(store, tmp_path), view_of("v1")
    local.follow(view)
    await until_open(local, corpus_of(view), 0)
    assert local.replica(corpus_of(view), 1) is None
    cache.folder_for(shards[1].files)
    local.follow(view)
    await until_open(local, corpus_of(view), 1)
    shutil.rmtree(tmp_path / "cache")
    local.follow(view)
    # What is open needs its files no longer, and is not looked for again.
    assert openings() == []
    local.follow(view_of())
    assert local.replica(corpus_of(view), 0) is local.replica(corpus_of(view), 1) is None
