"""Three regions that know of each other, without HTTP between them."""

from __future__ import annotations

import pytest

from tests.support.worlds.regional_world import Region, World


@pytest.fixture
def world() -> World:
    world = World()
    world.add("a", "b", "c")
    return world


@pytest.fixture
def a(world: World) -> Region:
    return world.regions["a"]
