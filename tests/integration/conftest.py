"""The region that test modules share, and what keeps modules with clusters of their own apart.

The region starts once in a session, since its model takes a while. Tests that use it run after all
others (see tests/conftest.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx
import pytest
import ray

from actors.runtime.ray_environment import reread_environment
from tests.support.regions.region_fixture import LiveRegion, live_region


@pytest.fixture(autouse=True, scope="module")
def _environment_restored() -> Iterator[None]:
    """Whoever joins a cluster sets the environment for it; the next module may start another."""
    before = dict(os.environ)
    yield
    if not ray.is_initialized():
        os.environ.clear()
        os.environ.update(before)
        reread_environment()


@pytest.fixture(scope="session")
def shared_region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegion]:
    with live_region(tmp_path_factory.mktemp("region")) as region:
        yield region


@pytest.fixture
def http(shared_region: LiveRegion) -> Iterator[httpx.Client]:
    """A client of the region's endpoint, which HAProxy answers."""
    with shared_region.http() as client:
        yield client
