"""The region that the test modules of this folder share, since its model takes a while to start."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.environment import environment_restored
from tests.support.regions.region_fixture import LiveRegion, live_region


@pytest.fixture(scope="package")
def shared_region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegion]:
    with environment_restored(), live_region(tmp_path_factory.mktemp("region")) as region:
        yield region


@pytest.fixture
def http(shared_region: LiveRegion) -> Iterator[httpx.Client]:
    """A client of the region's endpoint, which HAProxy answers."""
    with shared_region.http() as client:
        yield client
