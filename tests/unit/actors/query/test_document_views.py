"""Searches see the documents that are written one by one, over shards that were built before."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from actors.query.document_views import DocumentViews
from actors.query.engine import QueryEngine
from actors.query.local_shards import LocalShards
from actors.query.release_uses import ReleaseUses
from actors.query.replica_sets import ReplicaSets
from cluster.canary.counts import OutcomeCounts
from cluster.catalog.catalog import Catalog
from cluster.clock import SYSTEM_CLOCK, Deadline
from cluster.errors import InvalidArgument, NotFound, Unavailable
from cluster.generation.prompt import PromptTemplate
from cluster.mutations.mutation import Content
from cluster.query.filters import parse_filter
from cluster.query.search import SearchRequest, SearchResult
from cluster.query.terms import BASE
from cluster.releases.entries import Switch
from cluster.serving.consistency import RegionKnowledge
from cluster.serving.view import CorpusView, Pulse, RegionView, ReleaseView
from cluster.store.object_store import ObjectStore
from cluster.vectors.metric import Metric
from tests.support.node_cache import node_cache
from tests.support.values.changing_documents import content_of
from tests.support.values.documents_feed import DocumentsFeed
from tests.support.waiting import turns, until
from tests.support.worlds.published_shards import (
    DIMENSION,
    NUM_ROWS,
    SHARDS,
    VECTORS,
    openings,
    publish,
)

CORPUS = "words"


def corpus_view(version: str = "v1") -> CorpusView:
    return CorpusView(
        corpus=CORPUS,
        index_version=version,
        dimension=DIMENSION,
        metric=Metric.INNER_PRODUCT,
        metadata_schema={},
        has_embedder=False,
        num_passages=NUM_ROWS,
        recall_at_10=1.0,
        shards=tuple((f"words/{shard}/0",) for shard in range(SHARDS)),
    )


def region_view(*corpora: CorpusView) -> RegionView:
    releases = {
        number: ReleaseView(
            number=number,
            corpora={CORPUS: corpus},
            embedders=(),
            generator=None,
            prompt=PromptTemplate(),
        )
        for number, corpus in enumerate(corpora, start=1)
    }
    return RegionView(
        region="here", releases=releases, switches=(Switch(release=1, at_ms=0, position=1),)
    )


@dataclass
class Gateway:
    """A process that searches all shards itself, and follows a feed."""

    feed: DocumentsFeed
    live: DocumentViews
    engine: QueryEngine

    async def search(self, row: int = 0, **changes: Any) -> SearchResult:
        asked = SearchRequest(vectors=VECTORS[row : row + 1], top_k=3, trace_id="t")
        return await self.engine.search(replace(asked, **changes))

    async def has(self, position: int) -> None:
        """Returns once searches see what was written at that position."""
        await until(
            lambda: (
                CORPUS in self.live.known and self.live.known[CORPUS].watermark["here"] >= position
            )
        )


@pytest.fixture
async def gateway(store: ObjectStore, tmp_path: Path) -> AsyncIterator[Gateway]:
    manifest = publish(store, tmp_path, "v1")
    feed, rng, view = DocumentsFeed(), random.Random(0), region_view(corpus_view())
    local = LocalShards(Catalog(store), node_cache(store, tmp_path / "cache"))
    for artifact in manifest.shards:
        node_cache(store, tmp_path / "cache").folder_for(artifact.built_files)
    live = DocumentViews(feed, rng, local)
    knowledge = RegionKnowledge(view, pulse=Pulse(store_id="store"), skew_max_ms=100)
    engine = QueryEngine(
        views=cast(Any, SimpleNamespace(view=view, knowledge=knowledge)),
        uses=ReleaseUses(),
        outcomes=OutcomeCounts("here", SYSTEM_CLOCK),
        replica_sets=ReplicaSets(SYSTEM_CLOCK, rng, local),
        answering=cast(Any, SimpleNamespace(follow=lambda _: None)),
        clock=SYSTEM_CLOCK,
        documents=live,
    )
    local.follow(view)
    await asyncio.gather(*openings())
    live.follow(view)
    await live.start(Deadline.after(10.0))
    yield Gateway(feed, live, engine)
    live.stop()


def document(row: int, scale: float = 1.0, **metadata: str) -> Content:
    """A document that is as near to the vector of that row as its scale is large."""
    return content_of([(VECTORS[row] * scale).tolist()], metadata, embedder=None)


def ids(found: SearchResult) -> list[str]:
    return [hit.id for hit in found.hits]


def best_rows(row: int, without: tuple[int, ...] = (), k: int = 3) -> list[str]:
    scores = VECTORS.astype(np.float64) @ VECTORS[row].astype(np.float64)
    order = [n for n in np.argsort(-scores) if n not in without]
    return [f"d{n:03}" for n in order[:k]]


async def test_a_search_sees_what_was_written_changed_and_deleted(gateway: Gateway) -> None:
    first, second, _ = best_rows(0)
    gateway.feed.write({"new": document(0, 5.0), first: None}, 1)
    await gateway.has(1)
    found = await gateway.search()
    assert ids(found) == ["new", *best_rows(0, without=(int(first[1:]),))[:2]]
    assert (found.hits[0].text, found.coverage) == ("passage 0 ", 1.0)
    gateway.feed.write({second: document(0, 9.0), "new": None}, 2)
    await gateway.has(2)
    assert ids(await gateway.search())[0] == second
    assert ids(await gateway.search()).count(second) == 1
    assert "new" not in ids(await gateway.search(top_k=NUM_ROWS))
    assert len((await gateway.search(top_k=NUM_ROWS)).hits) == NUM_ROWS - 1


async def test_batches_and_hits_without_passages_see_them_too(gateway: Gateway) -> None:
    gateway.feed.write({"new": document(0, 5.0), "other": document(1, 5.0)}, 1)
    await gateway.has(1)
    found = await gateway.search(vectors=VECTORS[:2], passages=False)
    assert found.arrays is not None
    assert found.arrays.ids[:, 0].tolist() == [b"new", b"other"]


async def test_as_many_hits_come_as_documents_are_left(gateway: Gateway) -> None:
    gateway.feed.write({f"d{row:03}": None for row in range(NUM_ROWS - 4)}, 1)
    await gateway.has(1)
    left = {f"d{row:03}" for row in range(NUM_ROWS - 4, NUM_ROWS)}
    assert set(ids(await gateway.search(top_k=10))) == left


async def test_who_asks_for_the_base_gets_the_base(gateway: Gateway) -> None:
    before = await gateway.search(release=1)
    gateway.feed.write({"new": document(0, 5.0)}, 1)
    await gateway.has(1)
    found = await gateway.search(release=1, documents=BASE)
    assert (found.results, found.session) == (before.results, before.session)
    assert ids(await gateway.search(release=1))[0] == "new"


async def test_without_written_documents_a_reply_is_as_it_was(gateway: Gateway) -> None:
    found = await gateway.search()
    assert ids(found) == best_rows(0)
    base = await gateway.search(release=1, documents=BASE)
    assert (found.results, found.session) == (base.results, base.session)
    assert gateway.live.known == {}


async def test_a_reply_tells_how_far_its_documents_have_come(gateway: Gateway) -> None:
    before = await gateway.search()
    gateway.feed.write({"new": document(0, 5.0)}, 1)
    gateway.feed.feed.has_read(SYSTEM_CLOCK.wall_ms() - 60_000)
    await gateway.has(1)
    found = await gateway.search()
    assert found.session != before.session
    assert found.staleness_ms >= 60_000


async def test_each_search_sees_one_version_of_a_document(gateway: Gateway) -> None:
    """Two documents change together, all the time; a search sees both as of one moment."""

    async def write() -> None:
        for position in range(1, 150):
            pair = document(0, 5.0 + position) if position % 7 else None
            gateway.feed.write({"d000": pair, "twin": pair}, position)
            await turns(20)

    writing, told = asyncio.create_task(write()), set()
    await gateway.has(1)
    while not writing.done():
        hits = (await gateway.search(top_k=NUM_ROWS + 1)).hits
        scores = [hit.score for hit in hits if hit.id in ("d000", "twin")]
        assert len(hits) == NUM_ROWS - 1 + len(scores)
        assert scores in ([], scores[:1] * 2)
        told.update(scores)
        await asyncio.sleep(0)
    await writing
    assert len(told) > 3


async def test_searches_of_different_versions_do_not_travel_together(gateway: Gateway) -> None:
    gateway.feed.write({"new": document(0, 5.0)}, 1)
    await gateway.has(1)
    early = asyncio.create_task(gateway.search())
    await asyncio.sleep(0)
    gateway.feed.write({"new": None}, 2)
    await gateway.has(2)
    late = await gateway.search()
    assert ids(await early)[0] == "new"
    assert "new" not in ids(late)


async def test_a_new_incarnation_takes_over_when_it_has_come_as_far(gateway: Gateway) -> None:
    gateway.feed.write({"a": document(0, 5.0)}, 1)
    gateway.feed.write({"b": document(0, 6.0)}, 2)
    await gateway.has(2)
    gateway.feed.start_anew()
    gateway.feed.write({"a": document(0, 5.0)}, 1)
    await until(lambda: ("epoch 2", 1) in gateway.feed.polls)
    assert ids(await gateway.search())[:2] == ["b", "a"]
    assert gateway.live.known[CORPUS].watermark["here"] == 2
    gateway.feed.write({"b": document(0, 7.0), "c": document(0, 8.0)}, 3)
    await gateway.has(3)
    assert ids(await gateway.search()) == ["c", "b", "a"]


async def test_the_last_documents_stay_while_the_actor_is_away(gateway: Gateway) -> None:
    gateway.feed.write({"new": document(0, 5.0)}, 1)
    await gateway.has(1)
    gateway.feed.away = True
    gateway.feed.notify()
    assert ids(await gateway.search())[0] == "new"
    with pytest.raises(Unavailable):
        await gateway.live.refresh(CORPUS)
    gateway.feed.write({"new": None}, 2)
    gateway.feed.away = False
    await gateway.has(2)
    assert "new" not in ids(await gateway.search())


async def test_a_process_starts_without_the_actor(gateway: Gateway) -> None:
    feed = DocumentsFeed()
    feed.away = True
    live = DocumentViews(feed, random.Random(0), None)
    view = region_view(corpus_view())
    live.follow(view)
    await live.start(Deadline.after(10.0))
    release = view.releases[1]
    assert live.view(release, release.corpora[CORPUS]) is None
    live.stop()


async def test_a_refresh_brings_what_was_written_before_it(gateway: Gateway) -> None:
    gateway.feed.write({"new": document(0, 5.0)}, 1)
    await gateway.live.refresh(CORPUS)
    known = gateway.live.known[CORPUS]
    assert (known.watermark["here"], known.read_ms) == (1, 1)
    await gateway.live.refresh(CORPUS)
    assert gateway.live.known[CORPUS].read_ms == 2
    with pytest.raises(NotFound):
        await gateway.live.refresh("unknown")


async def test_a_release_that_compares_other_vectors_gets_its_own_view(gateway: Gateway) -> None:
    gateway.feed.write({"new": document(0, 5.0), "gone": None}, 1)
    await gateway.has(1)
    cosine = replace(corpus_view("v2"), metric=Metric.COSINE)
    view = region_view(corpus_view(), cosine)
    release = view.releases[2]
    with pytest.raises(Unavailable, match="not there yet"):
        gateway.live.view(release, cosine)
    gateway.live.follow(view)
    assert ids(await gateway.search())[0] == "new"

    def is_there() -> bool:
        with contextlib.suppress(Unavailable):
            found = gateway.live.view(release, cosine)
            return found is not None and found.num_documents == 2
        return False

    await until(is_there)
    assert ids(await gateway.search())[0] == "new"


async def test_a_field_that_only_written_documents_have_can_be_asked_for(
    gateway: Gateway,
) -> None:
    gateway.feed.write({"new": document(0, 5.0, colour="red")}, 1)
    await gateway.has(1)
    found = await gateway.search(filter=parse_filter({"colour": "red"}), fields=("colour",))
    assert [(hit.id, hit.metadata) for hit in found.hits] == [("new", {"colour": "red"})]
    without = await gateway.search(filter=parse_filter({"colour": None}), fields=("colour",))
    assert ids(without) == best_rows(0)
    assert without.hits[0].metadata == {}
    with pytest.raises(InvalidArgument, match="is no metadata field"):
        await gateway.search(filter=parse_filter({"weight": 1}))
    with pytest.raises(InvalidArgument, match="there is no field"):
        await gateway.search(fields=("weight",))
