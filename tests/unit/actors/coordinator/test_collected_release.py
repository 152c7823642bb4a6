"""A release whose manifests were collected as garbage cannot come back."""

from __future__ import annotations

import pytest

from actors.coordinator.coordinator import Coordinator
from cluster.errors import NotFound
from cluster.releases.requests import AbortRelease, RollBackTo
from cluster.store.object_store import ObjectStore
from tests.support.worlds.coordinator_world import propose, published


def test_nobody_rolls_back_to_what_is_gone(coordinator: Coordinator, store: ObjectStore) -> None:
    # For a region that is not here, so that nothing is loaded; given up, so that nothing needs it.
    number = propose(coordinator, published(store), "elsewhere", auto_commit=False)
    coordinator.request(AbortRelease(release=number, reason="only a test"))
    state = coordinator.log_state()
    for folder in ("indexes/c", "models"):
        for name in store.list_names(folder):
            store.remove(f"{folder}/{name}")
    with pytest.raises(NotFound, match="is not in the store"):
        coordinator.request(RollBackTo(release=number))
    assert coordinator.log_state() == state
