"""What holds for the whole test session: the environment, and the order of the tests."""

from __future__ import annotations

import os
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

# A test says what is right; how long it takes is the machine's affair.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")

# Ray Serve reads this when it is imported, and some test modules import it while they are
# collected, before any cluster could set it.
os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1"

_SHARED_CLUSTERS = (
    "shared_region",
    "shared_search_region",
    "shared_small_region",
    "shared_serve",
)
"""The folders whose test modules share a cluster each."""
_LONGEST_FIRST = (*_SHARED_CLUSTERS, "one_region", "regions", "models", "documents")
"""The folders of tests/integration whose files take longest."""
_CLUSTER_TIMEOUT_S = 900
"""The first test that uses a shared cluster waits until it is up."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """For `-n auto`, by which processes share the unit tests: three for two cores, since a test
    that has a server, a process or a thread of its own mostly waits for it.
    """
    return max(2, len(os.sched_getaffinity(0)) * 3 // 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first; of the others those that take longest, so that the processes which share
    them end together.
    """
    for item in items:
        if _shared_cluster(item.nodeid) is not None:
            item.add_marker(pytest.mark.timeout(_CLUSTER_TIMEOUT_S))
    items.sort(key=lambda item: _rank(item) if _is_integration(item) else -1)


def _is_integration(item: pytest.Item) -> bool:
    return item.get_closest_marker("integration") is not None


def _rank(item: pytest.Item) -> int:
    folder = item.path.parent.name
    return _LONGEST_FIRST.index(folder) if folder in _LONGEST_FIRST else len(_LONGEST_FIRST)


def _shared_cluster(nodeid: str) -> str | None:
    """The folder of tests that share a cluster, if it has this test."""
    folders = nodeid.partition("::")[0].split("/")
    return next((folder for folder in _SHARED_CLUSTERS if folder in folders), None)


class _ByCluster(LoadScopeScheduling):  # type: ignore[misc]
    """Keeps the tests of a cluster in one process: those of a file, those of a shared cluster."""

    def _split_scope(self, nodeid: str) -> str:
        return _shared_cluster(nodeid) or nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """For `--dist loadfile`, by which several processes run integration tests.

    `--dist loadgroup` would need no code, but pytest-xdist 3.8 groups nothing under pytest 9.2.
    """
    return _ByCluster(config, log) if config.getoption("dist") == "loadfile" else None
