"""Garbage collection: what is needed stays, what is not goes after the grace period, and a writer
is never left with less than it was told it has.
"""

from __future__ import annotations

import pytest

from cluster.artifacts.claims import CLAIMS, SWEEPS, Sweep, claim_all
from cluster.artifacts.fetch import blob_path
from cluster.artifacts.files import ArtifactFile, Blob, FileDelta
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import ModelKind
from cluster.errors import Conflict, Corrupt, InvalidArgument, NotFound, Unavailable
from cluster.releases.contents import claim_release, read_manifests
from cluster.releases.entries import ReleaseContents
from cluster.releases.events import RegionStatus, heartbeat_path
from cluster.releases.garbage import MARKS, Collected, StoreCollector
from cluster.store.object_store import ObjectStore
from cluster.store.stored_object import StoredObject
from tests.support.store_fixtures import (
    LossyStore,
    address,
    memory_store,
    s3_server,
    scripted,
    store,
)
from tests.support.worlds.gc_world import CORPUS, ShiftedClock, TimedStore, World

__all__ = ["address", "memory_store", "s3_server", "store"]

GRACE_S = 24 * 3600.0


class Collecting:
    """A collector whose next run is so many hours after the last."""

    def __init__(self, store: ObjectStore, clock: ShiftedClock | None = None) -> None:
        self.clock = clock or ShiftedClock()
        self.collector = StoreCollector(store, self.clock)

    def run(self, hours: float = 25.0, *, keep: int = 1, dry_run: bool = False) -> Collected:
        self.clock.hours += hours
        return self.collector.collect(keep=keep, grace_s=GRACE_S, dry_run=dry_run)


@pytest.fixture
def world(store: ObjectStore) -> World:
    """A corpus of two positions, on a store of each kind."""
    world = World(store)
    world.elect()
    world.corpus(1, ["part"])
    world.corpus(2, ["part", "another part"])
    return world


@pytest.fixture
def collecting(store: ObjectStore) -> Collecting:
    return Collecting(store)


@pytest.mark.parametrize(("keep", "kept"), [(1, "de"), (2, "de"), (3, "cde"), (9, "abcde")])
def test_the_last_releases_stay_with_all_they_name(keep: int, kept: str) -> None:
    """Release 5 is current, 4 was before it. Never fewer than those two."""
    clock = ShiftedClock()
    store = TimedStore(clock)
    world, collecting = World(store), Collecting(store, clock)
    world.elect()
    world.corpus(1, ["part"])
    world.corpus(2, ["part", "another part"])
    indexes = {name: world.index(name, [f"of {name}", "shared"]) for name in "abcde"}
    models = {name: world.model(name, [world.blob(f"weights {name}")]) for name in "abcde"}
    clock.hours += 1
    world.index("newest", ["of the newest"], position=2)
    world.model("newest", [world.blob("newest weights")])
    for number, name in enumerate("abcde", 1):
        world.propose(number, indexes[name], models[name])
        world.commit(number)
    collecting.run(keep=keep)
    report = collecting.run(keep=keep)
    # The blob that all indexes share is of those that stay, too.
    own = {
        name: made.paths - {blob_path(world.blob("shared").sha256)}
        for name, made in indexes.items()
    }
    assert "".join(name for name in own if world.holds(own[name])) == kept
    assert "".join(name for name in models if world.holds(models[name].paths)) == kept
    assert report.kept_releases == tuple("abcde".index(name) + 1 for name in kept)
    assert report.removed_objects == 4 * (5 - len(kept))
    assert world.log.latest() == 11


def test_after_a_rollback_the_release_that_is_current_stays(memory_store: ObjectStore) -> None:
    world, collecting = World(memory_store), Collecting(memory_store)
    world.elect()
    made = {number: world.index(f"index {number}", [f"of {number}"]) for number in (1, 2, 3)}
    world.corpus(1, ["part"])
    world.corpus(2, ["part", "another part"])
    world.index("newest", ["of the newest"], position=2)
    for number in (1, 2, 3):
        world.propose(number, made[number])
        world.commit(number)
    world.rollback(1)
    collecting.run()
    assert collecting.run().kept_releases == (1, 3)
    assert [world.holds(made[number].paths) for number in (1, 2, 3)] == [True, False, True]


def test_what_a_region_still_holds_stays_until_it_is_silent(memory_store: ObjectStore) -> None:
    """A region that cannot load newer releases serves an old one, and may have to load it again."""
    world, collecting = World(memory_store), Collecting(memory_store)
    world.elect()
    made = {number: world.index(f"index {number}", [f"of {number}"]) for number in (1, 2, 3)}
    for number in (1, 2, 3):
        world.propose(number, made[number])
        world.commit(number)
    for _ in range(3):
        collecting.clock.hours += 25
        told = RegionStatus(
            region="behind",
            position=3,
            prepared=(1, 99),
            current=1,
            at_ms=collecting.clock.wall_ms(),
        )
        memory_store.put(heartbeat_path("behind"), told.to_bytes())
        assert collecting.run(0.0).kept_releases == (1, 2, 3)
    assert world.holds(made[1].paths)
    collecting.run()
    assert collecting.run().kept_releases == (2, 3)
    assert not world.holds(made[1].paths)


def test_a_claim_that_another_collector_took_is_none(memory_store: ObjectStore) -> None:
    claim_all(memory_store, [World(memory_store).blob("x")])
    (name,) = memory_store.list_names(CLAIMS)

    class AndThenGone(LossyStore):
        def list_objects(self, folder: str) -> list[StoredObject]:
            found = super().list_objects(folder)
            if folder == CLAIMS:
                memory_store.remove(f"{CLAIMS}/{name}")
            return found

    store = AndThenGone(memory_store, scripted())
    assert Collecting(store).run(0.0).removed_objects == 0


def test_what_is_unreferenced_goes_after_the_grace_period(
    world: World, collecting: Collecting, store: ObjectStore
) -> None:
    gone = world.index("gone", ["of gone", "of both"])
    kept = world.index("kept", ["of kept", "of both"])
    newest = world.index("newest", ["of the newest"], position=2)
    orphan = blob_path(world.blob("of nothing").sha256)
    world.propose(1, kept)
    world.commit(1)
    # All is young: not even marked.
    report = collecting.run(0.0)
    assert (report.removed_objects, report.waiting_objects) == (0, 0)
    # Old, but found so for the first time; then for too short a time.
    for hours in (25.0, 12.0):
        report = collecting.run(hours)
        assert (report.removed_objects, report.waiting_objects) == (0, 3)
    dry = collecting.run(13.0, dry_run=True)
    assert dry.dry_run
    assert store.exists(orphan)
    report = collecting.run(0.0)
    assert (report.removed_objects, report.waiting_objects) == (3, 0)
    assert (report.removed_objects, report.removed_bytes) == (
        dry.removed_objects,
        dry.removed_bytes,
    )
    assert not store.exists(orphan)
    assert not store.exists(f"indexes/{CORPUS}/{gone.ref.version}.json")
    assert world.holds(kept.paths)
    assert world.holds(newest.paths)
    assert world.catalog.latest_corpus(CORPUS) is not None
    assert store.list_names(SWEEPS) == []
    assert len(store.list_names(MARKS)) <= 2
    # It can be built again.
    assert world.holds(world.index("gone", ["of gone", "of both"]).paths)


def test_open_proposals_and_newest_versions_stay(memory_store: ObjectStore) -> None:
    world, collecting = World(memory_store), Collecting(memory_store)
    world.elect()
    old_part = world.corpus(1, ["old part", "part"])
    new_parts = world.corpus(2, ["part", "new part"])
    opened, aborted = world.index("open", ["of open"]), world.index("aborted", ["of aborted"])
    newest = world.index("newest", ["of the newest"], position=2, embedder="its own")
    embedder = world.model("its own", [world.blob("its weights")], ModelKind.EMBEDDER)
    other = world.model("another", [world.blob("other weights")], ModelKind.EMBEDDER)
    first = world.model("first", [world.blob("first weights")])
    world.propose(1, aborted)
    world.abort(1)
    world.propose(2, opened)
    for _ in range(2):
        collecting.run()
    for stays in (opened, newest, embedder):
        assert world.holds(stays.paths)
    # Of each kind of model the newest, and those that are needed.
    assert world.holds(other.paths) or world.holds(first.paths)
    assert world.holds(new_parts)
    assert not world.holds(aborted.paths)
    assert not world.holds(old_part - new_parts)
    assert world.catalog.corpus_at(CORPUS, 1).position == 1


def test_the_base_of_a_delta_stays_for_the_model_that_is_made_of_it(
    memory_store: ObjectStore,
) -> None:
    world, collecting = World(memory_store), Collecting(memory_store)
    world.elect()
    whole = world.blob("all weights")
    base = world.model("base", [whole])
    delta = world.blob("the difference")
    made_of = FileDelta(
        base=Blob(sha256=whole.sha256, size_bytes=whole.size_bytes),
        base_version=base.ref.version,
        delta=Blob(sha256=delta.sha256, size_bytes=delta.size_bytes),
    )
    tuned = ArtifactFile(path="weights", sha256="f" * 64, size_bytes=11, delta=made_of)
    index, model = world.index("index", ["of it"]), world.model("tuned", [tuned])
    world.corpus(1, ["part"])
    world.corpus(2, ["part", "another part"])
    world.propose(1, index, model)
    world.commit(1)
    for _ in range(2):
        collecting.run()
    assert not memory_store.exists(f"models/{base.ref.version}.json")
    assert world.holds(model.paths)
    assert memory_store.exists(blob_path(whole.sha256))


def test_what_was_needed_meanwhile_waits_anew(memory_store: ObjectStore) -> None:
    world, collecting = World(memory_store), Collecting(memory_store)
    world.elect()
    made = world.index("made", ["of it"])
    world.corpus(1, ["part"])
    world.corpus(2, ["part", "another part"])
    world.index("newest", ["of the newest"], position=2)
    assert collecting.run().waiting_objects == 2
    world.propose(1, made)
    assert collecting.run(12.0).waiting_objects == 0
    world.abort(1)
    for hours in (13.0, 23.0):
        assert collecting.run(hours).removed_objects == 0
    assert collecting.run(2.0).removed_objects == 2


@pytest.mark.parametrize(("keep", "grace_s"), [(0, GRACE_S), (-1, GRACE_S), (1, 599.0), (1, -1.0)])
def test_too_little_is_refused(memory_store: ObjectStore, keep: int, grace_s: float) -> None:
    with pytest.raises(InvalidArgument):
        StoreCollector(memory_store).collect(keep=keep, grace_s=grace_s)


def test_nothing_goes_while_something_cannot_be_read(memory_store: ObjectStore) -> None:
    world, collecting = World(memory_store), Collecting(memory_store)
    world.elect()
    orphan = blob_path(world.blob("of nothing").sha256)
    collecting.run()
    memory_store.put("models/broken.json", b"{}")
    with pytest.raises(Corrupt, match=r"models/broken\.json"):
        collecting.run()
    memory_store.remove("models/broken.json")
    memory_store.put_if_absent(world.log.path(2), b"{}")
    with pytest.raises(Corrupt, match="release log"):
        collecting.run()
    assert memory_store.exists(orphan)


def test_what_is_no_artifact_stays(memory_store: ObjectStore) -> None:
    collecting = Collecting(memory_store)
    strange = ["artifacts/sha256/ab/readme", "models/notes.txt", "indexes/docs/x.bak", "other/x"]
    for path in strange:
        memory_store.put_if_absent(path, b"x")
    for _ in range(2):
        collecting.run()
    assert all(memory_store.exists(path) for path in strange)


def test_of_two_collections_at_once_one_gives_way(memory_store: ObjectStore) -> None:
    world = World(memory_store)
    world.elect()
    other = Collecting(memory_store)

    class Overtaken(LossyStore):
        """Does what it is asked for only when another collection has been at work."""

        def put_if_absent(self, path: str, data: bytes) -> None:
            other.run(0.0)
            super().put_if_absent(path, data)

    store = Overtaken(memory_store, scripted())
    with pytest.raises(Conflict, match="another collection"):
        StoreCollector(store).collect(keep=1, grace_s=GRACE_S)


class TestWriters:
    """On a store with a clock of its own, so that claims age as objects do."""

    @pytest.fixture
    def clock(self) -> ShiftedClock:
        return ShiftedClock()

    @pytest.fixture
    def store(self, clock: ShiftedClock) -> TimedStore:
        return TimedStore(clock)

    @pytest.fixture
    def world(self, store: TimedStore) -> World:
        world = World(store)
        world.elect()
        return world

    def collect(self, store: TimedStore, clock: ShiftedClock) -> Collected:
        return StoreCollector(store, clock).collect(keep=1, grace_s=GRACE_S)

    def test_a_blob_that_was_found_is_young_again(
        self, world: World, store: TimedStore, clock: ShiftedClock
    ) -> None:
        path = blob_path(world.blob("x").sha256)
        for hours in (25, 12, 12):
            clock.hours += hours
            self.collect(store, clock)
            world.blob("x")
        clock.hours += 23
        self.collect(store, clock)
        assert store.exists(path)
        for _ in range(3):
            clock.hours += 25
            self.collect(store, clock)
        assert not store.exists(path)
        assert store.list_names(CLAIMS) == []

    def test_a_writer_that_is_too_slow_is_told_to_store_again(
        self, world: World, store: TimedStore, clock: ShiftedClock
    ) -> None:
        file = world.blob("of the model")
        for _ in range(2):
            clock.hours += 25
            self.collect(store, clock)
        with pytest.raises(NotFound, match="store it again"):
            world.model("slow", [file])
        assert store.list_names("models") == []
        assert world.holds(world.model("slow", [world.blob("of the model")]).paths)

    def test_a_writer_gives_way_to_a_sweep_but_not_to_one_that_was_killed(
        self, world: World, store: TimedStore, clock: ShiftedClock
    ) -> None:
        file = world.blob("x")
        path = blob_path(file.sha256)
        sweep = Sweep(at_ms=clock.wall_ms(), paths=(path,))
        store.put(f"{SWEEPS}/one.json", sweep.to_bytes())
        with pytest.raises(Unavailable, match="collected"):
            world.model("one", [file])
        clock.hours += 1.1
        claim_all(store, [file], clock=clock)
        for _ in range(2):
            clock.hours += 25
            self.collect(store, clock)
        assert store.list_names(SWEEPS) == []

    def test_a_release_of_what_was_collected_is_refused(
        self, world: World, store: TimedStore, clock: ShiftedClock
    ) -> None:
        made, newer = world.index("made", ["of it"]), world.index("newer", ["of it, too"])
        contents = ReleaseContents(indexes={CORPUS: made.ref})
        manifests = read_manifests(Catalog(store), contents, contents.indexes)
        claim_release(store, contents, manifests)
        store.remove(next(path for path in made.paths if path.startswith("artifacts")))
        with pytest.raises(NotFound, match="store it again"):
            claim_release(store, contents, manifests)
        assert Catalog(store).find_index(CORPUS, newer.ref.version) is not None
        for _ in range(2):
            clock.hours += 25
            self.collect(store, clock)
        with pytest.raises(NotFound):
            claim_release(store, contents, manifests)
