"""What a region has loaded: nothing goes under a request, and nothing given up blocks the next."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from typing import cast

import pytest

from actors.coordinator.loading.loaded_release import LoadedRelease
from actors.coordinator.loading.loader import ReleaseLoader
from actors.coordinator.loading.region_releases import RegionReleases
from cluster.errors import (
    Corrupt,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from cluster.generation.prompt import PromptTemplate
from cluster.releases.entries import Release
from cluster.releases.events import Prepared, PrepareFailed
from cluster.serving.view import ReleaseView
from tests.support.fakes import SimClock, contents

WAIT_S = 30.0


class Loader:
    """Loads at once, but for the releases that cannot; remembers what it unloaded."""

    def __init__(self) -> None:
        self.cannot_load: set[int] = set()
        self.cannot_start: set[int] = set()
        """Whose language models do not start, until they are given up."""
        self.error: Exception | None = None
        """Of the next loading."""
        self.starting = threading.Event()
        self.retired: list[tuple[int, set[int]]] = []
        """Each with the releases that were to be kept."""
        self.fails = False
        self.strays_ended: list[set[int]] = []
        """For each time, the releases that were kept."""

    def plan(self, release: Release) -> LoadedRelease:
        view = ReleaseView(
            number=release.number, corpora={}, embedders=(), generator=None, prompt=PromptTemplate()
        )
        return LoadedRelease(view=view, indexes={}, embedder=None, generator=None)

    def load(self, planned: LoadedRelease, give_up: threading.Event) -> LoadedRelease:
        if planned.view.number in self.cannot_load:
            self._wait(give_up)
        if self.error is not None:
            raise self.error
        return planned

    def wait_for_generator(self, loaded: LoadedRelease, give_up: threading.Event) -> None:
        if loaded.view.number in self.cannot_start:
            self._wait(give_up)

    def _wait(self, give_up: threading.Event) -> None:
        self.starting.set()
        assert give_up.wait(WAIT_S)
        raise Unavailable("given up")

    def retire(self, gone: LoadedRelease, kept: Iterable[LoadedRelease]) -> None:
        if self.fails:
            raise Unavailable("Ray does not answer")
        self.retired.append((gone.view.number, {each.view.number for each in kept}))

    def retire_strays(self, kept: Iterable[LoadedRelease]) -> None:
        if self.fails:
            raise Unavailable("Ray does not answer")
        self.strays_ended.append({each.view.number for each in kept})

    def mend(self, loaded: Iterable[LoadedRelease]) -> None: ...

    def resized(self, loaded: LoadedRelease) -> LoadedRelease:
        return loaded


class World:
    def __init__(self) -> None:
        self.loader = Loader()
        self.clock = SimClock()
        self.outcomes: queue.Queue[Prepared | PrepareFailed] = queue.Queue()
        self.retired: list[set[int]] = []
        """The releases that were still loaded each time that one was not to be served any more."""
        self.releases = RegionReleases(
            cast(ReleaseLoader, self.loader), self.clock, self.outcomes.put, self._note_retired
        )

    def _note_retired(self) -> None:
        self.retired.append(set(self.releases.loaded))

    def prepare(self, *numbers: int) -> None:
        for number in numbers:
            self.releases.prepare(Release(number=number, contents=contents()))

    def prepared(self, *numbers: int) -> None:
        self.prepare(*numbers)
        told = {self.outcomes.get(timeout=WAIT_S) for _ in numbers}
        assert told == {Prepared(release=number) for number in numbers}

    def tend_after(self, wait_s: float, *used: int) -> list[int]:
        """What has been unloaded when so much time has passed, while requests use these."""
        self.clock.sleep(wait_s)
        self.releases.report("gateway", frozenset(used))
        self.releases.tend()
        return [number for number, _ in self.loader.retired]


@pytest.fixture
def world() -> World:
    return World()


def test_a_retired_release_is_not_loaded_any_more_and_unloaded_when_nobody_uses_it(
    world: World,
) -> None:
    world.prepared(1, 2)
    world.releases.retire(1)
    assert world.releases.loaded.keys() == {2}
    assert world.retired == [{2}], "so that the next view does not name it"
    assert world.tend_after(100.0, 1, 2) == []
    assert world.tend_after(1.0, 2) == [1]
    assert world.loader.retired == [(1, {2})]
    assert world.tend_after(1000.0, 2) == [1], "once"


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (Corrupt("bytes of another hash"), False),
        (NotFound("no such index"), False),
        (InvalidArgument("made by another embedder"), False),
        (Unavailable("the store timed out"), True),
        (DeadlineExceeded("it took too long"), True),
        (OutcomeUnknown("a lost reply"), True),
        (OSError("no space left"), True),
        (MemoryError(), True),
        (RuntimeError("Ray restarts"), True),
        (TypeError("load() takes 2 arguments"), False),
        (AttributeError("no attribute 'shards'"), False),
        (NameError("name 'np' is not defined"), False),
        (ModuleNotFoundError("No module named 'vllm'"), False),
    ],
)
def test_only_what_no_attempt_puts_right_is_given_up(
    world: World, error: Exception, retryable: bool
) -> None:
    world.loader.error = error
    world.prepare(1)
    told = world.outcomes.get(timeout=WAIT_S)
    assert isinstance(told, PrepareFailed)
    assert told.retryable is retryable
    assert str(error) in told.reason
    world.loader.error = None
    world.prepared(1)
    assert world.releases.loaded.keys() == {1}


def test_what_nobody_foresaw_is_told_by_its_kind_and_in_brief(world: World) -> None:
    world.loader.error = OSError("no space left\n" * 1000)
    world.prepare(1)
    told = world.outcomes.get(timeout=WAIT_S)
    assert isinstance(told, PrepareFailed)
    assert told.reason.startswith("OSError: no space left no space")
    assert len(told.reason) < 600


def test_a_language_model_that_does_not_start_does_not_hold_the_next_release(world: World) -> None:
    world.loader.cannot_start = {1}
    world.prepare(1)
    assert world.loader.starting.wait(WAIT_S)
    world.prepared(2)
    assert world.releases.loaded.keys() == {2}
    assert world.tend_after(1000.0, 2) == [], "it is still waited for"
    world.releases.retire(1)
    # Wanted again, maybe before it was noticed that it is given up.
    world.loader.cannot_start = set()
    world.prepared(1)
    assert world.releases.loaded.keys() == {1, 2}
    assert world.tend_after(1000.0, 2) == []


def test_a_release_that_cannot_load_does_not_block_the_next_past_its_abort(world: World) -> None:
    world.loader.cannot_load = {1}
    world.prepare(1, 2)
    assert world.loader.starting.wait(WAIT_S)
    world.releases.retire(1)
    # Of the one that was given up, nothing is told.
    assert world.outcomes.get(timeout=WAIT_S) == Prepared(release=2)
    assert world.tend_after(10.0) == [1], "what had been loaded of it goes"
    assert world.releases.loaded.keys() == {2}


def test_a_release_that_is_given_up_before_its_turn_is_not_begun(world: World) -> None:
    world.loader.cannot_load = {1, 2}
    world.prepare(1, 2)
    assert world.loader.starting.wait(WAIT_S)
    world.loader.starting.clear()
    for number in (2, 1):
        world.releases.retire(number)
    world.prepared(3)
    assert not world.loader.starting.is_set()


def test_nothing_is_unloaded_while_it_is_being_prepared(world: World) -> None:
    world.loader.cannot_load = {1}
    world.prepared(2)
    world.releases.retire(2)
    world.prepare(1)
    assert world.loader.starting.wait(WAIT_S)
    world.prepare(2)  # It waits for its turn; its parts are there.
    assert world.tend_after(1000.0) == []
    world.releases.retire(1)
    assert world.outcomes.get(timeout=WAIT_S) == Prepared(release=2)
    assert world.tend_after(1000.0) == [1]
    assert world.releases.loaded.keys() == {2}


def test_a_release_that_is_wanted_again_stays(world: World) -> None:
    world.prepared(1)
    world.releases.retire(1)
    world.prepared(1)
    assert world.tend_after(1000.0) == []
    assert world.releases.loaded.keys() == {1}


def test_unloading_that_fails_is_tried_again(world: World) -> None:
    world.prepared(1)
    world.releases.retire(1)
    world.loader.fails = True
    assert world.tend_after(10.0) == []
    world.loader.fails = False
    assert world.tend_after(1.0) == [1]


def test_what_an_earlier_coordinator_left_loaded_goes_once_nobody_uses_it(world: World) -> None:
    world.tend_after(1000.0, 2)
    assert world.loader.strays_ended == [], "nothing is loaded so far"
    world.prepared(2, 3)
    world.loader.cannot_load = {4}
    world.prepare(4)
    assert world.loader.starting.wait(WAIT_S)
    world.tend_after(1.0, 2, 3)
    assert world.loader.strays_ended == [], "one is being prepared"
    world.releases.retire(4)
    world.prepared(3)
    world.tend_after(1.0, 1, 2, 3)
    assert world.loader.strays_ended == [], "a gateway still serves what the earlier one loaded"
    world.tend_after(1.0, 2, 3)
    world.tend_after(1.0, 2, 3)
    assert world.loader.strays_ended == [{2, 3, 4}], "once, with what departs"


def test_a_coordinator_that_has_just_started_hears_all_before_it_ends_strays(world: World) -> None:
    world.prepared(2)
    world.tend_after(30.0, 2)
    assert world.loader.strays_ended == []
    world.loader.fails = True
    with pytest.raises(Unavailable):
        world.tend_after(1.0, 2)
    world.loader.fails = False
    world.tend_after(1.0, 2)
    assert world.loader.strays_ended == [{2}]
