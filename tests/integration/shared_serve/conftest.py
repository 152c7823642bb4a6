"""The cluster that the test modules of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.environment import environment_restored
from tests.support.regions.joined_cluster import joined_cluster


@pytest.fixture(scope="package")
def serve_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """With Serve, and without a region."""
    folder = tmp_path_factory.mktemp("cluster")
    with environment_restored(), joined_cluster("shared-serve", folder, num_cpus=8):
        yield
