"""A slow writer and a collector whose requests to the store come in any order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster.artifacts.fetch import blob_path
from cluster.catalog.catalog import Catalog
from cluster.clock import Clock
from cluster.errors import NotFound, Unavailable
from cluster.releases.contents import claim_release, read_manifests
from cluster.releases.entries import ReleaseContents
from cluster.releases.garbage import StoreCollector
from tests.support.worlds.gc_world import CORPUS, HOUR_MS, Made, TimedStore, World

GRACE_S = 24 * 3600.0
_WAIT_S = 20.0


class StillClock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now_ms = 1_000 * HOUR_MS

    def monotonic_s(self) -> float:
        return self.now_ms / 1000

    def wall_ms(self) -> int:
        return self.now_ms


class Actor:
    """Work in a thread of its own, each of whose requests waits for its turn."""

    def __init__(self, store: TimedStore, work: Callable[[Any], None]) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._waiting: list[str] = []
        """Methods of the store whose requests wait for a turn."""
        self._served = 0
        self._turns = 0
        self._is_free = False
        self.is_done = False
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def step(self) -> bool:
        """One request; whether there was one more."""
        with self._changed:
            self._wait(lambda: self.is_done or bool(self._waiting))
            served = self._served
            self._turns = 1
            self._changed.notify_all()
            self._wait(lambda: self.is_done or self._served > served)
            return self._served > served

    def awaits(self, method: str) -> bool:
        """Whether its next request calls this method of the store."""
        with self._changed:
            self._wait(lambda: self.is_done or bool(self._waiting))
            return method in self._waiting

    def finish(self) -> None:
        """All the rest."""
        with self._changed:
            self._is_free = True
            self._changed.notify_all()
        self._thread.join(_WAIT_S)
        assert self.is_done
        if self.failure is not None:
            raise self.failure

    def __getattr__(self, name: str) -> Any:
        """The store's methods, as this actor sees them."""
        method = getattr(self._store, name)

        def in_turn(*args: Any, **kwargs: Any) -> Any:
            with self._changed:
                self._waiting.append(name)
                self._changed.notify_all()
                self._wait(lambda: self._is_free or self._turns > 0)
                # Under the lock: requests of one actor do not overlap, so that runs repeat.
                try:
                    return method(*args, **kwargs)
                finally:
                    self._turns = 0
                    self._waiting.remove(name)
                    self._served += 1
                    self._changed.notify_all()

        return in_turn

    def _wait(self, condition: Callable[[], bool]) -> None:
        assert self._changed.wait_for(condition, _WAIT_S), "an actor is stuck"

    def _run(self, work: Callable[[Any], None]) -> None:
        try:
            work(self)
        except BaseException as error:
            self.failure = error
        finally:
            with self._changed:
                self.is_done = True
                self._changed.notify_all()


@dataclass
class Told:
    """What the writer was told."""

    published: list[Made] = field(default_factory=list)
    proposed: list[Made] = field(default_factory=list)
    refused: int = 0
    is_in_haste: bool = False
    """From a claim to what names its objects it takes minutes, not days."""


CONTENTS = ("garbage", "own")


def write(store: Any, clock: Clock, told: Told, has_uploaded: bool) -> None:
    """Publishes an index whose blobs are its own and somebody else's garbage; releases it."""
    world = World(store, clock)
    for attempt in range(4):
        if attempt or not has_uploaded:
            for content in CONTENTS:
                world.blob(content)
        told.is_in_haste = True
        try:
            made = world.index("made", CONTENTS, position=1, upload=False)
            told.published.append(made)
            contents = ReleaseContents(indexes={CORPUS: made.ref})
            manifests = read_manifests(Catalog(store), contents, contents.indexes)
            claim_release(store, contents, manifests, clock=clock)
            world.propose(2, made)
            told.proposed.append(made)
            return
        except (NotFound, Unavailable):
            told.refused += 1
        finally:
            told.is_in_haste = False


def prepared(clock: StillClock) -> TimedStore:
    """A store with a release, a newer index, and garbage: the blobs and the very index that the
    writer is going to want.
    """
    store = TimedStore(clock)
    world = World(store)
    world.elect()
    world.corpus(1, ["part"])
    world.corpus(2, ["part", "another"])
    world.propose(1, world.index("first", ["of the first"]))
    world.commit(1)
    world.index("newest", ["of the newest"], position=2)
    world.blob("garbage")
    return store


_HOURS = {"a": 1, "b": 13, "c": 25}


@dataclass(frozen=True)
class Variant:
    has_uploaded: bool
    """The writer did so days ago, and now it only writes the manifest."""
    with_old_index: bool
    """The very index is there, and nobody has needed it for days."""


VARIANTS = [Variant(a, b) for a in (False, True) for b in (False, True)]


def play(script: str, variant: Variant) -> tuple[TimedStore, Told, StillClock, bool]:
    """`w` and `g` are a request of the writer or of the collector, `W` and `G` all of theirs that
    are left, other letters some hours. All that is garbage was marked two days before.

    At last, whether each `w` and `g` had a request.
    """
    clock = StillClock()
    store = prepared(clock)
    if variant.has_uploaded:
        for content in CONTENTS:
            World(store).blob(content)
    if variant.with_old_index:
        World(store).index("made", CONTENTS, position=1)
    clock.now_ms += 25 * HOUR_MS
    StoreCollector(store, clock).collect(keep=1, grace_s=GRACE_S)
    clock.now_ms += 25 * HOUR_MS
    told = Told()

    def collect(seen: Any) -> None:
        for _ in range(2):
            StoreCollector(seen, clock).collect(keep=1, grace_s=GRACE_S)

    writer = Actor(store, lambda seen: write(seen, clock, told, variant.has_uploaded))
    collector = Actor(store, collect)
    all_stepped = True
    for letter in script:
        match letter:
            case "w":
                all_stepped &= writer.step()
            case "g":
                all_stepped &= collector.step()
            case "W":
                writer.finish()
            case "G":
                collector.finish()
            # A request that removes an object takes seconds, and its sweep is heeded for an hour.
            case _ if not collector.awaits("remove") and not told.is_in_haste:
                clock.now_ms += _HOURS[letter] * HOUR_MS
    writer.finish()
    collector.finish()
    return store, told, clock, all_stepped


def check(script: str, variant: Variant) -> bool:
    """Whatever the writer was told is true, and stays true. Returns whether each step of the script
    was one.
    """
    store, told, clock, all_stepped = play(script, variant)
    world = World(store)
    for made in told.proposed:
        assert world.holds(made.paths), "a proposed release has lost what it is made of"
    # While it is open it keeps it, whatever time goes by.
    for _ in range(3):
        clock.now_ms += 25 * HOUR_MS
        StoreCollector(store, clock).collect(keep=1, grace_s=GRACE_S)
    for made in told.proposed:
        assert world.holds(made.paths)
    if not told.proposed:
        # Then nothing is left of it, nor half of it.
        assert not any(world.holds(made.paths) for made in told.published)
    assert store.list_names("gc/sweeps") == []
    return all_stepped


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("script", ["w{}GW", "g{}WG"])
def test_one_is_interrupted_by_all_of_the_other(script: str, variant: Variant) -> None:
    steps = 0
    while check(script[0] * steps + script[3:], variant):
        steps += 1
    print(f"after each of {steps} requests")
    assert steps > 5


@given(
    stretches=st.lists(
        st.tuples(st.sampled_from("wwggabc"), st.integers(1, 40)), min_size=1, max_size=6
    ),
    variant=st.sampled_from(VARIANTS),
)
@example(stretches=[("g", 18), ("g", 40), ("a", 1)], variant=Variant(False, False))
@settings(max_examples=100)
def test_they_take_turns(stretches: list[tuple[str, int]], variant: Variant) -> None:
    check("".join(who * (n if who in "wg" else 1) for who, n in stretches), variant)


def test_in_a_quiet_store_all_garbage_goes() -> None:
    clock = StillClock()
    store = prepared(clock)
    before = set(store.content)
    for _ in range(3):
        clock.now_ms += 25 * HOUR_MS
        StoreCollector(store, clock).collect(keep=1, grace_s=GRACE_S)
    gone = {path for path in before - set(store.content) if not path.startswith("gc/")}
    assert gone == {blob_path(World(store).blob("garbage").sha256)}
