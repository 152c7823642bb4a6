"""`raygion up --watch` brings a region back that lost what it cannot live without."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.chaos.deaths import kill
from tests.support.regions.watched_region import watched_region

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("vital", ["gcs_server", "raylet"])
def test_a_region_that_died_is_brought_back_until_it_is_taken_down(
    tmp_path: Path, vital: str
) -> None:
    with watched_region(tmp_path) as region:
        death = kill(region, vital)
        print(f"\n{death}")
        assert death.wrong == 0
        cluster = region.cluster
        assert cluster is not None
        region.does("down")
        assert region.process.wait(60) == 0
        assert cluster.pids() == []


def test_a_watch_that_is_ended_leaves_the_region_as_it_is(tmp_path: Path) -> None:
    with watched_region(tmp_path) as region:
        os.kill(region.process.pid, signal.SIGTERM)
        region.process.wait(60)
        assert region.ask()
