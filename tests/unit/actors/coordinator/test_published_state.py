"""What a coordinator has published is replaced in one piece, and reaches those who wait for it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from actors.coordinator.loading.loaded_release import LoadedRelease
from actors.coordinator.published_state import PublishedState
from cluster.generation.prompt import PromptTemplate
from cluster.releases.entries import LogState
from cluster.releases.events import Prepared
from cluster.serving.view import ReleaseView
from cluster.store.object_store import ObjectStore
from tests.support.fakes import SimClock
from tests.support.regions.one_region import Region
from tests.support.worlds.coordinator_world import WAIT_S


class Publishing:
    """A region that leads, and what it has published."""

    def __init__(self, store: ObjectStore) -> None:
        self.region = Region(store, SimClock())
        self.loaded: dict[int, LoadedRelease] = {}
        self.published = PublishedState(self.region.driver, lambda: self.loaded, self.region.clock)
        self.region.step()

    def load(self) -> int:
        """A release that this region has prepared."""
        number = self.region.propose("a")
        self.region.step()
        view = ReleaseView(
            number=number, corpora={}, embedders=(), generator=None, prompt=PromptTemplate()
        )
        self.loaded[number] = LoadedRelease(view=view, indexes={}, embedder=None, generator=None)
        self.region.driver.observe(Prepared(release=number))
        self.region.step()
        return number


@pytest.fixture
def publishing(store: ObjectStore) -> Publishing:
    return Publishing(store)


def test_nothing_is_told_before_it_is_published(publishing: Publishing) -> None:
    published = publishing.published
    number = publishing.load()
    assert published.state == LogState()
    assert not published.view.releases
    published.publish()
    assert published.state is publishing.region.rollout.state
    assert published.view.releases.keys() == {number}
    assert published.prepared_in == {number: {"a"}}
    assert published.pulse.freshness.position == published.state.position


def test_a_view_has_another_revision_only_when_it_has_changed(publishing: Publishing) -> None:
    published = publishing.published
    first = published.view
    published.publish()
    assert published.view is first
    publishing.load()
    published.publish()
    assert published.view.revision != first.revision


def test_who_waits_for_another_view_gets_it_as_soon_as_it_is_published(
    publishing: Publishing,
) -> None:
    published = publishing.published
    known = published.view.revision
    assert published.wait_for_view(None, 0.0).revision == known
    assert published.wait_for_view(known, 0.0).revision == known, "when the time is over"
    with ThreadPoolExecutor(1) as gateway:
        waiting = gateway.submit(published.wait_for_view, known, 2 * WAIT_S)
        number = publishing.load()
        published.publish()
        assert waiting.result(WAIT_S).releases.keys() == {number}
