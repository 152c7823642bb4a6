"""Logs of documents beside the garbage collector."""

from __future__ import annotations

from cluster.catalog.catalog import Catalog
from cluster.clock import Deadline
from cluster.documents.deletes import drop_corpus
from cluster.mutations.store_log import StoreMutationLog
from cluster.mutations.watermark import Watermark
from cluster.releases.garbage import StoreCollector
from tests.support.values.mutations import batch, upsert
from tests.support.worlds.gc_world import CORPUS, ShiftedClock, TimedStore, World


def test_logs_are_not_collected() -> None:
    """Not even of a corpus that is gone: a writer that was away must find the names taken."""
    clock = ShiftedClock()
    world = World(TimedStore(clock))
    world.elect()
    world.corpus(1, ["part"])
    log = StoreMutationLog(world.store, CORPUS)
    for position in (1, 2):
        mutations = batch(position, upsert("x", position), corpus=CORPUS)
        log.append(mutations, deadline=Deadline.after(9))
    before = world.store.list_names(f"logs/{CORPUS}/a")
    drop_corpus(catalog=Catalog(world.store), corpus=CORPUS, log=log)
    collector = StoreCollector(world.store, clock)
    removed = 0
    for _ in range(3):
        clock.hours += 25.0
        removed += collector.collect(keep=1, grace_s=24 * 3600.0).removed_objects
    assert removed > 0
    assert world.store.list_names(f"logs/{CORPUS}/a") == before
    assert log.head() == Watermark.of({"a": 2})
