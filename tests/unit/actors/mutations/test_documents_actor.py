"""The documents actor: writes are in the store when they are told, and whoever follows sees them,
in this region and in the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.mutations.documents import Documents
from cluster.deltas.changes import Changes
from cluster.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    NotYet,
)
from cluster.mutations.mutation import IfVersion
from cluster.mutations.region_writer import Written
from cluster.mutations.watermark import HeldMutations, Watermark
from cluster.releases.events import DocumentsStatus
from cluster.serving.view import RegionView
from cluster.store.object_store import ObjectStore
from tests.support.store_fixtures import CountingStore
from tests.support.waiting import turns, until, until_told
from tests.support.worlds.documents_region import (
    CORPUS,
    DIMENSION,
    TIMEOUT_S,
    FakeCoordinator,
    documents_region,
    folded,
    view_of,
    write_of,
    written,
)


@pytest.fixture
async def documents(store: ObjectStore, tmp_path: Path) -> AsyncIterator[Documents]:
    async with documents_region(store, tmp_path) as documents:
        yield documents


async def everything(documents: Documents) -> Changes:
    """Without being one of those who follow."""
    return await documents.feed(CORPUS, Watermark(), 0.0)


async def test_a_write_is_in_the_store_when_it_is_told(
    documents: Documents, store: ObjectStore
) -> None:
    (outcome,) = await written(documents, write_of("x", "text of x"))
    fold = folded(store)
    assert [(m.document, m.time) for m in fold.live()] == [("x", outcome.version)]
    changes = await everything(documents)
    assert [(c.document, c.time) for c in changes.changes] == [("x", outcome.version)]
    assert changes.watermark == Watermark.of({"a": outcome.position})
    (kept,) = await documents.document(CORPUS, "x")
    assert kept.content is not None
    assert kept.content.text == "text of x"
    status = (await documents.status())[CORPUS]
    assert (status.num_rows, status.digest, status.waiting) == (1, fold.digest, 0)


async def test_a_document_keeps_no_memory_but_its_own(documents: Documents) -> None:
    """Not that of the call by which it came, with all others."""
    shared = np.ones((1000, DIMENSION), dtype=np.float32)
    await written(documents, replace(write_of("x"), vector=shared[3]))
    (kept,) = await documents.document(CORPUS, "x")
    assert kept.content is not None
    assert kept.content.vectors is not None
    assert kept.content.vectors.flags.owndata


async def test_each_write_has_its_own_end(documents: Documents) -> None:
    outcomes = await documents.write(
        CORPUS,
        (
            write_of("x", key="one"),
            write_of("x", if_version=IfVersion.ABSENT),
            write_of("x", key="one"),
            write_of("y", None),
            write_of("z", "of z", key="one"),
        ),
        TIMEOUT_S,
    )
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Written, Conflict, Written, Written, InvalidArgument]
    assert isinstance(outcomes[2], Written)
    assert outcomes[2].is_repeated


async def test_a_follower_hears_of_a_write_at_once(documents: Documents) -> None:
    before = await everything(documents)
    async with asyncio.timeout(TIMEOUT_S):
        polling = asyncio.create_task(
            documents.follow(CORPUS, before.epoch, before.version, 60.0, "test")
        )
        await written(documents, write_of("x"))
        changes = await polling
    assert (changes.after, [c.document for c in changes.changes]) == (before.version, ["x"])


async def test_a_poll_without_news_ends_with_the_time_of_the_reading(documents: Documents) -> None:
    await written(documents, write_of("x"))
    position = await documents.refresh(CORPUS)
    again = await documents.refresh(CORPUS)
    assert again.read_ms >= position.read_ms > 0
    changes = await documents.follow(CORPUS, again.epoch, again.version, 0.01, "test")
    assert (changes.changes, changes.version) == ((), again.version)
    assert changes.read_ms >= again.read_ms


async def test_an_actor_that_starts_reads_the_log(store: ObjectStore, tmp_path: Path) -> None:
    async with documents_region(store, tmp_path) as documents:
        await written(documents, write_of("x", key="one"), write_of("y"), write_of("y", None))
        before = await everything(documents)
    async with documents_region(store, tmp_path) as documents:
        await documents.refresh(CORPUS)
        after = await everything(documents)
        assert after.epoch != before.epoch
        assert after.watermark == before.watermark
        assert {(c.document, c.time) for c in after.changes} == {
            (c.document, c.time) for c in before.changes
        }
        (again,) = await written(documents, write_of("x", key="one"))
        assert again.is_repeated


async def test_regions_see_each_others_writes_and_have_equal_digests(
    store: ObjectStore, tmp_path: Path
) -> None:
    regions = ("a", "b")
    async with (
        documents_region(store, tmp_path, "a", regions=regions) as a,
        documents_region(store, tmp_path, "b", regions=regions) as b,
    ):
        (of_a,) = await written(a, write_of("x", "from a"))
        of_b, _ = await written(b, write_of("x", "from b, a bit longer"), write_of("y"))
        both = Watermark.of({"a": of_a.position, "b": of_b.position})
        for documents in (a, b):
            position = await documents.reached(CORPUS, both, TIMEOUT_S)
            assert both <= position.watermark
        status_a, status_b = (await a.status())[CORPUS], (await b.status())[CORPUS]
        assert status_a.digest == status_b.digest == folded(store).digest
        assert await a.document(CORPUS, "x") == await b.document(CORPUS, "x")


async def test_visible_waits_for_all_who_follow(documents: Documents) -> None:
    before = await everything(documents)
    for process in ("one", "other"):
        await documents.follow(CORPUS, before.epoch, before.version, 0.0, process)
    (outcome,) = await written(documents, write_of("x"))
    watermark = Watermark.of({"a": outcome.position})
    waiting = asyncio.create_task(documents.await_visible(CORPUS, watermark, TIMEOUT_S))
    changes = await documents.follow(CORPUS, before.epoch, before.version, 0.0, "one")
    polls = [asyncio.create_task(follow_on(documents, changes, "one"))]
    await turns(20)
    assert not waiting.done(), "the other one has not taken it in"
    polls.append(asyncio.create_task(follow_on(documents, changes, "other")))
    async with asyncio.timeout(TIMEOUT_S):
        position = await waiting
    assert (position.epoch, position.version) == (changes.epoch, changes.version)
    for poll in polls:
        poll.cancel()


async def follow_on(documents: Documents, changes: Changes, process: str) -> Changes:
    return await documents.follow(CORPUS, changes.epoch, changes.version, 60.0, process)


async def test_visible_does_not_wait_for_who_has_gone(store: ObjectStore, tmp_path: Path) -> None:
    async with documents_region(store, tmp_path, alive_s=0.05) as documents:
        await documents.follow(CORPUS, "", 0, 0.0, "gone")
        (outcome,) = await written(documents, write_of("x"))
        watermark = Watermark.of({"a": outcome.position})
        position = await documents.await_visible(CORPUS, watermark, TIMEOUT_S)
        assert watermark <= position.watermark


async def test_visible_says_when_a_process_lags(documents: Documents) -> None:
    lagging = asyncio.create_task(documents.follow(CORPUS, "", 0, 60.0, "lagging"))
    (outcome,) = await written(documents, write_of("x"))
    await lagging
    with pytest.raises(DeadlineExceeded, match="is stored"):
        await documents.await_visible(CORPUS, Watermark.of({"a": outcome.position}), 0.05)


async def test_what_nobody_has_written_is_not_reached(documents: Documents) -> None:
    with pytest.raises(NotYet):
        await documents.reached(CORPUS, Watermark.of({"a": 3}), 0.2)


async def test_the_change_feed_goes_on_from_a_watermark_in_any_incarnation(
    store: ObjectStore, tmp_path: Path
) -> None:
    async with documents_region(store, tmp_path) as documents:
        await written(documents, write_of("x"))
        seen = (await documents.feed(CORPUS, Watermark(), 60.0)).watermark
        await written(documents, write_of("y"))
        later = await documents.feed(CORPUS, seen, 60.0)
        assert [change.document for change in later.changes] == ["y"]
    async with documents_region(store, tmp_path) as documents:
        await documents.refresh(CORPUS)
        later = await documents.feed(CORPUS, seen, 60.0)
        assert "y" in [change.document for change in later.changes]


async def test_an_unknown_corpus_is_refused_by_name(documents: Documents) -> None:
    with pytest.raises(NotFound, match="'other'"):
        await documents.write("other", (write_of("x"),), TIMEOUT_S)


async def test_corpora_come_and_go_with_the_releases(store: ObjectStore, tmp_path: Path) -> None:
    coordinator = FakeCoordinator(view_of(CORPUS, elsewhere=["far"]))
    async with documents_region(store, tmp_path, coordinator=coordinator) as documents:
        assert set(await documents.status()) == {CORPUS}
        coordinator.publish(view_of(CORPUS, "more"))
        await until_told(documents.status, lambda told: "more" in told)
        await written(documents, write_of("x"))
        coordinator.publish(view_of("more"))
        await until_told(documents.status, lambda told: CORPUS not in told)
        with pytest.raises(NotFound):
            await documents.write(CORPUS, (write_of("x"),), TIMEOUT_S)


async def test_a_region_without_logs_lists_once_for_all_corpora(
    store: ObjectStore, tmp_path: Path
) -> None:
    counting = CountingStore(store)
    folders: list[str] = []
    counting.list_folders = lambda folder: folders.append(folder) or []  # type: ignore[method-assign,func-returns-value]
    coordinator = FakeCoordinator(view_of(CORPUS, "more", "others"))
    async with documents_region(counting, tmp_path, coordinator=coordinator) as documents:
        await documents.status()
        await until(lambda: folders)
        position = await documents.refresh(CORPUS)
        assert position.read_ms > 0
        assert (position.version, position.watermark) == (0, Watermark())
        assert set(folders) == {"logs"}
        assert not any(told.has_log for told in (await documents.status()).values())
        assert counting.calls.total() == 0


async def test_what_all_bases_hold_is_dropped_until_one_lacks_it(
    store: ObjectStore, tmp_path: Path
) -> None:
    coordinator = FakeCoordinator(view_of(CORPUS))
    async with documents_region(store, tmp_path, coordinator=coordinator) as documents:
        (of_x,) = await written(documents, write_of("x"))
        held = HeldMutations.of({"a": str(of_x.version)})
        await written(documents, write_of("y"))
        before = await everything(documents)
        coordinator.publish(with_held(coordinator.view, held))
        async with asyncio.timeout(TIMEOUT_S):
            dropped = await follow_on(documents, before, "test")
        assert (dropped.after, dropped.watermark) == (0, before.watermark)
        assert dropped.epoch != before.epoch
        assert [change.document for change in dropped.changes] == ["y"]
        coordinator.publish(with_held(coordinator.view, HeldMutations()))
        await until_told(documents.status, lambda told: told[CORPUS].num_rows == 2)
        whole = await everything(documents)
        assert {change.document for change in whole.changes} == {"x", "y"}
        assert before.watermark <= whole.watermark


async def test_an_actor_that_starts_tells_nothing_that_all_bases_hold(
    store: ObjectStore, tmp_path: Path
) -> None:
    async with documents_region(store, tmp_path) as documents:
        (of_x,) = await written(documents, write_of("x"))
        await written(documents, write_of("y"))
    view = with_held(view_of(CORPUS), HeldMutations.of({"a": str(of_x.version)}))
    async with documents_region(store, tmp_path, coordinator=FakeCoordinator(view)) as documents:
        await documents.refresh(CORPUS)
        assert [change.document for change in (await everything(documents)).changes] == ["y"]


async def test_what_bases_held_that_are_gone_does_not_count(
    store: ObjectStore, tmp_path: Path
) -> None:
    everything_of_a = HeldMutations.of({"a": f"{2**60}.0.a"})
    coordinator = FakeCoordinator(with_held(view_of(CORPUS), everything_of_a))
    async with documents_region(store, tmp_path, coordinator=coordinator) as documents:
        await documents.status()
        coordinator.publish(with_held(view_of(CORPUS), HeldMutations()))
        await until(lambda: coordinator.seen == coordinator.view.revision)
        await written(documents, write_of("x"))
        assert [change.document for change in (await everything(documents)).changes] == ["x"]


def with_held(view: RegionView, held: HeldMutations) -> RegionView:
    """The view of a region whose index holds these mutations."""
    (release,) = view.releases.values()
    corpora = {n: replace(corpus, held=held) for n, corpus in release.corpora.items()}
    releases = {release.number: replace(release, corpora=corpora)}
    return replace(view, releases=releases, revision=f"{held}")


async def test_the_coordinator_is_told_what_its_heartbeats_are_to_say(
    store: ObjectStore, tmp_path: Path
) -> None:
    coordinator = FakeCoordinator(view_of(CORPUS, "untouched"))
    async with documents_region(store, tmp_path, coordinator=coordinator) as documents:
        await documents.status()
        assert coordinator.documents is None, "no corpus has a log"
        (outcome,) = await written(documents, write_of("x"))
        await until(lambda: coordinator.documents is not None)
        assert coordinator.documents == {
            CORPUS: DocumentsStatus(
                watermark={"a": outcome.position}, documents_digest=folded(store).digest
            )
        }
