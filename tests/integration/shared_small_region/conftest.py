"""The small region that the test modules of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.environment import environment_restored
from tests.support.regions.canary_region import canary_region
from tests.support.regions.search_region import SearchRegion


@pytest.fixture(scope="package")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchRegion]:
    """Of one node and 32 places, with one replica of each shard, and with releases that are tried
    on some of the traffic.
    """
    folder = tmp_path_factory.mktemp("small")
    with environment_restored(), canary_region(folder, gateways_max=1, in_flight_max=32) as found:
        yield found
