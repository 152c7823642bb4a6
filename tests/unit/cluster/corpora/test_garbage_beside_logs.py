"""Logs of documents beside the garbage collector."""

from __future__ import annotations

from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.files import ArtifactFile
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
    catalog, artifacts = Catalog(world.store), Artifacts(world.store)
    sha256, size_bytes = artifacts.put_bytes(b"what counts")
    span = ArtifactFile(path="a/1", sha256=sha256, size_bytes=size_bytes)
    latest = catalog.existing_corpus(CORPUS)
    catalog.append_corpus(latest.model_copy(update={"position": 2, "spans": (span,)}))
    drop_corpus(catalog=catalog, corpus=CORPUS, log=log)
    collector = StoreCollector(world.store, clock)
    removed = 0
    for _ in range(3):
        clock.hours += 25.0
        removed += collector.collect(keep=1, grace_s=24 * 3600.0).removed_objects
    assert removed > 0
    assert world.store.list_names(f"logs/{CORPUS}/a") == before
    assert log.head() == Watermark.of({"a": 2})
    assert artifacts.is_stored(span), "a compaction of a corpus of this name starts from it"
