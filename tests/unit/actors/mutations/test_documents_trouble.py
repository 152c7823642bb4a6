"""The documents actor in trouble: what is full, away or damaged, and what goes on all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from actors.mutations.corpus import DocumentBounds
from cluster.errors import DeadlineExceeded, OutcomeUnknown, Overloaded, Unavailable
from cluster.mutations.region_writer import Written
from cluster.mutations.watermark import Watermark
from cluster.store.object_store import ObjectStore
from tests.support.store_fixtures import Door
from tests.support.waiting import until_told
from tests.support.worlds.documents_region import (
    CORPUS,
    TIMEOUT_S,
    documents_region,
    folded,
    write_of,
    written,
)


async def test_a_full_corpus_takes_deletes_alone(store: ObjectStore, tmp_path: Path) -> None:
    bounds = DocumentBounds(rows_max=1)
    async with documents_region(store, tmp_path, bounds=bounds) as documents:
        await written(documents, write_of("x"))
        outcomes = await documents.write(CORPUS, (write_of("y"), write_of("x", None)), TIMEOUT_S)
        assert isinstance(outcomes[0], Overloaded)
        assert "raygion compact" in outcomes[0].message
        assert isinstance(outcomes[1], Written)


async def test_what_is_under_way_is_bounded(store: ObjectStore, tmp_path: Path) -> None:
    door, bounds = Door(store), DocumentBounds(under_way_bytes_max=1)
    region = documents_region(door, tmp_path, bounds=bounds)  # type: ignore[arg-type]
    async with region as documents:
        await written(documents, write_of("x"))
        door.open.clear()
        first = asyncio.create_task(written(documents, write_of("y")))
        await until_told(documents.status, lambda told: told[CORPUS].waiting)
        with pytest.raises(Overloaded):
            await documents.write(CORPUS, (write_of("z"),), TIMEOUT_S)
        door.open.set()
        await first
        await written(documents, write_of("z"))


async def test_writes_say_when_the_store_is_away(store: ObjectStore, tmp_path: Path) -> None:
    door = Door(store)
    async with documents_region(door, tmp_path) as documents:  # type: ignore[arg-type]
        await written(documents, write_of("x"))
        door.open.clear()
        unknown = asyncio.create_task(documents.write(CORPUS, (write_of("y"),), 0.5))
        await asyncio.to_thread(door.knocked.wait, TIMEOUT_S)
        (waiting,) = await documents.write(CORPUS, (write_of("z"),), 0.1)
        assert isinstance(waiting, DeadlineExceeded), "it was taken out of the queue"
        (in_doubt,) = await unknown
        assert isinstance(in_doubt, OutcomeUnknown | DeadlineExceeded)
        with pytest.raises(Unavailable):
            await documents.refresh(CORPUS)
        door.open.set()
        await written(documents, write_of("w"))
    names = [mutation.document for mutation in folded(store).live()]
    assert "z" not in names
    assert {"w", "x"} <= set(names)


async def test_a_damaged_log_of_another_region_keeps_the_reading_time_back(
    store: ObjectStore, tmp_path: Path
) -> None:
    regions = ("a", "b")
    async with documents_region(store, tmp_path, "b", regions=regions) as b:
        await written(b, write_of("x"))
    path = f"logs/{CORPUS}/b/{1:020}.batch"
    whole = store.get(path)
    store.put(path, b"rotten")
    async with documents_region(store, tmp_path, "a", regions=regions) as a:
        await written(a, write_of("y"))
        with pytest.raises(Unavailable, match="no object of a log"):
            await a.refresh(CORPUS)
        status = (await a.status())[CORPUS]
        assert status.position.watermark == Watermark.of({"a": 1})
        assert set(status.unreadable) == {"b"}
        behind = status.position.read_ms
        store.put(path, whole)
        position = await a.refresh(CORPUS)
        assert position.read_ms > behind
        assert position.watermark == Watermark.of({"a": 1, "b": 1})


async def test_a_damaged_log_of_its_own_refuses_writes_until_it_is_mended(
    store: ObjectStore, tmp_path: Path
) -> None:
    async with documents_region(store, tmp_path) as documents:
        await written(documents, write_of("x"))
    path = f"logs/{CORPUS}/a/{1:020}.batch"
    whole = store.get(path)
    store.put(path, b"rotten")
    async with documents_region(store, tmp_path) as documents:
        with pytest.raises(Unavailable):
            await documents.refresh(CORPUS)
        (refused,) = await documents.write(CORPUS, (write_of("y"),), TIMEOUT_S)
        assert isinstance(refused, Unavailable)
        assert "restore it from a copy" in refused.message
        store.put(path, whole)
        await documents.refresh(CORPUS)
        await written(documents, write_of("y"))
