"""The region that test modules share: it starts once in a session, since its model takes a while.

Tests that use it run after all others (see tests/conftest.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.integration.region_fixture import LiveRegion, live_region


@pytest.fixture(scope="session")
def shared_region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegion]:
    with live_region(tmp_path_factory.mktemp("region")) as region:
        yield region


@pytest.fixture
def http(shared_region: LiveRegion) -> Iterator[httpx.Client]:
    """A client of the region's endpoint, which HAProxy answers."""
    with shared_region.http() as client:
        yield client
