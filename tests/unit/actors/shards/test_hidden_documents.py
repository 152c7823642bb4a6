"""What a replica leaves out of its hits for the live documents that a search sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from actors.shards.replica import ShardReplica
from cluster.catalog.catalog import Catalog
from cluster.deltas.changes import Changes
from cluster.errors import Unavailable
from cluster.query.search import DocumentsSeen, ShardQuery
from cluster.store.object_store import ObjectStore
from tests.support.fakes import SimClock
from tests.support.node_cache import node_cache
from tests.support.values.changing_documents import content_of
from tests.support.values.documents_feed import DocumentsFeed
from tests.support.waiting import until
from tests.support.worlds.published_shards import NUM_ROWS, SHARDS, VECTORS, publish, query

ROWS_HERE = NUM_ROWS // SHARDS
OWN, OTHER = "d000", "d002"
"""Documents of shard 0."""
EMBEDDED = content_of([VECTORS[0].tolist()], embedder=None)


class Replica:
    """Shard 0 of an index, which follows a feed."""

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self.documents = DocumentsFeed()
        cache = node_cache(store, folder / "cache")
        self.replica = ShardReplica(0, cache, self.documents, clock=SimClock())
        self.manifest = publish(store, folder, "v1")

    async def hidden_at(self, version: int, epoch: str = "epoch 1") -> set[str]:
        seen = DocumentsSeen(epoch=epoch, version=version, embedder=None)
        found = await self.replica.search(replace(everything(), documents=seen), 5.0)
        every = await self.replica.search(everything(), 5.0)
        return {id.decode() for id in set(every.ids[0]) - set(found.ids[0])}


def everything() -> ShardQuery:
    return replace(query("v1", 0), top_k=ROWS_HERE)


@pytest.fixture
async def shard(store: ObjectStore, tmp_path: Path) -> Replica:
    made = Replica(store, tmp_path)
    await made.replica.load(made.manifest)
    return made


async def test_searches_of_different_versions_leave_out_what_each_one_hides(
    shard: Replica,
) -> None:
    shard.documents.write({OWN: None}, 1)
    assert await shard.hidden_at(1) == {OWN}
    shard.documents.write({OTHER: EMBEDDED, "new": EMBEDDED}, 2)
    assert await shard.hidden_at(2) == {OWN, OTHER}
    assert await shard.hidden_at(1) == {OWN}
    assert await shard.hidden_at(0) == set()


async def test_an_index_that_is_opened_later_knows_what_was_hidden_before(
    shard: Replica, store: ObjectStore
) -> None:
    shard.documents.write({OWN: None}, 1)
    assert await shard.hidden_at(1) == {OWN}
    shard.documents.write({OWN: None, OTHER: None}, 2)
    assert await shard.hidden_at(2) == {OWN, OTHER}
    shard.replica.unload("v1")
    (manifest,) = (index for index, _ in Catalog(store).list_indexes("words"))
    await shard.replica.load(manifest)
    assert [await shard.hidden_at(version) for version in (1, 2)] == [{OWN}, {OWN, OTHER}]


async def test_a_search_that_began_in_an_old_epoch_ends_in_it(shard: Replica) -> None:
    shard.documents.write({OWN: None}, 1)
    assert await shard.hidden_at(1) == {OWN}
    shard.documents.start_anew()
    shard.documents.write({OTHER: None}, 2)
    assert await shard.hidden_at(1, "epoch 2") == {OTHER}
    assert await shard.hidden_at(1, "epoch 1") == {OWN}


async def test_a_version_that_does_not_come_is_unavailable_here(shard: Replica) -> None:
    seen = DocumentsSeen(epoch="epoch 1", version=7, embedder=None)
    with pytest.raises(Unavailable, match="does not have the documents yet"):
        await shard.replica.search(replace(everything(), documents=seen), 60.0)


async def test_the_last_documents_stay_while_the_actor_is_away(shard: Replica) -> None:
    shard.documents.write({OWN: None}, 1)
    assert await shard.hidden_at(1) == {OWN}
    shard.documents.away = True
    await until(lambda: bool(shard.documents.polls))
    assert await shard.hidden_at(1) == {OWN}
    shard.documents.write({OTHER: None}, 2)
    shard.documents.away = False
    assert await shard.hidden_at(2) == {OWN, OTHER}


async def test_changes_that_do_not_follow_are_asked_for_anew(shard: Replica) -> None:
    shard.documents.write({OWN: None}, 1)
    assert await shard.hidden_at(1) == {OWN}
    since = shard.documents.feed.since

    def with_a_gap(epoch: str, version: int) -> Changes:
        shard.documents.feed.since = since  # type: ignore[method-assign]
        changes = since(epoch, version)
        return replace(changes, after=changes.after + 5, version=changes.version + 6)

    shard.documents.feed.since = with_a_gap  # type: ignore[method-assign]
    shard.documents.write({OTHER: None}, 2)
    assert await shard.hidden_at(2) == {OWN, OTHER}
