"""The region of a search corpus that the test modules of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.logs.settings import LogFormat, LogSettings
from tests.support.environment import environment_restored
from tests.support.regions.search_region import SearchRegion, search_region, search_settings


@pytest.fixture(scope="package")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchRegion]:
    """Its gateways search by themselves, with actors behind them, and its logs are JSON."""
    folder = tmp_path_factory.mktemp("search")
    settings = search_settings(folder)
    as_json = settings.model_copy(update={"logs": LogSettings(format=LogFormat.JSON)})
    with environment_restored(), search_region(folder, as_json) as found:
        yield found
