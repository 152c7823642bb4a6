"""A coordinator whose store the test may shut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest

from actors.coordinator.coordinator import Coordinator
from cluster.store.object_store import ObjectStore, open_store
from tests.support.node_cache import node_cache
from tests.support.store_fixtures import Door
from tests.support.waiting import wait_until
from tests.support.worlds.coordinator_world import SETTINGS, WAIT_S, Deployer


@pytest.fixture
def store() -> ObjectStore:
    return open_store(f"memory://{uuid4().hex}")


@pytest.fixture
def door(store: ObjectStore) -> Door:
    return Door(store)


@pytest.fixture
def coordinator(door: Door, tmp_path: Path) -> Iterator[Coordinator]:
    opened = cast(ObjectStore, door)
    coordinator = Coordinator(
        SETTINGS,
        "local",
        opened,
        node_cache(opened, tmp_path),
        Deployer(),
        "cluster",
        # A busy machine is no store that hangs.
        refresh_timeout_s=WAIT_S,
    )
    wait_until(lambda: coordinator.log_state().leader == "local")
    yield coordinator
    coordinator.stop()
    door.open.set()
