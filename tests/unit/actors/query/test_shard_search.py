"""Searches that travel together find what each finds alone, and keep their own deadlines."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from actors.query.shard_search import Patience, ShardSearch
from cluster.arrays import Float32Array
from cluster.clock import SYSTEM_CLOCK, Deadline
from cluster.errors import DeadlineExceeded, Unavailable
from cluster.logs.context import bound_context, log_scope
from cluster.query.search import DocumentsSeen, ShardHits, ShardQuery
from cluster.search.checks import HITS_MAX
from tests.support.fakes import SimClock
from tests.support.worlds.fake_shards import QUERIES, ROWS, SHARDS, VECTORS, FakeShard, kind_of


@pytest.fixture
def shards() -> list[FakeShard]:
    return [FakeShard(number) for number in range(SHARDS)]


def expected_ids(vector: Float32Array, top_k: int) -> list[str]:
    scores = {f"{s}-{r}": float(vector @ VECTORS[s, r]) for s in range(SHARDS) for r in range(ROWS)}
    return sorted(scores, key=lambda id: -scores[id])[:top_k]


async def test_each_search_of_a_batch_gets_its_own_hits(shards: list[FakeShard]) -> None:
    search, kind = ShardSearch(SYSTEM_CLOCK), kind_of(shards)
    parts = [QUERIES[:1], QUERIES[1:4], QUERIES[4:5], QUERIES[5:]]
    found = await asyncio.gather(
        *(search.search(kind, part, Deadline.after(5.0)) for part in parts)
    )
    assert [shard.batches for shard in shards] == [[len(QUERIES)]] * SHARDS
    for part, one in zip(parts, found, strict=True):
        assert [[hit.id for hit in hits] for hits in one.results] == [
            expected_ids(vector, 5) for vector in part
        ]
        assert all(
            (hit.text, hit.metadata) == (f"text {hit.id}", {"shard": int(hit.id[0])})
            for hits in one.results
            for hit in hits
        )
        assert one.fell_back == tuple(bool(x) for x in part[:, 0] > 0)
        assert one.coverage == 1.0
        assert {"wait", "scatter", "merge", "fetch"} <= one.timings_ms.keys()


async def test_the_log_of_a_batch_names_none_of_its_requests() -> None:
    class Watched(FakeShard):
        async def search(self, query: ShardQuery, timeout_s: float) -> ShardHits:
            contexts.append(bound_context())
            return await super().search(query, timeout_s)

    contexts: list[object] = []
    search, kind = ShardSearch(SYSTEM_CLOCK), kind_of([Watched(0)])

    async def asked(trace_id: str) -> object:
        with log_scope(trace_id=trace_id):
            await search.search(kind, QUERIES[:1], Deadline.after(5.0))
            return bound_context()["trace_id"]

    assert await asyncio.gather(asked("a"), asked("b")) == ["a", "b"]
    assert contexts == [{}]


async def test_without_passages_the_hits_are_arrays(shards: list[FakeShard]) -> None:
    kind = replace(kind_of(shards), passages=False)
    search = ShardSearch(SYSTEM_CLOCK)
    one, other = await asyncio.gather(
        search.search(kind, QUERIES[:2], Deadline.after(5.0)),
        search.search(kind, QUERIES[2:3], Deadline.after(5.0)),
    )
    assert one.results == other.results == ()
    assert one.arrays is not None
    assert other.arrays is not None
    ids = [*one.arrays.ids.tolist(), *other.arrays.ids.tolist()]
    assert [[id.decode() for id in row] for row in ids] == [
        expected_ids(vector, 5) for vector in QUERIES[:3]
    ]


async def test_another_kind_of_search_is_another_batch(shards: list[FakeShard]) -> None:
    search = ShardSearch(SYSTEM_CLOCK)
    kinds = [kind_of(shards, top_k=5), kind_of(shards, top_k=2)]
    few = await asyncio.gather(
        *(search.search(kind, QUERIES[:1], Deadline.after(5.0)) for kind in kinds)
    )
    assert [len(found.results[0]) for found in few] == [5, 2]
    assert shards[0].batches == [1, 1]


async def test_a_missing_shard_is_a_number_and_too_few_are_an_error(
    shards: list[FakeShard],
) -> None:
    shards[1].error = Unavailable("down")
    deadline = Deadline.after(5.0)
    found = await ShardSearch(SYSTEM_CLOCK).search(kind_of(shards), QUERIES[:1], deadline)
    assert found.coverage == pytest.approx(2 / 3)
    found.check_coverage(0.5, deadline)
    with pytest.raises(Unavailable, match=r"0\.67"):
        found.check_coverage(1.0, deadline)


async def test_a_shard_that_is_lost_before_its_texts_came_is_missing_too(
    shards: list[FakeShard],
) -> None:
    shards[1].fetch_error = Unavailable("gone since")
    deadline = Deadline.after(5.0)
    kind = replace(kind_of(shards), patience=patience_of(5.0).magnitude)
    found = await ShardSearch(SYSTEM_CLOCK).search(kind, QUERIES[:3], deadline)
    assert found.coverage == pytest.approx(2 / 3)
    assert found.first_error is shards[1].fetch_error
    for vector, hits in zip(QUERIES, found.results, strict=False):
        wanted = [id for id in expected_ids(vector, 5) if not id.startswith("1-")]
        assert [hit.id for hit in hits] == wanted
    # Where no shard may be missing, it is an error.
    with pytest.raises(Unavailable, match="gone since"):
        await ShardSearch(SYSTEM_CLOCK).search(kind_of(shards), QUERIES[:3], deadline)


async def test_a_batch_has_no_more_hits_than_a_request_may_have(shards: list[FakeShard]) -> None:
    search = ShardSearch(SYSTEM_CLOCK)
    kind = kind_of(shards, top_k=1000)
    async with asyncio.TaskGroup() as group:
        for _ in range(300):
            group.create_task(search.search(kind, QUERIES[:1], Deadline.after(20.0)))
    assert sum(shards[0].batches) == 300
    assert max(shards[0].batches) * 1000 <= HITS_MAX


async def test_no_shard_at_all_is_an_empty_answer(shards: list[FakeShard]) -> None:
    for shard in shards:
        shard.error = Unavailable("down")
    found = await ShardSearch(SYSTEM_CLOCK).search(
        kind_of(shards), QUERIES[:2], Deadline.after(5.0)
    )
    assert (found.coverage, found.results) == (0.0, ((), ()))
    bare = replace(kind_of(shards), passages=False)
    found = await ShardSearch(SYSTEM_CLOCK).search(bare, QUERIES[:2], Deadline.after(5.0))
    assert found.arrays is not None
    assert found.arrays.ids.tolist() == [[b""] * 5] * 2


async def test_a_search_in_a_batch_keeps_its_own_deadline(shards: list[FakeShard]) -> None:
    for shard in shards:
        shard.gate.clear()
    search, kind = ShardSearch(SYSTEM_CLOCK), kind_of(shards)
    patient = asyncio.create_task(search.search(kind, QUERIES[:1], Deadline.after(30.0)))
    with pytest.raises(DeadlineExceeded):
        await search.search(kind, QUERIES[1:2], Deadline.after(0.02))
    for shard in shards:
        shard.gate.set()
    found = await patient
    assert [hit.id for hit in found.results[0]] == expected_ids(QUERIES[0], 5)


async def test_some_of_the_shards_may_be_asked(shards: list[FakeShard]) -> None:
    """As for a filter that names its partitions: the others neither answer nor count."""
    kind = kind_of([shards[2], shards[0]], top_k=5)
    shards[1].error = Unavailable("not asked")
    found = await ShardSearch(SYSTEM_CLOCK).search(kind, QUERIES[:1], Deadline.after(5.0))
    assert found.coverage == 1.0
    assert shards[1].batches == []
    everywhere = expected_ids(QUERIES[0], SHARDS * ROWS)
    wanted = [id for id in everywhere if not id.startswith("1-")][:5]
    assert [hit.id for hit in found.results[0]] == wanted
    for hit in found.results[0]:
        assert hit.text == f"text {hit.id}"
        assert hit.metadata == {"shard": int(hit.id[0])}


def patience_of(waits_s: float, *, arrived_s_ago: float = 0.0) -> Patience:
    return Patience(waits_s=waits_s, until=Deadline.after(waits_s - arrived_s_ago))


async def test_a_batch_waits_for_missing_shards_until_its_first_search_is_to_be_answered(
    shards: list[FakeShard],
) -> None:
    """Also one that waited in the queue: its time counts from its arrival."""
    shards[1].gate.clear()
    waits, waited = patience_of(20.0), patience_of(16.1, arrived_s_ago=16.0)
    search, kind = ShardSearch(SYSTEM_CLOCK), replace(kind_of(shards), patience=waits.magnitude)
    found = await asyncio.gather(
        search.search(kind, QUERIES[:1], Deadline.after(25.0), waits),
        search.search(kind, QUERIES[1:2], Deadline.after(0.2), waited),
    )
    assert shards[0].batches == [2]
    assert [one.coverage for one in found] == [pytest.approx(2 / 3)] * 2
    assert isinstance(found[0].first_error, DeadlineExceeded)


@pytest.mark.parametrize(
    ("waits_s", "passed_s", "ends_s"),
    [(8.0, 0.0, 8.0), (8.0, 5.0, 8.0), (8.0, 7.0, 8.5), (8.0, 9.0, 9.5), (2.5, 1.0, 2.5)],
)
def test_a_search_that_is_late_still_gives_its_shards_some_time(
    waits_s: float, passed_s: float, ends_s: float
) -> None:
    clock = SimClock(0.0)
    patience = Patience(waits_s=waits_s, until=Deadline.after(waits_s, clock))
    deadline = Deadline.after(10.0, clock)
    clock.sleep(passed_s)
    assert patience.ends_s(deadline) == ends_s


@pytest.mark.parametrize(
    ("waits_s", "other_s", "together"),
    [(4.0, 4.0, True), (4.0, 4.001, True), (2.1, 3.9, True), (0.8, 4.0, False), (0.8, 0.08, False)],
)
def test_searches_travel_together_that_wait_about_as_long(
    waits_s: float, other_s: float, together: bool
) -> None:
    assert (patience_of(waits_s).magnitude == patience_of(other_s).magnitude) == together


async def test_searches_that_see_other_documents_do_not_travel_together() -> None:
    shard = FakeShard(0)
    versions = (1, 2, 2)
    seen = [DocumentsSeen(epoch="e", version=version, embedder=None) for version in versions]
    kinds = [replace(kind_of([shard]), documents=documents) for documents in seen]
    search, deadline = ShardSearch(SYSTEM_CLOCK), Deadline.after(10.0)
    await asyncio.gather(*(search.search(kind, QUERIES[:1], deadline) for kind in kinds))
    assert sorted(shard.batches) == [1, 2]
